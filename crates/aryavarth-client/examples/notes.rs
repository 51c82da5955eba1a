//! A notebook on a server, by `KvsClient`: one note, many notes in one pipeline, a walk over them in
//! pages, and a write whose reply is lost.
//!
//! `cargo run --example notes -- 127.0.0.1:4000`

#![expect(clippy::print_stdout, reason = "it shows its results")]

use aryavarth_client::{ClientError, KvsClient, Pipeline, Result};

const PAGE: u64 = 2;

/// Sets a key. If the reply was lost, the value of the key tells whether the write was done; setting
/// the same value twice is the same as once, so it may be sent again.
fn set(client: &mut KvsClient, key: &str, value: &str) -> Result<()> {
    match client.set(key.into(), value.into()) {
        Err(ClientError::OutcomeUnknown { .. }) => {
            if client.get(key.into())?.as_deref() == Some(value) {
                return Ok(());
            }
            client.set(key.into(), value.into())
        }
        result => result,
    }
}

/// All notes, in pages: the last key of a page begins the next one.
fn notes(client: &mut KvsClient) -> Result<Vec<(String, String)>> {
    let (mut notes, mut after) = (Vec::new(), None);
    loop {
        let page = client.scan("note:".into(), after, PAGE)?;
        let is_last = (page.len() as u64) < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        notes.extend(page);
        if is_last {
            return Ok(notes);
        }
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4000".to_owned());
    let mut client = KvsClient::connect(&*addr)?;

    // It is on the server's disk when the call returns.
    set(&mut client, "note:1", "buy bread")?;

    // Sent together, so they become durable together.
    let pipeline = Pipeline::new().set("note:2", "call Bob").set("note:3", "pay rent");
    for reply in client.run(pipeline)? {
        reply?;
    }
    for (key, note) in notes(&mut client)? {
        println!("{key}: {note}");
    }

    client.remove("note:2".into())?;
    match client.remove("note:2".into()) {
        Err(ClientError::KeyNotFound) => println!("note:2 was removed"),
        other => other?,
    }
    println!("{} notes are left", notes(&mut client)?.len());
    Ok(())
}
