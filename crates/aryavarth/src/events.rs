//! Events: changes of a store's state, told to the program that holds it.
//!
//! ```text
//! sync, append, keeper, compactor, scrubber --tell--> queue --> its own thread --> listener
//!                                            never    1,024
//!                                            waits    places
//! ```
//!
//! Invariants:
//! - To tell an event takes no lock of the store and never waits, so a slow listener holds up no
//!   sync, writer or reader. Events that find the queue full are counted, and the count is told.
//! - An event holds no value. It may hold a key, which the listener shows or leaves out.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// Events that may wait for the listener.
const WAITING_MAX: usize = 1024;

/// A change of a store's state that its operator should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The disk is full: writes are refused, reads and removals go on. Free some space; writes
    /// resume by themselves.
    DiskFull {
        /// The call that found no space, with the system's words.
        reason: String,
    },
    /// There is space again, and writes are accepted.
    DiskWritable {
        /// How long the disk was full.
        after: Duration,
    },
    /// A sync or write of the log failed, so its outcome is unknown: writes end until the store is
    /// opened again. Everything acknowledged is on disk, and reads of it go on.
    Poisoned {
        /// The failed call, with the system's words.
        reason: String,
    },
    /// A sync of the log took a second or longer; all writers waited for it.
    SlowSync {
        /// Its duration.
        took: Duration,
        /// Bytes of the log that it made durable.
        bytes: u64,
    },
    /// A damaged place was found in a sealed file. Told once for each place while the store is open.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// The reason.
        reason: String,
        /// The key of the damaged record, where it is known.
        key: Option<Vec<u8>>,
        /// Whether data is lost by it, for all that is known. Else the key was written again, and
        /// compaction takes the damaged record away.
        is_loss: bool,
    },
    /// A compaction in the background failed. Nothing is lost; it is tried again, and told again
    /// after one has succeeded.
    CompactionFailed {
        /// The reason.
        reason: String,
    },
    /// The files have taken more space than the store promises for half a minute: writes come
    /// faster than compaction gives space back, or it fails.
    CompactionBehind {
        /// Bytes of all files.
        disk_bytes: u64,
        /// Bytes of the records of existing keys.
        live_bytes: u64,
    },
    /// The files take no more space than promised again.
    CompactionCaughtUp {
        /// Bytes of all files.
        disk_bytes: u64,
    },
    /// The machine's clock was set by more than a second. Deadlines go on as if it had not been.
    ClockJumped {
        /// By how much, in milliseconds; negative if backwards.
        by_ms: i64,
        /// By how much the machine's clock is ahead of the store's since then, in milliseconds.
        offset_ms: i64,
    },
    /// The listener was too slow, and events before this one were dropped.
    Missed {
        /// How many.
        events: u64,
    },
}

/// The way of a store's events to a listener; clones lead to the same one. Default: to none.
///
/// ```
/// use std::sync::mpsc;
/// use aryavarth::{Events, KvStore, Options};
///
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// let (sender, heard) = mpsc::channel();
/// let events = Events::to(move |event| drop(sender.send(event.clone())))?;
/// let store = KvStore::open_with(dir, Options { events, ..Options::default() })?;
/// store.put(b"k", b"v")?;
/// store.close()?;
/// // All handles are gone, so all events were delivered: of a good day, none.
/// assert_eq!(heard.recv().ok(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Events(Option<Arc<Queue>>);

struct Queue {
    sender: SyncSender<Event>,
    missed: AtomicU64,
}

impl Events {
    /// Events that are handed to `listener`, one at a time and in order, on a thread of its own.
    /// The thread ends when the last clone is gone and everything was delivered.
    ///
    /// A listener may take as long as it likes: the store does not wait for it. When 1,024 events
    /// wait, further ones are dropped and [counted](Event::Missed). A panic of the listener ends
    /// the delivery, and nothing else.
    ///
    /// # Errors
    /// The system's, if it refuses a thread.
    pub fn to(listener: impl Fn(&Event) + Send + 'static) -> std::io::Result<Events> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("aryavarth-events".to_owned()).spawn(move || {
            for event in receiver {
                listener(&event);
            }
        })?;
        Ok(Events(Some(Arc::new(Queue { sender, missed: AtomicU64::new(0) }))))
    }

    /// Hands an event to the listener, if there is one. Never waits.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        let Some(Queue { sender, missed }) = self.0.as_deref() else { return };
        let before = missed.swap(0, Ordering::Relaxed);
        if before > 0 && sender.try_send(Event::Missed { events: before }).is_err() {
            missed.fetch_add(before + 1, Ordering::Relaxed);
        } else if sender.try_send(event()).is_err() {
            missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Events(to a listener)" } else { "Events(to none)" })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn full() -> Event {
        Event::DiskFull { reason: "no space".to_owned() }
    }

    #[test]
    fn events_arrive_in_order_and_end_with_the_last_handle() {
        let (sender, heard) = mpsc::channel();
        let events = Events::to(move |event| drop(sender.send(event.clone()))).unwrap();
        let writable = Event::DiskWritable { after: Duration::from_secs(1) };
        events.tell(full);
        events.clone().tell(|| writable.clone());
        drop(events);
        assert_eq!(heard.iter().collect::<Vec<_>>(), [full(), writable]);
    }

    #[test]
    fn a_listener_that_stands_still_holds_nobody_up_and_hears_how_much_it_missed() {
        let (go, wait) = mpsc::channel::<()>();
        let (sender, heard) = mpsc::channel();
        let listener = move |event: &Event| {
            wait.recv().unwrap_or_default();
            drop(sender.send(event.clone()));
        };
        let events = Events::to(listener).unwrap();
        let told = WAITING_MAX * 2;
        (0..told).for_each(|_| events.tell(full));
        drop(go); // Now it goes on.
        let first = heard.recv().unwrap();
        assert_eq!(first, full());
        let mut delivered = 1 + (0..WAITING_MAX - 1).filter(|_| heard.recv().is_ok()).count();
        events.tell(full);
        drop(events);
        let mut missed = 0;
        for event in heard {
            match event {
                Event::Missed { events } => missed += events,
                _ => delivered += 1,
            }
        }
        assert!(missed > 0);
        assert_eq!(delivered as u64 + missed, told as u64 + 1);
    }
}
