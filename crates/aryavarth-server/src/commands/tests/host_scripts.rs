//! The commands' behaviour, told by the scripts in tests/scripts/host, on an engine in memory and a
//! server that is none.
//!
//! A prefix like `b:` is another connection, the tag `[mask]` hides digits, and `host` sets the
//! store's own positions. After a change that is meant, `UPDATE_GOLDENFILES=1 cargo test -p
//! aryavarth-server scripts` rewrites the scripts; read the difference.

use std::error::Error;

use aryavarth::{MemoryEngine, Position};
use aryavarth_protocol::Reply;

use super::connections::Connections;
use super::fake_server::FakeServer;
use crate::commands::AfterReply;
use crate::limits::Limits;

/// Runs commands on connections.
pub(super) struct Runner {
    connections: Connections,
}

impl Runner {
    pub(super) fn new() -> Self {
        let server = FakeServer::new(MemoryEngine::new(), Limits::default());
        Runner { connections: Connections::new(server) }
    }

    /// Runs a command on the connection of that name, which is made if there is none.
    pub(super) fn call(&mut self, name: &str, args: &[&str]) -> String {
        let Some(answer) = self.connections.answer(name, args) else {
            return "waits".into();
        };
        let mut text = match &answer.reply {
            Some(reply) => shown(reply),
            None => "no reply".into(),
        };
        if answer.position > Position::ZERO {
            let (position, level) = (answer.position.0, answer.level);
            text = format!("{text}\nwhen {position} is durable: {level}");
        }
        if answer.then != AfterReply::GoOn {
            text = format!("{text}\nthen {:?}", answer.then);
        }
        text
    }
}

/// A reply as a person reads it, one line for a reply without parts.
fn shown(reply: &Reply) -> String {
    let parts = |begin: &str, all: &[Reply]| {
        let all: Vec<String> = all.iter().map(shown).collect();
        let one = format!("{begin}[{}]", all.join(", "));
        if one.len() <= 90 && !one.contains('\n') {
            return one;
        }
        let lines = all.iter().map(|part| format!("  {}", part.replace('\n', "\n  ")));
        format!("{begin}[\n{}\n]", lines.collect::<Vec<_>>().join("\n"))
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match reply {
        Reply::Simple(text) => format!("+{text}"),
        Reply::Error(bytes) => format!("-{}", text(bytes)),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Bulk(bytes) => format!("{:?}", text(bytes)),
        Reply::Null => "null".into(),
        Reply::NullArray => "null array".into(),
        Reply::Boolean(is) => format!("{is}"),
        // With its point, also where it is whole: a ratio is masked alike then.
        Reply::Double(number) => format!("{number:?}"),
        Reply::BigNumber(digits) => digits.clone(),
        Reply::Verbatim(format, bytes) => {
            format!("{format} {}", text(bytes).replace('\r', "").trim_end())
        }
        Reply::Array(all) => parts("", all),
        Reply::Set(all) => parts("set ", all),
        Reply::Push(all) => parts("push ", all),
        Reply::Several(all) => all.iter().map(shown).collect::<Vec<_>>().join("\n"),
        Reply::Map(entries) => {
            let pair =
                |(name, value): &(Reply, Reply)| format!("{}: {}", shown(name), shown(value));
            let pairs: Vec<Reply> =
                entries.iter().map(|entry| Reply::Simple(pair(entry).into())).collect();
            parts("map ", &pairs).replace("+\"", "\"").replace("+:", ":")
        }
        Reply::Attributed(said, reply) => {
            format!("{} with {}", shown(reply), shown(&Reply::Map(said.clone())))
        }
    }
}

/// The text with every number as an N.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut in_number = false;
    for letter in text.chars() {
        let is_digit = letter.is_ascii_digit();
        if !is_digit {
            masked.push(letter);
        } else if !in_number {
            masked.push('N');
        }
        in_number = is_digit;
    }
    masked
}

impl goldenscript::Runner for Runner {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        if command.name == "host" {
            let mut positions = self.connections.server.positions.lock().unwrap();
            let mut args = command.consume_args();
            while let Some((key, value)) = args.next_key() {
                match key {
                    "written" => positions.0 = value.parse()?,
                    "durable" => positions.1 = value.parse()?,
                    other => return Err(format!("{other} is nothing to set").into()),
                }
            }
            return Ok(String::new());
        }
        let mut args = vec![command.name.as_str()];
        let mut given = command.consume_args();
        args.extend(std::iter::from_fn(|| given.next_pos()));
        let name = context.prefix.clone().unwrap_or_else(|| "a".into());
        let text = self.call(&name, &args);
        let text = if context.tags.contains("mask") { masked(&text) } else { text };
        Ok(text + "\n")
    }
}

#[test]
fn every_script_of_the_server_gets_its_output() {
    aryavarth_tests::scripts::run_all("tests/scripts/host", Runner::new);
}
