//! The registry of commands: every family's rows, in one place.

use std::sync::LazyLock;

use crate::commands::kit::rows::{Family, Registry};
use crate::commands::kit::spec::Group;
use crate::commands::{connection, keyspace, pubsub, scripting, server, string, transaction};

/// Every family, in the order in which docs/commands.md lists them.
pub(crate) static FAMILIES: &[Family] = &[
    (Group::Connection, connection::handshake::SPECS),
    (Group::Connection, connection::client::SPECS),
    (Group::String, string::values::SPECS),
    (Group::String, string::assign::SPECS),
    (Group::String, string::increment::SPECS),
    (Group::Generic, keyspace::keys::SPECS),
    (Group::Generic, keyspace::scan::SPECS),
    (Group::Generic, keyspace::expiry::SPECS),
    (Group::Transactions, transaction::SPECS),
    (Group::PubSub, pubsub::SPECS),
    (Group::Scripting, scripting::SPECS),
    (Group::Server, server::command::SPECS),
    (Group::Server, server::info::SPECS),
    (Group::Server, server::config::SPECS),
    (Group::Server, server::persistence::SPECS),
    (Group::Server, server::observe::SPECS),
    (Group::Server, server::damage::SPECS),
    (Group::Server, server::debug::SPECS),
    (Group::Server, server::absent::SERVER),
    (Group::Scripting, server::absent::SCRIPTING),
    (Group::Cluster, server::absent::CLUSTER),
];

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::new(FAMILIES));

/// Every command and subcommand.
pub(crate) fn registry() -> &'static Registry {
    &REGISTRY
}
