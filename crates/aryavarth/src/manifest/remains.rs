//! The remains of a damaged manifest, for `verify` and `salvage`.
//!
//! An edit counts if its checksum fits, wherever it lies; those between may be lost.
//!
//! Invariant: nothing is guessed. An edit that does not fit the state is left out and reported as
//! damage.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::edit::{EDIT_HEADER_BYTES, decode, format_of, payload_at};
use super::{Edit, State, current_path, manifest_path, read_current, read_whole};
use crate::error::{KvsError, Result};
use crate::fs::Fs;
use crate::record::padded;
use crate::segment::{FORMAT_VERSION, is_known_format};

/// The edits that are left in a damaged directory's manifests.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// The state that the readable edits add up to.
    pub(crate) state: State,
    /// Segments that an edit dropped.
    pub(crate) dropped: BTreeSet<u64>,
    /// Each damaged place, with its reason; empty if the manifest is whole.
    pub(crate) damage: Vec<(PathBuf, u64, String)>,
}

/// Reads the good edits of the manifest that `CURRENT` names, or else of the newest that has any.
///
/// # Errors
/// [`KvsError::UnknownFormat`]; everything else is damage.
pub(crate) fn load_remains(fs: &dyn Fs, dir: &Path, names: &[String]) -> Result<Remains> {
    let mut remains = Remains::default();
    let number_of = |name: &String| name.strip_prefix("MANIFEST-")?.parse().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number_of).collect();
    numbers.sort_unstable();
    match read_current(fs, dir) {
        Ok(current) => {
            numbers.retain(|&number| number != current);
            numbers.push(current);
        }
        Err(KvsError::Corrupt { path, offset, reason }) => {
            remains.damage.push((path, offset, reason));
        }
        Err(error) => remains.damage.push((current_path(dir), 0, error.to_string())),
    }
    for &number in numbers.iter().rev() {
        let path = manifest_path(dir, number);
        let bytes = match read_whole(fs, &path) {
            Ok(bytes) => bytes,
            Err(error) => {
                remains.damage.push((path, 0, error.to_string()));
                continue;
            }
        };
        if remains.take(&path, &bytes, number)? {
            return Ok(remains);
        }
        remains.damage.push((path, 0, "no edit in it matches its checksum".to_owned()));
    }
    Ok(remains)
}

impl Remains {
    /// Applies all good edits of a manifest; returns whether there were any.
    fn take(&mut self, path: &Path, bytes: &[u8], number: u64) -> Result<bool> {
        let (mut at, mut bad_at, mut any) = (0, None, false);
        while at < bytes.len() {
            let Some(payload) = payload_at(bytes, at, number) else {
                if bytes[at..bytes.len().min(at + 8)].iter().any(|&byte| byte != 0) {
                    bad_at = bad_at.or(Some(at));
                }
                at += 8;
                continue;
            };
            if let Some(found) = format_of(payload)
                && !is_known_format(found)
            {
                let path = path.to_owned();
                return Err(KvsError::UnknownFormat { path, found, known: FORMAT_VERSION });
            }
            for edit in decode(payload).unwrap_or_default() {
                any = true;
                if let Edit::Drop { id } = edit {
                    self.dropped.insert(id);
                }
                // An edit that does not fit follows one that is lost.
                if self.state.apply(&edit).is_err() {
                    bad_at = bad_at.or(Some(at));
                }
            }
            at += padded(EDIT_HEADER_BYTES + payload.len());
        }
        if let Some(at) = bad_at
            && any
        {
            let reason = "an edit does not match its checksum".to_owned();
            self.damage.push((path.to_owned(), at as u64, reason));
        }
        Ok(any)
    }
}
