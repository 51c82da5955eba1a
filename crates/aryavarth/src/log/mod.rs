//! The log: where frames are appended, and how they become visible.
//!
//! One writer at a time, behind one lock that is held for a single `write` call and a few stores:
//! assign sequence numbers and a place, write the frame, publish its pointers, release the lock.
//! Syncing comes afterwards (commit), so many writes share one sync, and the index always shows
//! the newest write.
//!
//! ```text
//!   sealed segments               active segment                           spare
//!   |H frame frame M frame| ...  |H M frame frame M frame|. . . . . . . |  |. . . .|
//!                                                        ^ position: the next frame goes here
//! ```
//!
//! A *segment* is one file with a header (H). A *frame* is the records of one write call that are seen
//! together; a *mark* (M) says up to which position the log was durable when it was written. A
//! *position* counts the bytes of the whole log. The *spare* is prepared before it is needed.
//!
//! Locks are taken from left to right, and none is taken twice:
//!
//! ```text
//! compacting -> sealing -> growth -> writer   -> chores, retired, watches, the committer's waiters
//!  one round     one seal    room  \-> manifest
//! ```
//!
//! A thread holds the writer's lock or the manifest's, never both; the locks on the right are held for
//! a few instructions and none of them is taken under another. `sync/order.rs` has the order of all
//! locks of the engine, and a debug build checks it.
//!
//! Invariants:
//! - A pointer is published only after the write call returned.
//! - Under the writer's lock no thread reads a file, waits for a sync, or creates or allocates a file.
//! - A frame that was not written publishes nothing, and its sequence numbers are never reused.
//! - Before the first frame after a completed sync stands a mark that says how far it went.

mod append;
mod background;
mod copy;
mod expire;
mod mapped;
mod read;
mod reserve;
mod room;
mod seal;
mod stamp;
mod transact;
mod walk;
mod write;
mod writer;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use crossbeam_epoch as epoch;

use crate::clock::StoreClock;
use crate::engine::Watches;
use crate::error::Result;
use crate::fs::IoError;
use crate::index::{Cursors, Found, Index, IndexWriter, Slot, TABLE_GENERATION};
use crate::manifest::Manifest;
use crate::options::Options;
use crate::record::MARK_BYTES;
use crate::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentTable};
use crate::sync::{Arc, AtomicI64, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, Rank, lock};
use crate::watermarks::Watermarks;

pub(crate) use copy::{Copied, CopyWriter, small_segments};
pub(crate) use reserve::{RESERVE_NEXT, RESERVES};
use writer::{Recent, Writer};

/// Room in front of a frame for a segment's header and a mark: one write for all three.
const ROOM_BYTES: usize = SEGMENT_HEADER_BYTES + MARK_BYTES;
/// Removed keys that one write takes out of the index on its way.
const UNLINKS_PER_WRITE: usize = 16;

/// Everything that readers, writers and background work share.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) store_id: u64,
    pub(crate) index: Index,
    pub(crate) table: Arc<SegmentTable>,
    pub(crate) watermarks: Watermarks,
    pub(crate) manifest: Mutex<Manifest>,
    /// Segments out of the table whose files are still open.
    retired: Mutex<Vec<Arc<Segment>>>,
    /// Held by the one compaction that may run.
    pub(crate) compacting: Mutex<()>,
    writer: Mutex<Writer>,
    growth: Mutex<reserve::Growth>,
    /// Held by the one thread that seals segments.
    sealing: Mutex<()>,
    /// Odd while a frame with several records, another generation of a space or a lower wall clock is
    /// being published.
    multi: AtomicU64,
    watches: Watches,
    cursors: Cursors,
    pub(crate) clock: StoreClock,
    stamp: stamp::Stamp,
    /// The next deadlines of all keys, by the store's clock and by the wall clock.
    next_deadline_ms: AtomicU64,
    next_wall_deadline_ms: AtomicU64,
    pub(crate) expired_keys: AtomicU64,
    next_file_id: AtomicU64,
    next_salt: AtomicU64,
    /// Bytes of the records that slots point at, and keys that exist.
    pub(crate) live_bytes: AtomicI64,
    pub(crate) keys: AtomicI64,
    pub(crate) appended_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    sizes: Sizes,
    maps: mapped::Maps,
    /// The call that found no space, while the disk is full.
    full: ArcSwapOption<IoError>,
    /// Since when, if the listener was told of it.
    full_since: Mutex<Option<Instant>>,
    chores: Mutex<Chores>,
    call: Condvar,
}

/// Bytes of the files beside the segments, where figures of the store find them without the locks
/// that are held while a disk is waited for.
#[derive(Debug, Default)]
struct Sizes {
    reserves: AtomicU64,
    spare: AtomicU64,
    manifest: AtomicU64,
}

#[derive(Debug, Default)]
struct Chores {
    stopped: bool,
    /// Whether the maintenance thread was called since it last looked, and until when its sweep is held.
    called: bool,
    sweep_held: Option<Instant>,
}

/// The parts that a recovery hands over: the log as it was found, about to go on.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) index: Index,
    pub(crate) index_writer: IndexWriter,
    pub(crate) table: SegmentTable,
    pub(crate) live_bytes: i64,
    pub(crate) keys: i64,
    pub(crate) reserves: [u64; 2],
}

impl Log {
    /// A log that goes on where recovery left off.
    pub(crate) fn new(dir: PathBuf, options: Options, found: Recovered) -> Log {
        let state = found.manifest.state();
        let writer = Writer {
            active: None,
            offset: 0,
            capacity: 0,
            limit: 0,
            position: state.position,
            next_seq: state.seq,
            marked: state.position,
            wants_stamp: false,
            lowers: None,
            lowered: writer::LowMarks::default(),
            index: found.index_writer,
            unlinks: VecDeque::new(),
            dropped: VecDeque::new(),
            recent: Recent::default(),
            spare: None,
            sealing: Vec::new(),
            closed: false,
        };
        let sizes = Sizes::default();
        sizes.reserves.store(found.reserves.iter().sum(), Ordering::Relaxed);
        sizes.manifest.store(found.manifest.disk_bytes(), Ordering::Relaxed);
        let next = writer.index.deadlines.next();
        let log = Log {
            dir,
            store_id: state.store_id,
            index: found.index,
            table: Arc::new(found.table),
            watermarks: Watermarks::new(state.position).with_events(options.events.clone()),
            retired: Mutex::new(Rank::Retired, Vec::new()),
            compacting: Mutex::new(Rank::Compacting, ()),
            writer: Mutex::new(Rank::Writer, writer),
            growth: Mutex::new(Rank::Growth, reserve::Growth::of(found.reserves)),
            sealing: Mutex::new(Rank::Sealing, ()),
            multi: AtomicU64::new(0),
            watches: Watches::default(),
            cursors: Cursors::new(state.store_id, found.manifest.number()),
            clock: StoreClock::new(Arc::clone(&options.clock), state.clock)
                .with_events(options.events.clone()),
            stamp: stamp::Stamp::of_manifest(state.clock),
            next_deadline_ms: AtomicU64::new(next.store_ms),
            next_wall_deadline_ms: AtomicU64::new(next.wall_ms),
            expired_keys: AtomicU64::new(0),
            next_file_id: AtomicU64::new(state.file_id),
            next_salt: AtomicU64::new(options.seed ^ state.file_id.rotate_left(32)),
            live_bytes: AtomicI64::new(found.live_bytes),
            keys: AtomicI64::new(found.keys),
            appended_bytes: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            sizes,
            maps: mapped::Maps::new(&options),
            full: ArcSwapOption::empty(),
            full_since: Mutex::new(Rank::FullSince, None),
            chores: Mutex::new(Rank::Chores, Chores::default()),
            call: Condvar::new(),
            manifest: Mutex::new(Rank::Manifest, found.manifest),
            options,
        };
        log.map_segments(&[]);
        log
    }

    /// Counts a value's record as live (1) or dead (-1).
    fn account(&self, generation: u64, slot: Slot, sign: i64) {
        let bytes = sign * slot.pointer().length as i64;
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        // The table's own records are no keys.
        if generation != TABLE_GENERATION {
            self.keys.fetch_add(sign, Ordering::Relaxed);
        }
        self.account_segment(slot, sign);
    }

    /// The same for the segment alone that the record lies in.
    pub(crate) fn account_segment(&self, slot: Slot, sign: i64) {
        let pointer = slot.pointer();
        if let Some(segment) = self.table.get(pointer.segment)
            && let Some(segment) = segment.as_ref()
        {
            if sign > 0 {
                segment.note_live(pointer.length);
            } else {
                segment.note_dead(pointer.offset, pointer.length);
            }
        }
    }

    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// The last published position: no result depends on a later one.
    pub(crate) fn last_position(&self) -> u64 {
        self.watermarks.written()
    }

    /// Makes writers wait when the disk is far behind, so that memory and recovery stay bounded.
    fn wait_for_disk(&self) -> Result<()> {
        if self.watermarks.is_behind() { self.watermarks.sync() } else { Ok(()) }
    }

    /// Everything numbered below this is published.
    pub(crate) fn next_seq(&self) -> u64 {
        self.lock_writer().next_seq
    }

    /// Takes over a segment that no slot names any more, to close its file.
    pub(crate) fn retired(&self, segment: &Arc<Segment>) {
        lock(&self.retired).push(Arc::clone(segment));
    }

    /// Closes the files of retired segments that no reader holds any more, so that no reader has
    /// to, and helps the epoch along. Returns whether some are left.
    pub(crate) fn reap(&self) -> bool {
        epoch::pin().flush();
        let mut retired = lock(&self.retired);
        retired.retain(|segment| Arc::strong_count(segment) > 1);
        !retired.is_empty()
    }

    /// A fresh file id.
    pub(crate) fn new_file_id(&self) -> u64 {
        self.next_file_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A fresh salt: the numbers of splitmix64 (Steele, Lea and Flood, 2014) from the seed.
    pub(crate) fn new_salt(&self) -> u64 {
        let mut z = self.next_salt.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Bytes that must be free for a frame of `bytes`, whatever stands in front of it. The
/// search for room and its making ask for the same, or they would wait for each other.
fn need_of(bytes: usize) -> u64 {
    (ROOM_BYTES + bytes) as u64
}

/// Whether an entry found under the same pin is still linked: only a tombstone can be unlinked.
fn is_linked(found: Found<'_>) -> bool {
    !found.slot().is_tombstone()
}
