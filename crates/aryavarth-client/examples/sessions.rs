//! Sessions of a web site, by `RedisClient`: a password, values of any bytes, a deadline, a pipeline,
//! and a transaction that runs only if no other client has come between.
//!
//! `ARYAVARTH_PASSWORD=... cargo run --example sessions -- 127.0.0.1:4000`

#![expect(clippy::print_stdout, reason = "it shows its results")]

use aryavarth_client::{Commands, RedisClient, RedisOptions, Result, Value};

/// Adds one to a number, by optimistic locking: EXEC answers nothing if the watched key changed after
/// it was read, and the round begins anew.
fn count(client: &mut RedisClient, key: &str) -> Result<u64> {
    loop {
        client.command(&["WATCH", key])?;
        let old = client.command(&["GET", key])?.into_bytes().unwrap_or_default();
        let new = String::from_utf8_lossy(&old).parse().unwrap_or(0) + 1;
        let mut transaction = Commands::new();
        transaction.push(&["MULTI"]);
        transaction.push(&["SET", key, &*new.to_string()]);
        transaction.push(&["EXEC"]);
        if client.pipeline(&transaction)?.pop() != Some(Value::Null) {
            return Ok(new);
        }
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4000".to_owned());
    let password = std::env::var("ARYAVARTH_PASSWORD").ok().map(String::into_bytes);
    let options = RedisOptions { password, ..RedisOptions::default() };
    let mut client = RedisClient::connect_with(&*addr, &options)?;

    // Any bytes, for half an hour.
    let session: &[u8] = b"\x00user\xff=42";
    client.command(&[&b"SET"[..], b"session:1", session, b"EX", b"1800"])?;
    let stored = client.command(&["GET", "session:1"])?;
    println!("session:1 is {}", stored.into_bytes().unwrap_or_default().escape_ascii());

    // Commands that are sent together share a wait for the disk. Each succeeds or fails by itself.
    let mut commands = Commands::new();
    commands.push(&["SET", "page", "<p>"]);
    commands.push(&["INCR", "page"]);
    commands.push(&["EXPIRE", "session:1", "60"]);
    for reply in client.pipeline(&commands)? {
        match reply {
            Value::Error(text) => println!("refused: {text}"),
            reply => println!("{reply:?}"),
        }
    }

    client.command(&["DEL", "visits"])?;
    for _ in 0..3 {
        println!("visit {}", count(&mut client, "visits")?);
    }
    Ok(())
}
