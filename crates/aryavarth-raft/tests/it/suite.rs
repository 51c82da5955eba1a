//! openraft's own storage suite over the Raft log, three times: plain on the real disk, with the log
//! closed and opened between any two calls, and with the power cut between any two calls. After each
//! case the power is cut once more, and the log has to be as the case left it.
//!
//! The suite's sleeps pass at once, because the runtime's clock is paused.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use aryavarth::fs::{Crash, Fs, RealFs, SimFs, Site};
use aryavarth_raft::openraft::{OpenraftLog, TypeConfig};
use aryavarth_raft::{Identity, Node, RaftLog, RaftLogOptions};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftTypeConfig, StorageError};

use crate::machine::{Id, Machine};

type OEntry = <TypeConfig as RaftTypeConfig>::Entry;
type OVote = <TypeConfig as RaftTypeConfig>::Vote;

/// The moment between two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    Reopen,
    PowerCut,
}

/// The disk of a case.
#[derive(Clone, Debug)]
enum Disk {
    Real(Arc<tempfile::TempDir>),
    Simulated(SimFs),
}

impl Disk {
    fn data(&self) -> PathBuf {
        match self {
            Disk::Real(dir) => dir.path().to_owned(),
            Disk::Simulated(_) => Path::new("/data").to_owned(),
        }
    }

    fn options(&self) -> RaftLogOptions {
        let fs: Arc<dyn Fs> = match self {
            Disk::Real(_) => Arc::new(RealFs),
            Disk::Simulated(fs) => Arc::new(fs.clone()),
        };
        // Files and memory so small that the cases go through several files and read them.
        RaftLogOptions { fs, file_bytes: 1024, memory_bytes: 300, ..RaftLogOptions::default() }
    }

    fn open(&self) -> Arc<RaftLog> {
        let node = Node::open(&self.data(), &self.options()).expect("the log opens");
        Arc::new(node.expect("it is a node").log)
    }

    /// The disk after a power cut.
    fn crashed(&self) -> Disk {
        match self {
            Disk::Real(_) => self.clone(),
            Disk::Simulated(fs) => Disk::Simulated(fs.crash(Crash::Nothing)),
        }
    }
}

/// A log that is opened anew between calls.
struct Slot {
    between: Between,
    now: Mutex<(Disk, Option<Arc<RaftLog>>)>,
}

impl Slot {
    fn log(&self) -> Arc<RaftLog> {
        let mut now = self.now.lock().unwrap();
        match self.between {
            Between::Nothing => {}
            Between::Reopen => {
                let log = Arc::into_inner(now.1.take().unwrap()).expect("no call is under way");
                log.close().expect("the log closes");
                now.1 = Some(now.0.open());
            }
            Between::PowerCut => {
                // The old log goes on in the old image, unseen.
                now.0 = now.0.crashed();
                now.1 = Some(now.0.open());
            }
        }
        Arc::clone(now.1.as_ref().unwrap())
    }

    fn adapter(&self) -> OpenraftLog {
        OpenraftLog::new(self.log())
    }
}

#[derive(Clone)]
struct Store(Arc<Slot>);

impl RaftLogReader<TypeConfig> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<OEntry>> {
        self.0.adapter().get_log_reader().await.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<OVote>> {
        self.0.adapter().get_log_reader().await.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for Store {
    type LogReader = Store;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.0.adapter().get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Store {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &OVote) -> io::Result<()> {
        self.0.adapter().save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<Id>) -> io::Result<()> {
        self.0.adapter().save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<Id>> {
        self.0.adapter().read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = OEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.adapter().append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<Id>) -> io::Result<()> {
        self.0.adapter().truncate_after(last).await
    }

    async fn purge(&mut self, to: Id) -> io::Result<()> {
        self.0.adapter().purge(to).await
    }
}

/// Pulls the plug after a case.
struct Plug(Arc<Slot>);

impl Drop for Plug {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let now = self.0.now.lock().unwrap();
        let (disk, log) = (&now.0, now.1.as_ref().unwrap());
        let Disk::Simulated(_) = disk else { return };
        let left = disk.crashed().open();
        assert_eq!(left.bounds(), log.bounds());
        assert_eq!(left.vote(), log.vote());
        assert_eq!(left.read(0..u64::MAX).unwrap(), log.read(0..u64::MAX).unwrap());
    }
}

struct Builder(Between);

impl StoreBuilder<TypeConfig, Store, Machine, Plug> for Builder {
    async fn build(&self) -> Result<(Plug, Store, Machine), StorageError<TypeConfig>> {
        let disk = if self.0 == Between::Nothing {
            Disk::Real(Arc::new(tempfile::tempdir().expect("a temporary directory")))
        } else {
            let fs = SimFs::new();
            fs.create_dir(Site::DirCreate, Path::new("/data")).unwrap();
            fs.sync_dir(Site::DirParentSync, Path::new("/")).unwrap();
            Disk::Simulated(fs)
        };
        let identity = Identity::of_new_cluster("a");
        Node::create(&disk.data(), &identity, &disk.options()).expect("a node is made");
        let log = Some(disk.open());
        let slot = Arc::new(Slot { between: self.0, now: Mutex::new((disk, log)) });
        Ok((Plug(Arc::clone(&slot)), Store(slot), Machine::default()))
    }
}

fn run(between: Between) {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Suite::test_all(Builder(between))).unwrap();
}

#[test]
fn openrafts_suite_passes() {
    run(Between::Nothing);
}

#[test]
fn openrafts_suite_passes_with_the_log_opened_anew_between_calls() {
    run(Between::Reopen);
}

#[test]
fn openrafts_suite_passes_with_the_power_cut_between_calls() {
    run(Between::PowerCut);
}
