//! One simulated directory: the names that calls see, and those that a crash would leave.
//!
//! Like a file, a directory keeps its live and its durable names and the changes between them, in
//! order. Each change is atomic (a rename never leaves both names or none), but a crash may leave
//! a later one and lose an earlier one.
//!
//! Invariant: a file or directory has one name at most, before and after a crash.

use std::collections::BTreeMap;

use super::random::Random;

/// The meaning of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// A file, by its number.
    File(u64),
    /// A directory, by its number.
    Dir(u64),
}

/// Names with their meanings, in order.
pub(super) type Names = BTreeMap<String, Node>;

#[derive(Clone)]
enum Change {
    Add { name: String, node: Node },
    Move { from: String, to: String, node: Node },
    Remove { name: String },
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Change::Add { name, node } => put(names, name, *node),
            Change::Move { from, to, node } => {
                names.remove(from);
                put(names, to, *node);
            }
            Change::Remove { name } => {
                names.remove(name);
            }
        }
    }
}

fn put(names: &mut Names, name: &str, node: Node) {
    names.retain(|_, other| *other != node);
    names.insert(name.to_owned(), node);
}

/// A directory.
#[derive(Clone, Default)]
pub(super) struct Dir {
    live: Names,
    durable: Names,
    unsynced: Vec<Change>,
}

impl Dir {
    /// A directory whose names were on the disk all along.
    pub(super) fn survivor(names: Names) -> Dir {
        Dir { live: names.clone(), durable: names, unsynced: Vec::new() }
    }

    /// The names that calls see.
    pub(super) fn live(&self) -> &Names {
        &self.live
    }

    pub(super) fn add(&mut self, name: String, node: Node) {
        self.change(Change::Add { name, node });
    }

    /// Renames; a file that had the name `to` before loses it.
    pub(super) fn rename(&mut self, from: String, to: String, node: Node) {
        self.change(Change::Move { from, to, node });
    }

    pub(super) fn remove(&mut self, name: String) {
        self.change(Change::Remove { name });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.unsynced.push(change);
    }

    /// Makes the names durable.
    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Whether a crash could leave `node` with a name.
    pub(super) fn may_name(&self, node: Node) -> bool {
        let added = |change: &Change| match change {
            Change::Add { node: other, .. } | Change::Move { node: other, .. } => *other == node,
            Change::Remove { .. } => false,
        };
        self.durable.values().any(|other| *other == node) || self.unsynced.iter().any(added)
    }

    /// The names that are left after a power cut: those synced, and with luck some changes more.
    pub(super) fn after_power_cut(&self, luck: Option<&mut Random>) -> Names {
        let mut names = self.durable.clone();
        if let Some(luck) = luck {
            self.unsynced
                .iter()
                .filter(|_| luck.coin())
                .for_each(|change| change.apply(&mut names));
        }
        names
    }
}
