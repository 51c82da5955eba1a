//! A program that uses a store itself and serves it to others at the same time, until its standard
//! input ends.
//!
//! `cargo run --example embedded -- DIRECTORY`, then `redis-cli -p PORT get greeting`

#![expect(clippy::print_stdout, reason = "it shows its results")]

use std::error::Error;
use std::io::{self, Read};
use std::thread;

use aryavarth::{KvStore, Options};
use aryavarth_server::{
    Config, KvServer, Limits, Listener, SharedQueueThreadPool, ThreadPool, log_events,
};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("say in which directory")?;
    // The store's changes of state go to the log of the crate `tracing`, if the program has one.
    let options = Options { events: log_events()?, ..Options::default() };
    let store = KvStore::open_with(&dir, options)?;
    store.put(b"greeting", b"hello")?;

    // Port 0 is a free one. An address that other machines can reach needs a password.
    let listener = Listener::bind("127.0.0.1:0", false)?;
    let limits = Limits { connections_max: 100, ..Limits::default() };
    let config = Config { limits, ..Config::default() };
    let pool = SharedQueueThreadPool::new(4)?;
    let server = KvServer::with_config(listener, store.clone(), pool, config);
    println!("listening on {}", server.local_addr());

    let handle = server.handle();
    let serving = thread::spawn(move || server.run());
    io::stdin().read_to_end(&mut Vec::new())?;
    // Requests that have arrived are answered before the server stops.
    handle.shutdown();
    serving.join().expect("the server does not panic")?;

    // The program sees the clients' writes.
    for key in store.keys(..) {
        println!("{} is left", key?.escape_ascii());
    }
    store.close()?;
    Ok(())
}
