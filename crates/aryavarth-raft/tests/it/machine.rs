//! A state machine in memory, for openraft's storage suite: it keeps ids and members, and no data.

use std::io;

use aryavarth_raft::openraft::TypeConfig;
use futures_util::{Stream, StreamExt as _};
use openraft::RaftSnapshotBuilder;
use openraft::RaftTypeConfig;
use openraft::entry::RaftEntry as _;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::vote::RaftLeaderId;
use openraft::{LogId, StoredMembership};

type Node = <TypeConfig as RaftTypeConfig>::Node;
type Committed = <<TypeConfig as RaftTypeConfig>::LeaderId as RaftLeaderId>::Committed;
pub(crate) type Id = LogId<Committed>;
type Stored = StoredMembership<Committed, u64, Node>;
type Meta = SnapshotMeta<Committed, u64, Node>;
type Shot = Snapshot<Committed, u64, Node, ()>;

/// The machine; a clone builds its snapshots.
#[derive(Clone, Default)]
pub(crate) struct Machine {
    applied: Option<Id>,
    members: Stored,
    snapshot: std::sync::Arc<std::sync::Mutex<Option<Meta>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<Shot> {
        let meta = Meta { last_log_id: self.applied, last_membership: self.members.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(Shot { meta, snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<Id>, Stored)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, _) = next?;
            let id = entry.log_id();
            if let Some(members) = entry.get_membership() {
                self.members = Stored::new(Some(id), members);
            }
            self.applied = Some(id);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, (): ()) -> io::Result<()> {
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Shot>> {
        let meta = self.snapshot.lock().unwrap().clone();
        Ok(meta.map(|meta| Shot { meta, snapshot: () }))
    }
}
