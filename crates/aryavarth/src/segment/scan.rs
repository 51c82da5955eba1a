//! Scans: a segment's records in order, a window at a time, each verified.
//!
//! Invariants:
//! - A record that a scan hands out was verified in that very copy.
//! - A scan takes a window of memory; only a record that is handed out whole may take more.
//! - A *patient* scan goes on behind a place that the disk cannot read: it reads as zeros, no
//!   record, and is noted.
//! - A file that is shorter than was expected is damage, also where it ends with a whole record.
//!   Only a patient scan ends there, and says by its offset that it is not at the end of its range.

use std::fmt;
use std::ops::Range;

use crate::fs::{FsFile, IoError, Site, read_full};
use crate::record::{ALIGN, Extra, HEADER_BYTES, Header, Kind, MARK_BYTES, Mark, Parts};

/// The bytes that a scan reads at a time; little under a fuzzer, whose inputs are to cross windows.
const WINDOW_BYTES: usize = if cfg!(any(test, fuzzing)) { 256 } else { 1 << 20 };
/// The bytes that the disk is asked for in advance, so that it works while a window is verified.
const AHEAD_BYTES: u64 = 4 << 20;
/// Of a window that cannot be read as a whole, the pieces that are tried one by one.
const PIECE_BYTES: usize = 4096;

/// A record met by a [`Scanner`], verified.
pub(crate) struct Scanned<'a> {
    pub(crate) offset: u64,
    pub(crate) header: Header,
    /// All of it, as a copy needs it.
    pub(crate) payload: &'a [u8],
    pub(crate) extra: Extra,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A record met by a [`Scanner`] and verified, without key and value.
pub(crate) struct Checked {
    pub(crate) offset: u64,
    pub(crate) header: Header,
    pub(crate) generation: u64,
}

/// The fields of a damaged record.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) header: Header,
    pub(crate) generation: u64,
    pub(crate) key: Vec<u8>,
}

/// Why a scan cannot go on.
#[derive(Debug)]
pub(crate) enum ScanStop {
    /// There is no valid record at this offset.
    Bad {
        offset: u64,
        reason: &'static str,
    },
    Io(IoError),
}

impl From<IoError> for ScanStop {
    fn from(error: IoError) -> Self {
        ScanStop::Io(error)
    }
}

/// Reads a file's records in order, a window at a time, verifying each.
pub(crate) struct Scanner<'a> {
    file: &'a dyn FsFile,
    salt: u64,
    offset: u64,
    end: u64,
    /// Whether the file ended before the range did; then `end` is where.
    is_cut: bool,
    window: Vec<u8>,
    window_at: u64,
    /// Up to where the disk was asked.
    asked: u64,
    /// The places that a patient scan could not read; `None` if it is not patient.
    unreadable: Option<Vec<Range<u64>>>,
}

impl fmt::Debug for Scanner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scanner at {} of {}", self.offset, self.file.path().display())
    }
}

impl<'a> Scanner<'a> {
    /// A scan of the records in `from..end`.
    pub(crate) fn new(file: &'a dyn FsFile, salt: u64, from: u64, end: u64) -> Scanner<'a> {
        Scanner {
            file,
            salt,
            offset: from,
            end,
            is_cut: false,
            window: Vec::new(),
            window_at: from,
            asked: from,
            unreadable: None,
        }
    }

    /// The same, but it goes on behind a place that the disk cannot read.
    pub(crate) fn patient(file: &'a dyn FsFile, salt: u64, from: u64, end: u64) -> Scanner<'a> {
        Scanner { unreadable: Some(Vec::new()), ..Scanner::new(file, salt, from, end) }
    }

    /// The next record; `None` at the end of the range.
    pub(crate) fn next(&mut self) -> Result<Option<Scanned<'_>>, ScanStop> {
        let Some((offset, header)) = self.head()? else {
            return Ok(None);
        };
        let record = self.bytes(offset, HEADER_BYTES + header.payload_bytes())?;
        let payload = record.get(HEADER_BYTES..).unwrap_or_default();
        match header.parts(payload).filter(|_| header.vouches_for(payload)) {
            Some(Parts { extra, key, value }) => {
                Ok(Some(Scanned { offset, header, payload, extra, key, value }))
            }
            None => Err(bad_payload(offset)),
        }
    }

    /// The next record, verified but not handed out: place, header and generation. `key` becomes its
    /// key. However large the record is, this takes no more memory than the window and the key.
    pub(crate) fn check(&mut self, key: &mut Vec<u8>) -> Result<Option<Checked>, ScanStop> {
        let Some((offset, header)) = self.head()? else {
            return Ok(None);
        };
        key.clear();
        let front_bytes = header.extra_bytes() + header.key_bytes;
        let (mut crc, mut at) = (0, offset + HEADER_BYTES as u64);
        let end = at + header.payload_bytes() as u64;
        while at < end {
            let piece = self.bytes(at, WINDOW_BYTES.min((end - at) as usize))?;
            if piece.is_empty() {
                break;
            }
            crc = crc32c::crc32c_append(crc, piece);
            at += piece.len() as u64;
            let of_front = piece.len().min(front_bytes - key.len());
            key.extend_from_slice(&piece[..of_front]);
        }
        let extra = Extra::decode(key, header.has_deadline, header.has_generation);
        match extra {
            Some(extra) if at == end && header.vouches_for_crc(crc) => {
                key.drain(..header.extra_bytes());
                Ok(Some(Checked { offset, header, generation: extra.generation }))
            }
            _ => Err(bad_payload(offset)),
        }
    }

    /// The header of the next record, which is then behind the scan; `None` at the end.
    fn head(&mut self) -> Result<Option<(u64, Header)>, ScanStop> {
        let offset = self.offset;
        let bad = |reason| Err(ScanStop::Bad { offset, reason });
        if self.is_over() {
            let is_expected = !self.is_cut || self.unreadable.is_some();
            return if is_expected { Ok(None) } else { bad("the file ends here") };
        }
        if self.end - offset < HEADER_BYTES as u64 {
            return bad("the file ends inside a record's header");
        }
        let Some(header) = self.header_at(offset)? else {
            return bad("the record's header does not match its checksum");
        };
        if header.record_bytes() as u64 > self.end - offset {
            return bad("the file ends inside a record");
        }
        self.offset += header.record_bytes() as u64;
        Ok(Some((offset, header)))
    }

    /// The header of a record at `offset`, if there is one.
    fn header_at(&mut self, offset: u64) -> Result<Option<Header>, IoError> {
        let salt = self.salt;
        let first = self.bytes(offset, HEADER_BYTES)?;
        // The kind is looked at first: of places that are no record nearly all fail there, and a
        // checksum costs more.
        let first = first.first_chunk().filter(|bytes| (1..=3).contains(&bytes[8]));
        Ok(first.and_then(|bytes| Header::decode(bytes, salt, offset)))
    }

    /// The fields of a bad record at `offset`: its header, if that is right, and the bytes where
    /// its generation's number and its key were, which nothing vouches for.
    pub(crate) fn remains_at(&mut self, offset: u64) -> Result<Option<Remains>, IoError> {
        if self.end.saturating_sub(offset) < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let Some(header) = self.header_at(offset)? else {
            return Ok(None);
        };
        let at = offset + HEADER_BYTES as u64;
        let front_bytes = header.extra_bytes() + header.key_bytes;
        let front_bytes = front_bytes.min(self.end.saturating_sub(at) as usize);
        let front = if front_bytes == 0 { &[] } else { self.bytes(at, front_bytes)? };
        let extra = Extra::decode(front, header.has_deadline, header.has_generation);
        let key = front.get(header.extra_bytes()..).unwrap_or_default().to_vec();
        Ok(Some(Remains { header, generation: extra.unwrap_or_default().generation, key }))
    }

    /// Looks at every possible place from here on for a mark, and goes on behind it. For telling a
    /// torn tail from rot, where records cannot be followed.
    pub(crate) fn find_mark(&mut self) -> Result<Option<Mark>, IoError> {
        self.offset = self.offset.next_multiple_of(ALIGN as u64);
        while self.offset + MARK_BYTES as u64 <= self.end {
            let (offset, salt) = (self.offset, self.salt);
            self.offset += ALIGN as u64;
            let bytes = self.bytes(offset, MARK_BYTES)?;
            // The kind is looked at first: nearly all places fail there, and a checksum costs more.
            let header = bytes.first_chunk().filter(|bytes| bytes[8] == Kind::Mark as u8);
            let header = header.and_then(|bytes| Header::decode(bytes, salt, offset));
            if let Some(header) = header
                && let Some(payload) = bytes.get(HEADER_BYTES..)
                && header.vouches_for(payload)
                && let Some(mark) = Mark::decode(payload)
            {
                return Ok(Some(mark));
            }
        }
        Ok(None)
    }

    /// Where the scan is.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether there is nothing left to read: the range ends here, or the file.
    pub(crate) fn is_over(&self) -> bool {
        self.offset >= self.end
    }

    /// Goes on behind a bad record: at the next place that has a record's header.
    pub(crate) fn step_over(&mut self, bad: u64) -> Result<(), IoError> {
        self.offset = self.offset.max(bad + ALIGN as u64).next_multiple_of(ALIGN as u64);
        while self.offset + HEADER_BYTES as u64 <= self.end {
            if self.header_at(self.offset)?.is_some() {
                return Ok(());
            }
            self.offset += ALIGN as u64;
        }
        self.offset = self.end;
        Ok(())
    }

    /// How many bytes from `from` on are there before only zeros follow.
    pub(crate) fn written_after(&mut self, from: u64) -> Result<u64, IoError> {
        let (mut at, mut last) = (from, from);
        while at < self.end {
            let length = WINDOW_BYTES.min((self.end - at) as usize);
            let bytes = self.bytes(at, length)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(i) = bytes.iter().rposition(|&byte| byte != 0) {
                last = at + i as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(last - from)
    }

    /// Whether a patient scan found bytes in `range` that the disk cannot read.
    pub(crate) fn is_unreadable(&self, range: &Range<u64>) -> bool {
        let unreadable = self.unreadable.as_deref().unwrap_or_default();
        unreadable.iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    /// `length` bytes at `offset`, or fewer where the file ends. The caller has bounded `length`
    /// by the file's length.
    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], IoError> {
        let inside = offset >= self.window_at
            && offset + length as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let window = length.max(WINDOW_BYTES).min((self.end - offset) as usize);
            self.window.resize(window, 0);
            self.window_at = offset;
            self.ask_ahead(offset + window as u64);
            match read_full(self.file, Site::SegmentScan, &mut self.window, offset) {
                Ok(got) => {
                    self.window.truncate(got);
                    if got < window {
                        self.ends_at(offset + got as u64);
                    }
                }
                Err(_) if self.unreadable.is_some() => self.fill_by_pieces(),
                Err(error) => {
                    self.window.clear();
                    return Err(error);
                }
            }
        }
        let at = (offset - self.window_at) as usize;
        Ok(&self.window[at..(at + length).min(self.window.len())])
    }

    /// The file ends there, whatever was expected of it.
    fn ends_at(&mut self, end: u64) {
        (self.end, self.is_cut) = (end, true);
    }

    /// Has the disk begin with the bytes behind the window that ends at `to`.
    fn ask_ahead(&mut self, to: u64) {
        let wanted = (to + AHEAD_BYTES).min(self.end);
        // In large pieces, as each is a call.
        if self.asked < self.end && self.asked < to + AHEAD_BYTES / 2 {
            let from = self.asked.max(to);
            if from < wanted {
                self.file.will_need(from, wanted - from);
            }
            self.asked = wanted;
        }
    }

    /// Reads the window piece by piece, with zeros for those that cannot be read.
    fn fill_by_pieces(&mut self) {
        let mut at = 0;
        while at < self.window.len() {
            let offset = self.window_at + at as u64;
            // Pieces end where the disk's own do, so that one bad block costs one piece.
            let to_block = PIECE_BYTES - offset as usize % PIECE_BYTES;
            let end = (at + to_block).min(self.window.len());
            let piece = &mut self.window[at..end];
            match read_full(self.file, Site::SegmentScanPiece, piece, offset) {
                Ok(got) if got < piece.len() => {
                    self.window.truncate(at + got);
                    self.ends_at(offset + got as u64);
                    return;
                }
                Ok(_) => {}
                Err(_) => {
                    piece.fill(0);
                    let range = offset..offset + piece.len() as u64;
                    self.unreadable.get_or_insert_default().push(range);
                }
            }
            at = end;
        }
    }
}

fn bad_payload(offset: u64) -> ScanStop {
    ScanStop::Bad { offset, reason: "the record's payload does not match its checksum" }
}
