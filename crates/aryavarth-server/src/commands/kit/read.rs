//! The keys as a command that only looks sees them: the store as it is, or a transaction.
//!
//! Invariants:
//! - A look at the store as it is gathers the position of all that was seen.
//! - A [`Reader`] that must not wait fails with [`Failure::WouldBlock`], or with the engine's error of
//!   that name, rather than wait.

use aryavarth::{Count, Deadline, KeyRange, KvsEngine, Now, Position, Stored, Transaction, Wait};

use crate::budget::Allowance;
use crate::commands::kit::failure::Failure;

/// Keys to look at, in one space.
pub(crate) trait Read {
    /// The clocks that deadlines are by.
    fn now(&self) -> Now;

    /// By how many milliseconds the machine's clock is ahead of the store's.
    fn clock_offset_ms(&self) -> i64;

    /// Before work that takes long.
    ///
    /// # Errors
    /// [`Failure::WouldBlock`] if the thread has others to serve.
    fn begin_long(&self) -> Result<(), Failure>;

    /// Takes room for a reply that has so many bytes already, before more is gathered for it.
    ///
    /// # Errors
    /// [`Failure::NoRoom`] if the replies of all clients leave none.
    fn reserve(&mut self, bytes: usize) -> Result<(), Failure>;

    /// A key's value and deadline.
    fn find(&mut self, key: &[u8]) -> Result<Option<Stored>, Failure>;

    /// A key's deadline, if there is such a key.
    fn deadline(&mut self, key: &[u8]) -> Result<Option<Deadline>, Failure>;

    /// The first keys of a range, at most `limit`; fewer only if there are no more.
    fn keys(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>, Failure>;

    /// One step of a walk through all keys, about `limit` of them, and the cursor of the next one;
    /// 0 at the end.
    fn walk(&mut self, cursor: u64, limit: usize) -> Result<(Vec<Vec<u8>>, u64), Failure>;

    /// How many keys there are.
    fn count(&mut self) -> Result<Count, Failure>;
}

impl Read for Transaction<'_> {
    fn now(&self) -> Now {
        Transaction::now(self)
    }

    fn clock_offset_ms(&self) -> i64 {
        Transaction::clock_offset_ms(self)
    }

    fn begin_long(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// A transaction's replies have one limit together, and their room is taken at its end.
    fn reserve(&mut self, _bytes: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn find(&mut self, key: &[u8]) -> Result<Option<Stored>, Failure> {
        Ok(Transaction::find(self, key)?)
    }

    fn deadline(&mut self, key: &[u8]) -> Result<Option<Deadline>, Failure> {
        Ok(Transaction::deadline(self, key)?)
    }

    fn keys(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(Transaction::keys(self, range, limit)?)
    }

    fn walk(&mut self, cursor: u64, limit: usize) -> Result<(Vec<Vec<u8>>, u64), Failure> {
        let step = Transaction::walk(self, cursor, limit)?;
        Ok((step.keys, step.cursor))
    }

    fn count(&mut self) -> Result<Count, Failure> {
        Ok(Transaction::count(self)?)
    }
}

/// Keys, and bytes of values, that one command looks at where its bytes arrived: others wait there.
pub(crate) const LOOKS_MAX: usize = 64;
const LOOKS_BYTES_MAX: usize = 512 << 10;

/// The store as it is.
pub(crate) struct Reader<'a, E> {
    engine: &'a E,
    wait: Wait,
    room: &'a mut Allowance,
    /// Bytes of the reply that have room.
    reserved: usize,
    /// Keys that were looked at, and bytes of their values.
    looks: usize,
    bytes: usize,
    /// The newest thing that was seen.
    pub(crate) position: Position,
}

impl<'a, E: KvsEngine> Reader<'a, E> {
    pub(crate) fn new(engine: &'a E, wait: Wait, room: &'a mut Allowance) -> Self {
        Reader { engine, wait, room, reserved: 0, looks: 0, bytes: 0, position: Position::ZERO }
    }

    /// Looks at one more key, unless it is the turn of others.
    fn look(&mut self) -> Result<(), Failure> {
        self.looks += 1;
        if self.looks > LOOKS_MAX || self.bytes > LOOKS_BYTES_MAX {
            return self.begin_long();
        }
        Ok(())
    }
}

impl<E: KvsEngine> Read for Reader<'_, E> {
    fn now(&self) -> Now {
        self.engine.now()
    }

    fn clock_offset_ms(&self) -> i64 {
        self.engine.clock_offset_ms()
    }

    fn begin_long(&self) -> Result<(), Failure> {
        match self.wait {
            Wait::Yes => Ok(()),
            Wait::No => Err(Failure::WouldBlock),
        }
    }

    /// Takes twice the room: a reply that finds none is made anew, and so a few times at most.
    fn reserve(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes <= self.reserved {
            return Ok(());
        }
        let wanted = bytes.saturating_mul(2);
        if !self.room.fits(wanted) {
            return Err(Failure::NoRoom);
        }
        self.reserved = wanted;
        Ok(())
    }

    fn find(&mut self, key: &[u8]) -> Result<Option<Stored>, Failure> {
        self.look()?;
        let (stored, position) = self.engine.find(key, self.wait)?;
        self.position = self.position.max(position);
        self.bytes += stored.as_ref().map_or(0, |stored| stored.value.len());
        Ok(stored)
    }

    fn deadline(&mut self, key: &[u8]) -> Result<Option<Deadline>, Failure> {
        self.look()?;
        let (deadline, position) = self.engine.deadline(key, self.wait)?;
        self.position = self.position.max(position);
        Ok(deadline)
    }

    fn keys(&mut self, range: &KeyRange, limit: usize) -> Result<Vec<Vec<u8>>, Failure> {
        self.begin_long()?;
        let mut keys = Vec::new();
        let mut rest = range.clone();
        while keys.len() < limit {
            let page = self.engine.keys(&rest, limit - keys.len())?;
            self.position = self.position.max(page.position);
            let last = page.keys.last().cloned();
            keys.extend(page.keys);
            match last {
                Some(last) if !page.done => rest = rest.after(&last),
                _ => break,
            }
        }
        Ok(keys)
    }

    fn walk(&mut self, cursor: u64, limit: usize) -> Result<(Vec<Vec<u8>>, u64), Failure> {
        self.begin_long()?;
        let step = self.engine.walk(cursor, limit)?;
        self.position = self.position.max(step.position);
        Ok((step.keys, step.cursor))
    }

    fn count(&mut self) -> Result<Count, Failure> {
        // An engine may wait for a writer that waits for a disk.
        self.begin_long()?;
        let (count, position) = self.engine.count()?;
        self.position = self.position.max(position);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use aryavarth::MemoryEngine;

    use super::*;
    use crate::budget::OutputBudget;

    /// KEYS once gathered all of its reply, up to 256 MiB, before it asked for room.
    #[test]
    fn a_reply_that_grows_takes_its_room_before_it_has_its_bytes() {
        let (engine, budget) = (MemoryEngine::new(), OutputBudget::new(1 << 20));
        let mut room = Allowance::new(budget.none(), 0);
        let mut reader = Reader::new(&engine, Wait::Yes, &mut room);
        assert!(reader.reserve(100 << 10).is_ok());
        assert_eq!(budget.figures().taken_bytes, 200 << 10);
        assert!(reader.reserve(200 << 10).is_ok(), "it has that room already");
        assert_eq!(budget.figures().taken_bytes, 200 << 10);

        let mut other = Allowance::new(budget.none(), 0);
        assert!(other.fits(800 << 10));
        assert!(matches!(reader.reserve(300 << 10), Err(Failure::NoRoom)));
        assert_eq!(room.wanted(), Some(600 << 10), "to be waited for");
    }
}
