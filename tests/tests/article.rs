//! Listings of the article, compiled with changed paths only; `docs/article.md` says for each of them
//! whether it compiles, and why the others do not. Its engine of three methods serves over TCP.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    clippy::shadow_unrelated,
    clippy::uninlined_format_args,
    clippy::unwrap_used,
    clippy::use_self,
    reason = "the listings stay as they were printed"
)]

use std::sync::Arc;
use std::thread;

use aryavarth_client::KvsClient;
use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};

/// Chapter 1: the messages.
mod messages {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, Debug)]
    pub enum Request {
        Set { key: String, value: String },
        Get { key: String },
        Remove { key: String },
    }
    #[derive(Serialize, Deserialize, Debug)]
    pub enum Response {
        Ok(Option<String>), // Success: returns value for Get, nothing for Set/Remove
        Err(String),        // Failure: error message
    }
}

/// Chapter 2: the client's use.
fn client_flow(addr: &str) -> Result<(), aryavarth_client::ClientError> {
    let mut client = KvsClient::connect(addr)?;
    client.set("user:42".into(), "Aryavarth".into())?;
    let value = client.get("user:42".into())?;
    assert_eq!(value.as_deref(), Some("Aryavarth"));
    client.remove("user:42".into())?;
    Ok(())
}

/// Chapter 3: the handler of a request.
mod handler {
    use std::io::Write;
    use std::io::{BufReader, BufWriter};
    use std::net::TcpStream;

    use super::messages::{Request, Response};
    use aryavarth::plain::KvsEngine;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    pub fn handle_connection<E: KvsEngine>(stream: TcpStream, engine: E) -> Result<()> {
        let reader = BufReader::new(&stream);
        let mut writer = BufWriter::new(&stream);
        // Read one request per connection (HTTP-style, not persistent)
        let request: Request = serde_json::from_reader(reader)?;
        let response = match request {
            Request::Set { key, value } => {
                engine.set(key, value)?;
                Response::Ok(None)
            }
            Request::Get { key } => {
                let value = engine.get(key)?;
                Response::Ok(value)
            }
            Request::Remove { key } => {
                engine.remove(key)?;
                Response::Ok(None)
            }
        };
        serde_json::to_writer(&mut writer, &response)?;
        writer.flush()?;
        Ok(())
    }
}

/// Chapter 5: the engine over sled. The article's struct lacks the `Clone` that its trait asks for.
mod engine {
    use aryavarth::Result;
    use aryavarth::plain::KvsEngine;
    use sled::Db;

    #[derive(Clone)]
    pub struct SledKvsEngine {
        pub db: Db,
    }
    impl KvsEngine for SledKvsEngine {
        fn set(&self, key: String, value: String) -> Result<()> {
            self.db.insert(key.as_bytes(), value.as_bytes())?;
            self.db.flush()?; // Ensure durability
            Ok(())
        }
        fn get(&self, key: String) -> Result<Option<String>> {
            Ok(self.db.get(key.as_bytes())?.map(|v| String::from_utf8_lossy(&v).into_owned()))
        }
        fn remove(&self, key: String) -> Result<()> {
            self.db.remove(key.as_bytes())?;
            self.db.flush()?;
            Ok(())
        }
    }
}

/// Chapters 3 and 5: the server's struct over an engine and a pool, and the one that knows one store.
mod structs {
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex, RwLock};

    use aryavarth::KvStore;
    use aryavarth::plain::KvsEngine;
    use aryavarth_server::ThreadPool;

    struct KvStoreInner;

    mod before {
        pub struct KvServer {
            store: super::KvStore, // Hardcoded!
        }
    }
    pub struct KvServer<E, P>
    where
        E: KvsEngine, // Any engine that implements our trait
        P: ThreadPool,
    {
        engine: Arc<E>,
        pool: P,
        listener: TcpListener,
    }
    mod mutex {
        pub struct KvStore {
            inner: super::Mutex<super::KvStoreInner>, // One lock to rule them all
        }
    }
    mod rw_lock {
        pub struct KvStore {
            inner: super::RwLock<super::KvStoreInner>, // Multiple readers allowed
        }
    }
}

/// Chapters 7 and 11: the fields of a store, and its write.
mod store {
    use std::fs::File;
    use std::io::{BufWriter, Write};
    use std::path::PathBuf;
    use std::sync::atomic::AtomicU64;
    use std::sync::{Arc, Mutex};

    use crossbeam_skiplist::SkipMap;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    #[derive(serde::Serialize)]
    enum Command {
        Set { key: String, value: String },
    }
    struct LogPointer {
        file_id: u64,
        offset: u64,
        length: u64,
    }
    #[derive(Clone)]
    pub struct KvStore {
        path: Arc<PathBuf>,                      // Immutable after creation
        index: Arc<SkipMap<String, LogPointer>>, // Lock-free concurrent map
        writer: Arc<Mutex<WriterState>>,         // Serialize writes only
        current_file_id: Arc<AtomicU64>,         // Lock-free counter
    }
    struct WriterState {
        writer: BufWriter<File>,
        current_file_id: u64,
        bytes_in_current_file: u64,
    }
    impl KvStore {
        pub fn set(&self, key: String, value: String) -> Result<()> {
            // Serialize access to writer
            let mut writer = self.writer.lock().unwrap();
            // Prepare command
            let cmd = Command::Set { key: key.clone(), value: value.clone() };
            let serialized = serde_json::to_string(&cmd)?;
            // Write to log
            let offset = writer.bytes_in_current_file;
            writeln!(writer.writer, "{}", serialized)?;
            writer.writer.flush()?;
            // Update index with new pointer
            let ptr = LogPointer {
                file_id: writer.current_file_id,
                offset,
                length: serialized.len() as u64,
            };
            self.index.insert(key, ptr);
            Ok(())
        }
    }
}

#[test]
fn the_articles_messages_are_those_of_the_protocol() {
    use messages::{Request, Response};
    let json = |request: &Request| serde_json::to_value(request).unwrap();
    let (key, value) = ("k".to_owned(), "v".to_owned());
    let set = json(&Request::Set { key: key.clone(), value });
    assert_eq!(set, serde_json::json!({"Set": {"key": "k", "value": "v"}}));
    assert_eq!(json(&Request::Get { key }), serde_json::json!({"Get": {"key": "k"}}));
    let absent = serde_json::to_value(Response::Ok(None)).unwrap();
    assert_eq!(absent, serde_json::json!({"Ok": null}));
}

/// Over TCP the engine of chapter 5 sets, gets and removes; other calls are refused by name and change
/// nothing.
#[test]
fn the_articles_engine_of_three_methods_serves() {
    let dir = tempfile::tempdir().unwrap();
    let db = sled::open(dir.path()).unwrap();
    let engine = aryavarth::plain::Plain::new(engine::SledKvsEngine { db });
    let pool = SharedQueueThreadPool::new(2).unwrap();
    let server = Arc::new(KvServer::new("127.0.0.1:0", engine, pool).unwrap());
    let (addr, handle) = (server.local_addr(), server.handle());
    let running = thread::spawn(move || server.run());

    client_flow(&addr.to_string()).unwrap();
    let redis = redis::Client::open(format!("redis://{addr}")).unwrap();
    let mut redis = redis.get_connection().unwrap();
    let _: () = redis::cmd("SET").arg("k").arg("v").query(&mut redis).unwrap();
    assert_eq!(redis::cmd("GET").arg("k").query::<String>(&mut redis).unwrap(), "v");
    for (command, call) in [("INCR k", "run a transaction"), ("KEYS *", "list its keys")] {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        let refused = command.arg(words.next().unwrap()).query::<String>(&mut redis);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(call), "{refused}");
    }
    assert_eq!(redis::cmd("GET").arg("k").query::<String>(&mut redis).unwrap(), "v");
    handle.shutdown();
    running.join().unwrap().unwrap();
}
