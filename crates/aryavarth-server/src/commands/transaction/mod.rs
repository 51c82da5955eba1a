//! MULTI, EXEC, DISCARD, WATCH, UNWATCH as rows; `dispatch/transaction.rs` takes the steps.

use crate::commands::kit::spec::{Flags, Run, Spec, Step};

const STEP: Flags = Flags::FAST.and(Flags::UNQUEUED);

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("multi", 1, "", Run::Transaction(Step::Multi))
        .flags(STEP)
        .since("1.2.0")
        .says("Starts a transaction: the commands that follow are collected, and run by EXEC"),
    Spec::new("exec", 1, "", Run::Transaction(Step::Exec))
        .flags(Flags::UNQUEUED)
        .since("1.2.0")
        .cost("Depends on the commands of the transaction")
        .says("Runs all commands of a transaction, atomic to readers and across a crash"),
    Spec::new("discard", 1, "", Run::Transaction(Step::Discard))
        .flags(STEP)
        .since("2.0.0")
        .cost("O(N), N being the commands of the transaction")
        .says("Drops a transaction"),
    Spec::new("watch", -2, "key [key ...]", Run::Transaction(Step::Watch))
        .flags(STEP)
        .keys(1, -1, 1)
        .since("2.2.0")
        .cost("O(1) for every key")
        .says("Lets the next EXEC run only if none of the keys was written by then"),
    Spec::new("unwatch", 1, "", Run::Transaction(Step::Unwatch))
        .flags(Flags::FAST)
        .since("2.2.0")
        .says("Forgets the watched keys"),
];
