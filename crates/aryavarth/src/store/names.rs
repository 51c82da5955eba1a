//! Named spaces: a space of keys by a name instead of a number.
//!
//! ```text
//!  space 0 .. 2^31 - 1     numbered: the databases of SELECT are among them
//!  space 2^31              the names: name -> number, and the next number
//!  space 2^31 + 1 ..       named
//! ```
//!
//! Invariants:
//! - A number is given to one name, and never again.
//! - The record of a name stands before all records of its space, so a crash that keeps one of
//!   these keeps the name.

use super::{Keys, KvStore};
use crate::engine::KeyRange;
use crate::error::{KvsError, Result};
use crate::record::check_size;

/// The space of names; named spaces have the numbers behind it.
const NAMES_SPACE: u32 = 1 << 31;
/// The key of the next number, which is no name, since it is not UTF-8.
const NEXT_KEY: &[u8] = b"\xff";
const NAME_BYTES_MAX: usize = 255;

impl KvStore {
    /// A handle of the same store that works in the space with a name, which is made if there is none.
    /// No number that [`with_space`](Self::with_space) takes below 2^31, and so no `SELECT` of a
    /// client, reaches a named space. A name has 1 to 255 bytes.
    ///
    /// Costs one synced write for a new name and one lookup in memory for a known one; keep the
    /// handle rather than to ask for it again.
    ///
    /// # Errors
    /// [`KvsError::InvalidOption`] for an empty name, [`KvsError::TooLarge`] for a longer one, and those
    /// of [`transact`](Self::transact) for a new one.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// let sessions = store.named("sessions")?;
    /// sessions.put(b"k", b"a session")?;
    /// assert_eq!(store.read(b"k")?, None);
    /// assert_eq!(store.named("sessions")?.read(b"k")?, Some(b"a session".to_vec()));
    /// assert_eq!(store.space_names()?, ["sessions"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn named(&self, name: &str) -> Result<KvStore> {
        if let Some(known) = self.find_named(name)? {
            return Ok(known);
        }
        let names = self.with_space(NAMES_SPACE);
        let space = names.transact(&[name.as_bytes(), NEXT_KEY], |transaction| {
            if let Some(number) = transaction.read(name.as_bytes())? {
                return number_of(&number);
            }
            let next = transaction.read(NEXT_KEY)?;
            let next = next.map_or(Ok(NAMES_SPACE + 1), |next| number_of(&next))?;
            let after = next.checked_add(1).ok_or_else(|| {
                KvsError::InvalidOption("no more than 2^31 spaces can be named".to_owned())
            })?;
            transaction.put(name, next.to_le_bytes());
            transaction.put(NEXT_KEY, after.to_le_bytes());
            Ok(next)
        })?;
        Ok(self.with_space(space))
    }

    /// The space with a name, if there is one.
    pub(super) fn find_named(&self, name: &str) -> Result<Option<KvStore>> {
        check_name(name)?;
        let number = self.with_space(NAMES_SPACE).read(name.as_bytes())?;
        number.map(|number| Ok(self.with_space(number_of(&number)?))).transpose()
    }

    /// The names of all named spaces, in order. Costs a read for each page of names; errors as
    /// [`keys`](Self::keys).
    pub fn space_names(&self) -> Result<Vec<String>> {
        let names = Keys::new(self.with_space(NAMES_SPACE), KeyRange::from(..NEXT_KEY));
        let text = |name: Vec<u8>| String::from_utf8(name).map_err(|_bytes| KvsError::NotUtf8);
        names.map(|name| name.and_then(text)).collect()
    }

    /// Removes a named space and all of its keys, and forgets its name; returns whether it existed, when
    /// that is durable. One transaction, however many keys there are. A handle of the space that is
    /// still held goes on with a space that no name leads to, so let go of such handles first.
    ///
    /// # Errors
    /// Those of [`transact`](Self::transact).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// let store = aryavarth::KvStore::open(dir)?;
    /// store.named("old")?.put(b"k", b"v")?;
    /// assert!(store.delete_named("old")? && !store.delete_named("old")?);
    /// assert_eq!(store.named("old")?.read(b"k")?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delete_named(&self, name: &str) -> Result<bool> {
        check_name(name)?;
        let names = self.with_space(NAMES_SPACE);
        names.transact(&[name.as_bytes()], |transaction| {
            let Some(number) = transaction.read(name.as_bytes())? else { return Ok(false) };
            transaction.delete(name);
            transaction.select(number_of(&number)?);
            transaction.clear();
            Ok(true)
        })
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(KvsError::InvalidOption("a space needs a name that is not empty".to_owned()));
    }
    check_size("name", name.len(), NAME_BYTES_MAX)
}

/// The number of a space, as the space of names has it.
fn number_of(bytes: &[u8]) -> Result<u32> {
    let number = <[u8; 4]>::try_from(bytes).map(u32::from_le_bytes);
    number.ok().filter(|number| *number > NAMES_SPACE).ok_or_else(|| {
        KvsError::InvalidOption(format!(
            "space {NAMES_SPACE} is that of names, and a value there is none that the store wrote"
        ))
    })
}
