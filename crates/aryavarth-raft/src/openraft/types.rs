//! openraft's types as this crate fills them in, and the conversions.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use openraft::entry::RaftEntry as _;
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftVote as _;
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EntryPayload, Membership, RaftTypeConfig};

use crate::entry::{Member, Members};
use crate::raft_log::{EntryKind, LogEntry, LogId, Vote};

/// The encoded bytes of an [`Entry`](crate::Entry): openraft carries them and looks at none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Data(pub Bytes);

impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// The types under which openraft runs.
    pub TypeConfig:
        D = Data,
        R = (),
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = LeaderId<u64, u64>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub(super) type OLogId = openraft::LogId<CommittedLeaderId<u64>>;
pub(super) type OVote = openraft::Vote<LeaderId<u64, u64>>;
pub(super) type OEntry = <TypeConfig as RaftTypeConfig>::Entry;

pub(super) fn log_id(id: &OLogId) -> LogId {
    LogId { term: *id.leader_id, index: id.index }
}

pub(super) fn o_log_id(id: LogId) -> OLogId {
    OLogId::new(CommittedLeaderId::new(id.term), id.index)
}

pub(super) fn vote(vote: &OVote) -> Vote {
    let leader = vote.leader_id();
    Vote { term: leader.term, node: leader.voted_for, granted: vote.is_committed() }
}

pub(super) fn o_vote(vote: Vote) -> OVote {
    let leader = LeaderId { term: vote.term, voted_for: vote.node };
    OVote::from_leader_id(leader, vote.granted)
}

/// An entry as it lies in the log.
pub(super) fn entry(entry: OEntry) -> LogEntry {
    let id = log_id(&entry.log_id());
    let (kind, body) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(Data(bytes)) => (EntryKind::Normal, bytes),
        EntryPayload::Membership(membership) => (EntryKind::Members, members(&membership).encode()),
    };
    LogEntry { id, kind, body }
}

/// An entry as openraft reads it; `None` if its members cannot be read.
pub(super) fn o_entry(entry: LogEntry) -> Option<OEntry> {
    let id = o_log_id(entry.id);
    Some(match entry.kind {
        EntryKind::Blank => OEntry::new_blank(id),
        EntryKind::Normal => OEntry::new_normal(id, Data(entry.body)),
        EntryKind::Members => {
            OEntry::new_membership(id, membership(Members::decode(&entry.body)?)?)
        }
    })
}

fn members(membership: &Membership<u64, Member>) -> Members {
    let configs: Vec<BTreeSet<u64>> = membership.get_joint_config().clone();
    let nodes = membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
    Members { configs, nodes }
}

fn membership(members: Members) -> Option<Membership<u64, Member>> {
    Membership::new(members.configs, members.nodes).ok()
}
