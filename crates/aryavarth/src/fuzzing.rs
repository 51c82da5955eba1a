//! The entry of a fuzzer: whatever the bytes of a file are, reading them ends in the data written
//! or in an error.
//!
//! Each function takes any bytes and panics where a property fails. It looks at them twice: as they
//! are, and mended, that is with right checksums, because no fuzzer guesses a checksum and all that
//! lies behind one would stay unseen. The targets in `fuzz/` call these functions, and so does the
//! test below, with every input in `fuzz/corpus`. The module exists for the two of them only.
//!
//! Properties of every decoder:
//! - No panic, no endless loop, no allocation that the length of the input does not explain.
//! - Accepted bytes are those that an encoder writes: encoded again, it gives the same bytes.

use std::io;
use std::path::Path;

use crate::fs::{FsFile, IoError, Site};
use crate::hint;
use crate::manifest;
use crate::record::{self, ALIGN, Extra, Frame, HEADER_BYTES, Header, Kind, MARK_BYTES, Mark};
use crate::segment::{ScanStop, Scanned, Scanner, SegmentHeader};

/// The owner of the inputs: a segment's salt, the number of a manifest or segment, a segment's
/// end.
const SALT: u64 = 0xa18f_67d4_db95_243f;
const NUMBER: u64 = 1;
const END: u64 = 1 << 20;

/// Records: scanned, stepped over where they are bad, encoded again. The first byte says how the
/// file behaves.
pub fn record(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let mut mended = data.to_vec();
    let mut at = Some(0);
    while let Some(begin) = at {
        at = record::mend(&mut mended, begin, SALT);
    }
    for bytes in [data, &mended] {
        scan(&Input { bytes: bytes.to_vec(), how });
    }
    if let Some(mut header) = data.first_chunk().copied() {
        SegmentHeader::mend(&mut header);
        if let Some(header) = SegmentHeader::decode(&header) {
            assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
        }
    }
}

/// Scans a whole input.
fn scan(input: &Input) {
    // The end may lie beyond the file, when it is cut meanwhile.
    let end = input.end() + u64::from(input.how & 1) * 4096;
    let mut scanner = Scanner::new(input, SALT, 0, end);
    let mut next = 0;
    loop {
        let bad = match scanner.next() {
            Ok(None) => break,
            Ok(Some(found)) => {
                assert_eq!(found.offset, next, "records lie back to back");
                next += found.header.record_bytes() as u64;
                assert!(next <= end, "a record ends within the range");
                let at = found.offset as usize;
                let payload_end = at + HEADER_BYTES + found.header.payload_bytes();
                assert_eq!(encoded(&found), &input.bytes[at..payload_end]);
                continue;
            }
            Err(ScanStop::Bad { offset, .. }) => offset,
            Err(ScanStop::Io(error)) => panic!("{error}"),
        };
        assert_eq!(bad, next, "damage is named where it is");
        if scanner.is_over() && bad == scanner.offset() {
            // The file ends here, before the range does.
            break;
        }
        scanner.step_over(bad).expect("the input can be read");
        next = scanner.offset();
        assert!(next > bad, "the scan goes on");
    }
}

/// A record as the encoders write it, padding apart.
fn encoded(found: &Scanned<'_>) -> Vec<u8> {
    let Header { seq, kind, last, .. } = found.header;
    let extra = found.extra;
    let mut bytes = if kind == Kind::Mark {
        let mut bytes = vec![0; MARK_BYTES];
        let mark = Mark::decode(found.value).expect("a mark's value is a mark");
        mark.encode(&mut bytes, seq, SALT, found.offset);
        bytes
    } else {
        let mut frame = Frame::new(0, 0);
        frame.push(extra, found.key, (kind == Kind::Put).then_some(found.value));
        if !last {
            frame.push(Extra::default(), b"the next one of the frame", None);
        }
        frame.place(seq, SALT, found.offset);
        frame.with_front(0).to_vec()
    };
    bytes.truncate(HEADER_BYTES + found.header.payload_bytes());
    bytes
}

/// Marks: the search for them, which decides about a torn tail, finds the marks that their encoder
/// may have written at any place, and nothing else. The first byte says how the file behaves.
pub fn mark(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let mut mended = data.to_vec();
    for at in (0..data.len()).step_by(ALIGN) {
        if mended.get(at + 8) == Some(&(Kind::Mark as u8)) {
            record::mend(&mut mended, at, SALT);
        }
    }
    for bytes in [data, &mended] {
        let input = Input { bytes: bytes.to_vec(), how };
        let mut scanner = Scanner::new(&input, SALT, 0, input.end());
        let mut found = Vec::new();
        while let Some(mark) = scanner.find_mark().expect("the input can be read") {
            found.push(mark);
        }
        let places = (0..bytes.len()).step_by(ALIGN);
        let marks = places.filter_map(|at| Some(mark_at(bytes.get(at..)?.first_chunk()?, at)));
        assert_eq!(found, marks.flatten().collect::<Vec<_>>());

        let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |i| i as u64 + 1);
        let mut scanner = Scanner::new(&input, SALT, 0, input.end());
        assert_eq!(scanner.written_after(0).expect("the input can be read"), written);
    }
}

/// The mark that an encoder wrote at `at`, if one did.
fn mark_at(bytes: &[u8; MARK_BYTES], at: usize) -> Option<Mark> {
    let mark = Mark::decode(&bytes[HEADER_BYTES..])?;
    let mut same = [0; MARK_BYTES];
    mark.encode(&mut same, record::u64_at(bytes, 8) >> 8, SALT, at as u64);
    (same == *bytes).then_some(mark)
}

/// Manifests, and the line in `CURRENT`: accepted bytes lead to the same state when they are
/// written anew.
pub fn manifest(data: &[u8]) {
    let path = Path::new("MANIFEST-1");
    let mut mended = data.to_vec();
    let mut at = Some(0);
    while let Some(begin) = at {
        at = manifest::mend(&mut mended, begin, NUMBER);
    }
    for bytes in [data, &mended] {
        if let Ok(mut state) = manifest::replay(path, bytes, NUMBER) {
            let anew = manifest::replay(path, &state.encode(NUMBER), NUMBER);
            // Written as an edit of its own, by the close of the store.
            state.clean = false;
            assert_eq!(anew.expect("what a store writes can be read"), state);
        }
    }
    if let Some(number) = manifest::current_number(data) {
        assert_eq!(manifest::current_line(number).as_bytes(), data);
    }
}

/// Hint files: accepted bytes are those that the encoder writes, and every key lies in it.
pub fn hint(data: &[u8]) {
    let mut mended = data.to_vec();
    hint::mend(&mut mended);
    for bytes in [data, &mended] {
        if let Some(places) = hint::decode(bytes.to_vec(), NUMBER, SALT, END) {
            let ends = places.iter().map(|(_, place)| place.offset + place.bytes);
            assert!(ends.max() <= Some(END), "a record lies in the segment");
            // An entry of version 1 is written as version 2 writes it.
            let mut anew = hint::encode(&places, NUMBER, SALT, END);
            anew[4] = bytes[4];
            hint::mend(&mut anew);
            assert_eq!(anew, *bytes);
        }
    }
}

/// A file with an input in it.
#[derive(Debug)]
struct Input {
    bytes: Vec<u8>,
    /// How many bytes a read gives at once.
    how: u8,
}

impl Input {
    fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn refused<T>(&self, site: Site) -> Result<T, IoError> {
        let source = io::ErrorKind::Unsupported.into();
        Err(IoError { site, path: self.path().to_owned(), source })
    }
}

impl FsFile for Input {
    fn path(&self) -> &Path {
        Path::new("input")
    }

    fn read_at(&self, _: Site, buf: &mut [u8], offset: u64) -> Result<usize, IoError> {
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let most = if self.how & 2 == 0 { rest.len() } else { usize::from(self.how) };
        let length = rest.len().min(buf.len()).min(most);
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&self, site: Site, _: &[u8], _: u64) -> Result<usize, IoError> {
        self.refused(site)
    }

    fn allocate(&self, site: Site, _: u64) -> Result<(), IoError> {
        self.refused(site)
    }

    fn truncate(&self, site: Site, _: u64) -> Result<(), IoError> {
        self.refused(site)
    }

    fn sync(&self, site: Site) -> Result<(), IoError> {
        self.refused(site)
    }

    fn len(&self, _: Site) -> Result<u64, IoError> {
        Ok(self.end())
    }

    fn allocated(&self, _: Site) -> Result<u64, IoError> {
        Ok(self.end())
    }
}

#[cfg(test)]
mod tests {
    //! Every input in `fuzz/corpus`: the finds of fuzzers, and their first inputs.
    #![expect(clippy::disallowed_methods, reason = "inputs come from the sources")]

    use std::fs;

    use super::*;

    fn replay(target: &str, run: fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(files.len() > 3, "{target} has a corpus");
        for file in files {
            let bytes = fs::read(file.path()).unwrap();
            // Whichever fails is the last that was named.
            println!("{}", file.path().display());
            run(&bytes);
            // Cut short, every input is another one.
            for length in 0..bytes.len().min(256) {
                run(&bytes[..length]);
            }
        }
    }

    #[test]
    fn the_corpus_of_record() {
        replay("record", record);
    }

    #[test]
    fn the_corpus_of_mark() {
        replay("mark", mark);
    }

    #[test]
    fn the_corpus_of_manifest() {
        replay("manifest", manifest);
    }

    #[test]
    fn the_corpus_of_hint() {
        replay("hint", hint);
    }
}
