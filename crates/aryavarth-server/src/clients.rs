//! Who is connected: what everybody may know of a connection, and may do to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aryavarth::Position;
use aryavarth_protocol::Command;
use tokio::sync::Notify;

use crate::commands::{Connected, Spec};

/// A connection as others know it. Clones are the same connection.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    id: u64,
    peer: SocketAddr,
    began: Instant,
    killed: Notify,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    next: AtomicU64,
    all: Mutex<BTreeMap<u64, Client>>,
}

impl Clients {
    /// Takes note of a connection.
    pub(crate) fn enter(&self, peer: SocketAddr) -> Client {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let entry = Entry { id, peer, began: Instant::now(), killed: Notify::new() };
        let client = Client(Arc::new(entry));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(id, client.clone());
        client
    }

    /// A connection is gone.
    pub(crate) fn leave(&self, client: &Client) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&client.0.id);
    }

    /// A command was run.
    pub(crate) fn ran(
        &self,
        spec: &'static Spec,
        connected: &Connected,
        command: &Command,
        position: Position,
        took: Duration,
    ) {
    }
}

impl Client {
    /// Returns when somebody has killed the connection.
    pub(crate) async fn killed(&self) {
        self.0.killed.notified().await;
    }
}
