//! The commands that talk to a server.

use std::io::{self, Read};

use aryavarth_client::{ClientError, KvsClient};

use crate::args::To;
use crate::output::{Failure, Output};

/// The most that is read from standard input: the largest value that any store takes.
const VALUE_BYTES_MAX: usize = aryavarth::VALUE_BYTES_MAX;
/// Entries that a scan asks for at a time.
const PAGE_ENTRIES: u64 = 1000;

pub(crate) fn get(to: &To, key: &str, output: &Output) -> Result<(), Failure> {
    let value = connect(to)?.get(key.to_owned())?.ok_or(Failure::KeyNotFound)?;
    output.value(key, &value)
}

pub(crate) fn set(to: &To, key: String, value: String) -> Result<(), Failure> {
    let value = if value == "-" { read_value()? } else { value };
    Ok(connect(to)?.set(key, value)?)
}

pub(crate) fn remove(to: &To, key: String) -> Result<(), Failure> {
    Ok(connect(to)?.remove(key)?)
}

pub(crate) fn compact(to: &To) -> Result<(), Failure> {
    Ok(connect(to)?.compact()?)
}

pub(crate) fn scan(
    to: &To,
    prefix: &str,
    limit: Option<u64>,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connect(to)?;
    let mut left = limit.unwrap_or(u64::MAX);
    let mut page_entries = PAGE_ENTRIES;
    let mut after = None;
    while left > 0 {
        let ask = page_entries.min(left);
        let page = match client.scan(prefix.to_owned(), after.clone(), ask) {
            // Large values may not fit a page of this many entries, but fewer may.
            Err(ClientError::Server(_)) if ask > 1 => {
                page_entries = ask / 10 + 1;
                if page_entries == ask {
                    page_entries = 1;
                }
                continue;
            }
            page => page?,
        };
        output.entries(&page)?;
        let count = page.len() as u64;
        left -= count.min(left);
        after = page.into_iter().next_back().map(|(key, _)| key);
        if count < ask {
            break;
        }
    }
    Ok(())
}

fn connect(to: &To) -> Result<KvsClient, Failure> {
    Ok(KvsClient::connect(to.addr.as_str())?)
}

/// The value on standard input, byte for byte.
fn read_value() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let limit = VALUE_BYTES_MAX as u64 + 1;
    io::stdin()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Other(format!("cannot read the value: {error}")))?;
    if bytes.len() > VALUE_BYTES_MAX {
        let message = format!("the value is too large: the limit is {VALUE_BYTES_MAX} bytes");
        return Err(Failure::Other(message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        let message = format!("the value is not UTF-8 text: byte {at}; nothing was changed");
        Failure::Other(message)
    })
}
