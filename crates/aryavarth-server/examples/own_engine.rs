//! An engine of three methods behind the server: its keys are files in a directory, one for each.
//!
//! `cargo run --example own_engine -- DIRECTORY`, then `redis-cli -p PORT set user Alice`. It serves
//! until its standard input ends.

#![expect(clippy::print_stdout, reason = "it shows its results")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use aryavarth::plain::{KvsEngine, Plain};
use aryavarth::{KvsError, Result};
use aryavarth_server::{KvServer, SharedQueueThreadPool, ThreadPool};

/// One file for each key, written anew at each set. It keeps none of the store's promises: it shows
/// that the server asks for no more than three methods.
#[derive(Clone)]
struct Files {
    dir: Arc<PathBuf>,
}

impl Files {
    /// The file of a key: its bytes in hexadecimal, so that no key leads out of the directory.
    fn path(&self, key: &str) -> PathBuf {
        let bytes: Vec<String> = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.dir.join(format!("k{}", bytes.concat()))
    }
}

/// The engine's own error, as the server's clients see it.
fn refused(error: io::Error) -> KvsError {
    KvsError::Engine(Arc::new(error))
}

impl KvsEngine for Files {
    fn set(&self, key: String, value: String) -> Result<()> {
        let mut file = File::create(self.path(&key)).map_err(refused)?;
        file.write_all(value.as_bytes()).and_then(|()| file.sync_all()).map_err(refused)
    }

    fn get(&self, key: String) -> Result<Option<String>> {
        match fs::read_to_string(self.path(&key)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    fn remove(&self, key: String) -> Result<()> {
        match fs::remove_file(self.path(&key)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(KvsError::KeyNotFound),
            result => result.map_err(refused),
        }
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("say in which directory")?);
    fs::create_dir_all(&dir)?;
    let engine = Plain::new(Files { dir: Arc::new(dir) });
    let server = KvServer::new("127.0.0.1:0", engine, SharedQueueThreadPool::new(4)?)?;
    println!("listening on {}", server.local_addr());

    let handle = server.handle();
    let serving = thread::spawn(move || server.run());
    io::stdin().read_to_end(&mut Vec::new())?;
    handle.shutdown();
    serving.join().expect("the server does not panic")?;
    Ok(())
}
