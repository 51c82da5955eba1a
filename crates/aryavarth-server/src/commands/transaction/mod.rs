//! MULTI, EXEC, DISCARD, WATCH, UNWATCH as rows; `dispatch/transaction.rs` takes the steps.

use crate::commands::kit::spec::{Run, Spec, Step};

pub(crate) const SPECS: &[Spec] = &[
    Spec::new("multi", 1, "", Run::Transaction(Step::Multi))
        .flags("noscript loading stale fast allow_busy @transaction UNQUEUED")
        .since("1.2.0")
        .says("Marks the start of a transaction block"),
    Spec::new("exec", 1, "", Run::Transaction(Step::Exec))
        .flags("noscript loading stale skip_slowlog @transaction UNQUEUED")
        .since("1.2.0")
        .cost("Depends on commands in the transaction")
        .says("Executes all commands issued after MULTI"),
    Spec::new("discard", 1, "", Run::Transaction(Step::Discard))
        .flags("noscript loading stale fast allow_busy @transaction UNQUEUED")
        .since("2.0.0")
        .cost("O(N), when N is the number of queued commands")
        .says("Discards all commands issued after MULTI"),
    Spec::new("watch", -2, "key [key ...]", Run::Transaction(Step::Watch))
        .flags("noscript loading stale fast allow_busy @transaction UNQUEUED")
        .keys(1, -1, 1, "RO")
        .since("2.2.0")
        .cost("O(1) for every key.")
        .says("Watches the given keys to determine execution of the MULTI/EXEC block"),
    Spec::new("unwatch", 1, "", Run::Transaction(Step::Unwatch))
        .flags("noscript loading stale fast allow_busy @transaction")
        .since("2.2.0")
        .says("Forgets about all watched keys"),
];
