//! The Aryavarth server: an engine behind a socket.
//!
//! [`KvServer`] is generic over the engine and the thread pool. Sockets are tokio's; engine calls
//! run on the pool, because they may wait for a disk. All that a reply shows is durable before
//! it leaves, and a pipeline does not wait between its requests for that.
//!
//! ```
//! use aryavarth::MemoryEngine;
//! use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};
//!
//! let pool = SharedQueueThreadPool::new(4)?;
//! let server = KvServer::new("127.0.0.1:0", MemoryEngine::new(), pool)?;
//! println!("listening on {}", server.local_addr());
//!
//! let handle = server.handle();
//! let thread = std::thread::spawn(move || server.run());
//! handle.shutdown();
//! thread.join().expect("the server does not panic")?;
//! # Ok::<(), aryavarth_server::ServerError>(())
//! ```

mod budget;
mod clients;
mod commands;
mod connection;
mod counters;
mod error;
mod figures;
mod limits;
mod log;
mod process;
mod requests;
mod server;
mod settings;
mod shared;
mod signals;
pub mod thread_pool;
mod upkeep;
mod writes;

pub use counters::Counters;
pub use error::{Result, ServerError};
pub use limits::Limits;
pub use log::{LoggedEvents, log_events, log_events_to_their_end};
pub use server::{Config, KvServer, Listener, ServerHandle};
pub use signals::ignore_stray_signals;
pub use thread_pool::{NaiveThreadPool, RayonThreadPool, SharedQueueThreadPool, ThreadPool};
pub use upkeep::MemoryHooks;
