//! The fuzzer's entry: whatever a server sends, reading a reply ends in a value or in an error.
//!
//! [`reply`] takes any bytes and panics where a property fails. The target `fuzz/fuzz_targets/reply.rs`
//! calls it, and so do the tests below, with every input in `fuzz/corpus/reply` and with changed ones.
//! The module exists for these only.
//!
//! Properties:
//! - The same bytes mean the same, however they are cut into pieces on their way.
//! - A reply that is cut short is never another reply.
//! - A value has no more bytes and items than arrived: no announced length takes memory.
//! - A value that is written is read as the same.

use std::io::{BufRead, BufReader, ErrorKind};

use crate::value::{Value, read};

/// Cuts that are tried of one reply.
const CUTS_MAX: usize = 64;

/// Reads all replies in the bytes. The first byte says how long the pieces are in which they arrive.
pub fn reply(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let mut whole = data;
    let mut pieces = BufReader::with_capacity(usize::from(how) + 1, data);
    loop {
        let before = whole;
        let (one, other) = (read(&mut whole), read(&mut pieces));
        let value = match (one, other) {
            (Ok(value), Ok(other)) => {
                assert_eq!(value, other, "in pieces of {how}");
                value
            }
            (Err(one), Err(other)) => return assert_eq!(one.kind(), other.kind()),
            (one, other) => panic!("{one:?}, and in pieces {other:?}"),
        };
        let taken = &before[..before.len() - whole.len()];
        let (bytes, items) = size(&value);
        assert!(bytes <= taken.len() * 3 && items <= taken.len(), "{bytes} bytes, {items} items");
        for end in (0..taken.len()).take(CUTS_MAX) {
            let cut = read(&mut &taken[..end]);
            let kind = cut.as_ref().map_err(std::io::Error::kind);
            assert_eq!(kind.err(), Some(ErrorKind::UnexpectedEof), "{end}: {cut:?}");
        }
        let mut written = Vec::new();
        write(&value, &mut written);
        let mut again = &*written;
        assert_eq!(read(&mut again).ok().as_ref(), Some(&value), "{}", written.escape_ascii());
        assert!(again.is_empty() && pieces.fill_buf().is_ok());
    }
}

/// The bytes and the items of a value. A byte that is no text shows as three.
fn size(value: &Value) -> (usize, usize) {
    match value {
        Value::Null | Value::Integer(_) => (0, 1),
        Value::Status(text) | Value::Error(text) => (text.len(), 1),
        Value::Bytes(bytes) => (bytes.len(), 1),
        Value::Array(all) => {
            all.iter().map(size).fold((0, 1), |sum, one| (sum.0 + one.0, sum.1 + one.1))
        }
    }
}

/// A value as a server writes it.
fn write(value: &Value, out: &mut Vec<u8>) {
    let line = |kind: char, text: &str| format!("{kind}{text}\r\n").into_bytes();
    match value {
        Value::Null => out.extend_from_slice(b"$-1\r\n"),
        Value::Status(text) => out.extend(line('+', text)),
        Value::Error(text) => out.extend(line('-', text)),
        Value::Integer(number) => out.extend(line(':', &number.to_string())),
        Value::Bytes(bytes) => {
            out.extend(line('$', &bytes.len().to_string()));
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
        }
        Value::Array(all) => {
            out.extend(line('*', &all.len().to_string()));
            for item in all {
                write(item, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Changed inputs that are tried unless `FUZZ_INPUTS` says how many.
    const INPUTS: u64 = 20_000;
    /// Bytes that a reply is made of, which a random byte seldom is.
    const LIKELY: &[u8] = b"+-:$*\r\n0123456789";

    fn corpus() -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/reply");
        let mut files: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 3, "there is a corpus");
        files.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn the_corpus_of_reply() {
        for bytes in corpus() {
            for length in 0..=bytes.len() {
                reply(&bytes[..length]);
            }
        }
    }

    #[test]
    fn changed_inputs_of_reply() {
        let inputs = std::env::var("FUZZ_INPUTS").ok().and_then(|n| n.parse().ok());
        let corpus = corpus();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 16).unwrap() % below.max(1)
        };
        for _ in 0..inputs.unwrap_or(INPUTS) {
            let mut input = corpus[random(corpus.len())].clone();
            for _ in 0..=random(4) {
                let at = random(input.len());
                match random(4) {
                    0 => input.truncate(at),
                    1 => input.insert(at, LIKELY[random(LIKELY.len())]),
                    2 => input.extend_from_slice(&corpus[random(corpus.len())]),
                    _ => {
                        if let Some(byte) = input.get_mut(at) {
                            *byte ^= 1 << random(8);
                        }
                    }
                }
            }
            // The test's output names the input that fails.
            let shown = input.escape_ascii().to_string();
            let done = std::panic::catch_unwind(|| reply(&input));
            assert!(done.is_ok(), "it fails with {shown}");
        }
    }
}
