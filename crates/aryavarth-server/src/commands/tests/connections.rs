//! Connections to a fake server, by name, and the way of their commands: planned, tried inline where
//! the plan says so, and run.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use aryavarth::{Durability, KvsEngine, Wait};
use aryavarth_protocol::Command;

use super::fake_server::FakeServer;
use crate::commands::{Answer, ClientState, Later, Plan, plan, resolve, run};

/// A fake server and its connections.
pub(super) struct Connections {
    pub(super) server: FakeServer,
    clients: BTreeMap<String, ClientState>,
}

impl Connections {
    pub(super) fn new(server: FakeServer) -> Self {
        Connections { server, clients: BTreeMap::new() }
    }

    /// The state of the connection of a name, which is made if there is none.
    fn client(&mut self, name: &str) -> (&FakeServer, &mut ClientState) {
        let Connections { server, clients } = self;
        let known = clients.len();
        let client = clients.entry(name.to_owned()).or_insert_with(|| connect(server, known));
        (server, client)
    }

    /// The plan of a command.
    pub(super) fn plan(&mut self, name: &str, args: &[impl AsRef<[u8]>]) -> Plan {
        let (server, client) = self.client(name);
        plan(server, client, &resolve(Command::from_args(args)))
    }

    /// The answer to a command; `None` while a pause holds it.
    pub(super) fn answer(&mut self, name: &str, args: &[impl AsRef<[u8]>]) -> Option<Answer> {
        let (server, client) = self.client(name);
        call(&server.engine, server, client, args)
    }
}

/// The state of a new connection, the one after `known` others.
pub(super) fn connect(server: &FakeServer, known: usize) -> ClientState {
    let port = 50_001 + u16::try_from(known).unwrap();
    let peer = SocketAddr::from(([127, 0, 0, 1], port));
    let entry = server.clients.enter(peer, server.settings.listen);
    ClientState::new(entry, !server.settings.has_password(), Durability::Always)
}

/// Runs a command as a connection does; `None` while a pause holds it.
pub(super) fn call<E: KvsEngine>(
    engine: &E,
    server: &FakeServer,
    client: &mut ClientState,
    args: &[impl AsRef<[u8]>],
) -> Option<Answer> {
    let call = resolve(Command::from_args(args));
    match plan(server, client, &call) {
        Plan::Held => return None,
        Plan::Append | Plan::Pool => {}
        Plan::Inline => match run(engine, server, client, &call, (Wait::No, Instant::now())) {
            Ok(answer) => return Some(answer),
            Err(later) => assert_eq!(later, Later::Pool, "{call:?}"),
        },
    }
    let times = (Wait::Yes, Instant::now());
    Some(run(engine, server, client, &call, times).expect("nothing is in its way"))
}
