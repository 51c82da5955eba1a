//! The keys of a database, in the order of their bytes, over SCAN.
//!
//! SCAN returns each key that stays at least once, in no order that is promised. The keys are
//! collected and sorted here; their values are not.

use aryavarth_client::{ClientError, RedisClient, Value};

use crate::output::Failure;

/// Keys that a page of SCAN asks for.
const PAGE_KEYS: &str = "1000";
/// Beyond twice the limit and this many, keys that do not count any more are dropped.
const SPARE_KEYS: usize = 10_000;

/// The keys that begin with `prefix`, sorted, each once; the first `limit` of them if there is one.
pub(crate) fn collect(
    client: &mut RedisClient,
    prefix: &[u8],
    limit: Option<u64>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut pattern = escaped(prefix);
    pattern.push(b'*');
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut cursor = b"0".to_vec();
    loop {
        let scan = [b"SCAN", &*cursor, b"MATCH", &*pattern, b"COUNT", PAGE_KEYS.as_bytes()];
        let (next, page) = page(client.command(&scan)?)?;
        keys.extend(page);
        if keys.len() > limit.saturating_mul(2).saturating_add(SPARE_KEYS) {
            cut(&mut keys, limit);
        }
        if next == b"0" {
            cut(&mut keys, limit);
            return Ok(keys);
        }
        cursor = next;
    }
}

fn cut(keys: &mut Vec<Vec<u8>>, limit: usize) {
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(limit);
}

/// A page of SCAN: the next cursor, and keys.
fn page(reply: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>), Failure> {
    let unexpected = || ClientError::Protocol("it answered SCAN with something else".to_owned());
    let parts = reply.into_array().ok_or_else(unexpected)?;
    let Ok([cursor, keys]) = <[Value; 2]>::try_from(parts) else { return Err(unexpected().into()) };
    let keys = keys.into_array().ok_or_else(unexpected)?;
    let keys = keys.into_iter().map(|key| key.into_bytes().ok_or_else(unexpected));
    let cursor = cursor.into_bytes().ok_or_else(unexpected)?;
    Ok((cursor, keys.collect::<Result<_, _>>()?))
}

/// A pattern that matches these bytes alone.
fn escaped(text: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(text.len() + 1);
    for byte in text {
        if b"*?[]^\\-".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}
