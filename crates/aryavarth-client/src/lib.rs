//! Clients for the Aryavarth key-value store: [`KvsClient`], blocking, on the standard library
//! alone, and with the feature `async` its twin for tokio, `AsyncKvsClient`. Both speak JSON, which
//! carries text. [`RedisClient`] speaks the Redis protocol: any bytes, passwords, databases and every
//! command.
//!
//! ```
//! # use aryavarth::MemoryEngine;
//! # use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};
//! # let server = KvServer::new("127.0.0.1:0", MemoryEngine::new(), SharedQueueThreadPool::new(1)?)?;
//! # let (addr, handle) = (server.local_addr(), server.handle());
//! # let thread = std::thread::spawn(move || server.run());
//! use aryavarth_client::KvsClient;
//!
//! let mut client = KvsClient::connect(addr)?; // for example "127.0.0.1:4000"
//!
//! client.set("user:42".into(), "Aryavarth".into())?; // on the server's disk from here on
//! assert_eq!(client.get("user:42".into())?, Some("Aryavarth".into()));
//!
//! client.remove("user:42".into())?;
//! assert_eq!(client.get("user:42".into())?, None);
//! # handle.shutdown();
//! # thread.join().expect("no panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "async")]
mod async_client;
mod client;
mod error;
mod pipeline;
mod redis_client;
mod value;

#[cfg(feature = "async")]
pub use async_client::AsyncKvsClient;
pub use client::{KvsClient, Timeouts};
pub use error::{ClientError, Result};
pub use pipeline::{Pipeline, Reply};
pub use redis_client::{Commands, RedisClient, RedisOptions};
pub use value::Value;
