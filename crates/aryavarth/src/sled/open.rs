//! How the store over sled is opened: the owner of the directory, sled itself, and the counts.
//!
//! Invariants:
//! - A directory that is not ours, or of another layout, is refused before sled touches it.
//! - sled makes its files only after the manifest says whose they are; once it has made them, a log
//!   that is missing is a loss and not an empty store.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ::sled::{Db, Tree};

use super::bell::Bell;
use super::files::{self, Buffers, Files, failed};
use super::generations::{Table, Tally};
use super::layout::{self, Entry, LAYOUT, RESERVED};
use super::store::Store;
use super::write::{CLOCK, REMOVED_UP_TO, WALL_CLOCK};
use crate::clock::{ClockPair, StoreClock};
use crate::engine::{Deadline, Guide, Watches};
use crate::error::{KvsError, Result};
use crate::fs::{Fs, Site};
use crate::manifest::{Manifest, State, manifest_path};
use crate::options::Options;
use crate::record::u64_at;
use crate::recovery::{self, Claimed, DirLock};
use crate::sync::{Arc, AtomicU64, Mutex, Rank};
use crate::watermarks::Watermarks;

/// The engine's name in the manifest, and of sled's directory.
pub(super) const ENGINE: &str = "sled";
/// The tree beside the data.
const META: &str = "meta";
/// Added to the highest position found at an open: more than can have been written without a
/// sync, so that no position is used again.
const POSITION_GAP: u64 = 1 << 36;
/// How long sled's threads of a store that was just closed may go on holding its file.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_LOOK: Duration = Duration::from_millis(10);

/// The manifest's position for sled, which has no log of ours: 0 while its files are being
/// made, and from then on this.
fn made(layout: u32) -> u64 {
    1 + u64::from(layout)
}

pub(super) fn open(dir: &Path, options: &Options) -> Result<(Store, DirLock)> {
    let Claimed { fs, lock, mut number, mut state, .. } = recovery::claim(dir, options, ENGINE)?;
    let home = dir.join(ENGINE);
    let is_made = state.position > 0;
    if is_made && state.position != made(LAYOUT) {
        let found = u32::try_from(state.position - 1).unwrap_or(u32::MAX);
        return Err(KvsError::UnknownFormat { path: home, found, known: LAYOUT });
    }
    if number == 0 {
        number = write_manifest(&*fs, dir, number, &state)?;
    }
    fs.create_dir(Site::SledDirCreate, &home)?;
    if is_made && !files::has_log(&*fs, &home)? {
        return Err(KvsError::corrupt(&home, 0, "sled's log is missing"));
    }
    let db = open_sled(&home)?;
    let files = Files::settle(db.clone(), Arc::clone(&fs), &home)?;
    if !is_made {
        state.position = made(LAYOUT);
        write_manifest(&*fs, dir, number, &state)?;
    }
    let meta = db.open_tree(META).map_err(failed)?;
    let Survey { table, tally, highest, clock } = survey(&db, &meta, &home)?;
    let base = highest + POSITION_GAP;
    let store = Store {
        home,
        value_bytes_max: options.value_bytes_max,
        batch_bytes_max: options.batch_bytes_max,
        meta,
        clock: StoreClock::new(Arc::clone(&options.clock), clock)
            .with_events(options.events.clone()),
        remembered_ms: AtomicU64::new(clock.store_ms),
        writer: Mutex::new(Rank::Writer, ()),
        keys: AtomicU64::new(tally.keys()),
        applying: Mutex::new(Rank::Applying, tally),
        table,
        table_changes: AtomicU64::new(0),
        claimed: AtomicU64::new(base),
        base,
        expired_keys: AtomicU64::new(0),
        sweep_held: Mutex::new(Rank::SweepHeld, None),
        watches: Watches::default(),
        guide: Guide::new(state.store_id),
        flushed: Arc::new(Watermarks::over(Buffers(db.clone()), base)),
        synced: Arc::new(Watermarks::over(files, base).with_events(options.events.clone())),
        bell: Bell::default(),
        db,
    };
    Ok((store, lock))
}

/// The facts that an open finds in sled.
#[derive(Default)]
struct Survey {
    table: Table,
    tally: Tally,
    /// The highest position.
    highest: u64,
    clock: ClockPair,
}

fn survey(db: &Db, meta: &Tree, home: &Path) -> Result<Survey> {
    let number = |name: &str| match meta.get(name).map_err(failed)? {
        Some(bytes) if bytes.len() == 8 => Ok(u64_at(&bytes, 0)),
        Some(_) => Err(KvsError::corrupt(home, 0, format!("`{name}` is not a number"))),
        None => Ok(0),
    };
    let highest = number(REMOVED_UP_TO)?;
    let clock = ClockPair { store_ms: number(CLOCK)?, wall_ms: number(WALL_CLOCK)? };
    let mut survey = Survey { highest, clock, ..Survey::default() };
    for entry in db.iter() {
        let (place, bytes) = entry.map_err(failed)?;
        let (generation, name) = layout::split(&place, home)?;
        if generation == RESERVED {
            match Entry::decode(name, &bytes, home)? {
                Entry::Space(space, generation) => survey.table.set(space, generation),
                Entry::Next(next) => survey.table.set_next(next),
            }
            continue;
        }
        let found = layout::decode(&bytes, home)?;
        survey.highest = survey.highest.max(found.position);
        survey.tally.change(&place, None, Some(Deadline::of(found.expires_at)));
    }
    // A crash may have come before all that was cleared was deleted.
    survey.tally.drop_unowned(&survey.table);
    Ok(survey)
}

/// Makes a manifest that says `state` the current one and returns its number.
fn write_manifest(fs: &dyn Fs, dir: &Path, old: u64, state: &State) -> Result<u64> {
    // A crash on the way to this manifest may have left these.
    for stray in [manifest_path(dir, old + 1), dir.join("CURRENT.next")] {
        drop(fs.remove(Site::SledStrayRemove, &stray));
    }
    Manifest::create(fs, dir, old + 1, state.clone())?;
    if old > 0 {
        drop(fs.remove(Site::SledManifestRemove, &manifest_path(dir, old)));
    }
    Ok(old + 1)
}

/// Opens sled. The threads of one that this process has just closed may still hold its file; no
/// other process can, for the directory's lock is ours.
fn open_sled(home: &Path) -> Result<Db> {
    let until = Instant::now() + LINGER;
    loop {
        match ::sled::Config::new().path(home).open() {
            Err(::sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock")
                    && Instant::now() < until =>
            {
                thread::sleep(LINGER_LOOK);
            }
            opened => return opened.map_err(failed),
        }
    }
}
