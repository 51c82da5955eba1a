//! The entry of a fuzzer: whatever the bytes of a file or of an entry are, reading them ends in what was
//! written or in an error.
//!
//! Each function takes any bytes and panics where a property fails. It looks at them twice: as they are, and
//! mended, that is with right checksums, because no fuzzer guesses a checksum. The targets in `fuzz/` call
//! these functions, and so do the tests below, with every input in `fuzz/corpus` and with changed ones. The
//! module exists for these only.
//!
//! Properties of every decoder:
//! - No panic, no endless loop, no allocation that the length of the input does not explain.
//! - Accepted bytes are those that the encoder writes: encoded again, it gives the same bytes.

use std::io;
use std::path::Path;

use aryavarth::fs::{FsFile, IoError, Site};
use bytes::Bytes;

use crate::entry::{Entry, Members};
use crate::identity::Identity;
use crate::raft_log::record::{ALIGN, HEADER_BYTES, Proven, Record, extent, mend};
use crate::raft_log::segment::{FILE_HEADER_BYTES, Scanner};

/// The salt of the inputs' file.
const SALT: u64 = 0xa18f_67d4_db95_243f;

/// Entries and members. The first byte says which.
pub fn raft_entry(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(data);
    let again = match kind & 1 {
        0 => Entry::decode(&bytes).map(|entry| entry.encode()),
        _ => Members::decode(&bytes).map(|members| members.encode()),
    };
    assert!(again.is_none_or(|again| again == bytes), "encoded again, it is the same");
}

/// The node file.
pub fn raft_node(data: &[u8]) {
    let mut mended = data.to_vec();
    if let Some((body, crc)) = mended.split_last_chunk_mut::<4>() {
        *crc = crc32c::crc32c(body).to_le_bytes();
    }
    for bytes in [data, &mended] {
        if let Ok(identity) = Identity::decode(bytes) {
            assert_eq!(identity.encode(), bytes);
        }
    }
}

/// The records of a file, behind its header. The first byte says how the file is read.
pub fn raft_record(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let mut mended = data.to_vec();
    let mut at = 0;
    while let Some(bytes) = mend(&mut mended[at..], SALT, FILE_HEADER_BYTES + at as u64) {
        at += bytes;
    }
    for bytes in [data, &mended] {
        let mut file = vec![0; FILE_HEADER_BYTES as usize];
        file.extend_from_slice(bytes);
        scan(&Input { bytes: file, how });
    }
}

fn scan(input: &Input) {
    let mut scanner = Scanner::new(input, SALT, input.end());
    while let Some((offset, record)) = scanner.next().expect("the input can be read") {
        let mut again = Vec::new();
        record.encode(&mut again, SALT, offset);
        assert_eq!(input.bytes[offset as usize..scanner.offset as usize], again);
    }
    let begin = scanner.offset;
    let (proven, written) = scanner.rest().expect("the input can be read");
    let (mut expected, mut end) = (Proven::default(), begin);
    for at in (begin as usize..input.bytes.len()).step_by(ALIGN) {
        let rest = &input.bytes[at..];
        if rest[..rest.len().min(ALIGN)].iter().any(|byte| *byte != 0) {
            end = (at + rest.len().min(ALIGN)) as u64;
        }
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else { continue };
        let record = rest.get(..extent(header) as usize);
        let record = record.and_then(|bytes| Record::decode(bytes, SALT, at as u64));
        if let Some(Record::Group(place, _)) = record {
            expected = expected.max(place);
        }
    }
    assert_eq!((proven, written), (expected, end));
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
    //! Every input in `fuzz/corpus`, whole, cut short, and with changed bytes.

    use std::fs;

    use super::*;

    /// Changed inputs of each one in the corpus.
    const CHANGED: u64 = 300;

    fn replay(target: &str, run: fn(&[u8])) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).collect();
        assert!(files.len() > 3, "{target} has a corpus");
        let mut state = 0x5eed_u64;
        let mut random = move |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % end.max(1)
        };
        for file in files {
            let bytes = fs::read(file.path()).unwrap();
            // The input that fails is the last one that was named.
            println!("{}", file.path().display());
            run(&bytes);
            for length in 0..bytes.len().min(256) {
                run(&bytes[..length]);
            }
            for _ in 0..CHANGED {
                let mut changed = bytes.clone();
                for _ in 0..=random(3) {
                    let at = random(changed.len());
                    match (changed.get_mut(at), random(4)) {
                        (Some(byte), 0) => *byte = [0, 1, 8, 16, 0x7f, 0xff][random(6)],
                        (Some(byte), 1) => *byte ^= 1 << random(8),
                        (Some(_), 2) => drop(changed.remove(at)),
                        _ => changed.insert(at, random(256) as u8),
                    }
                }
                run(&changed);
            }
        }
    }

    #[test]
    fn the_corpus_of_raft_entry() {
        replay("raft_entry", raft_entry);
    }

    #[test]
    fn the_corpus_of_raft_node() {
        replay("raft_node", raft_node);
    }

    #[test]
    fn the_corpus_of_raft_record() {
        replay("raft_record", raft_record);
    }
}
