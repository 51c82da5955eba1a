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
    let mut pages = Pages::new(connect(to)?, prefix, limit);
    while let Some(page) = pages.next_page()? {
        output.entries(&page)?;
    }
    Ok(())
}

/// The pairs of a scan, as many at a time as fit a reply.
pub(crate) struct Pages {
    client: KvsClient,
    prefix: String,
    after: Option<String>,
    page_entries: u64,
    /// How many more are wanted; 0 also when there are no more.
    left: u64,
}

impl Pages {
    pub(crate) fn new(client: KvsClient, prefix: &str, limit: Option<u64>) -> Pages {
        let left = limit.unwrap_or(u64::MAX);
        let prefix = prefix.to_owned();
        Pages { client, prefix, after: None, page_entries: PAGE_ENTRIES, left }
    }

    pub(crate) fn next_page(&mut self) -> Result<Option<Vec<(String, String)>>, Failure> {
        while self.left > 0 {
            let ask = self.page_entries.min(self.left);
            let page = match self.client.scan(self.prefix.clone(), self.after.clone(), ask) {
                // Large values may not fit a page of this many entries, but fewer may.
                Err(ClientError::Server(_)) if ask > 1 => {
                    self.page_entries = (ask / 10).max(1);
                    continue;
                }
                page => page?,
            };
            let count = page.len() as u64;
            self.left = if count < ask { 0 } else { self.left - count };
            self.after = page.last().map(|(key, _)| key.clone());
            return Ok(Some(page));
        }
        Ok(None)
    }
}

pub(crate) fn connect(to: &To) -> Result<KvsClient, Failure> {
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
