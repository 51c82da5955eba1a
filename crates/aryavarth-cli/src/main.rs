//! The `aryavarth` command: the server, its clients, and tools for a store's directory.
//!
//! Data goes to standard output, everything else to standard error. The exit code is 0 when the
//! thing was done, 1 when a key was not found or a condition did not hold, 2 for any other error. An
//! error is one line that names the failure, the state of the data and the remedy.

mod allocator;
mod args;
mod base64;
mod client;
mod connect;
mod damage;
mod export;
mod import;
mod keys;
mod limits;
mod line;
mod log;
mod notify;
mod output;
mod password;
mod progress;
mod salvage;
mod server;
mod size;
mod status;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::output::{Failure, Output};

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json);
    let done = match args.command {
        Command::Server(options) => server::run(&options, args.json),
        Command::Get { key, raw, at } => client::get(&at, &key, raw, &output),
        Command::Set { key, value, options, at } => client::set(&at, &key, &value, &options),
        Command::Rm { key, at } => client::remove(&at, &key),
        Command::Ttl { key, at } => client::ttl(&at, &key, &output),
        Command::Scan { keys, limit, at } => client::scan(&at, keys.prefix(), limit, &output),
        Command::Ping { to } => status::ping(&to, &output),
        Command::Info { section, to } => status::info(&to, section.as_deref(), &output),
        Command::Status { to } => status::status(&to, &output),
        Command::Export { keys, db, to } => export::run(&to, keys.prefix(), db, &output),
        Command::Import { keep, overwrite: _, to } => import::run(&to, keep, &output),
        Command::Completion { shell } => {
            let mut command = Args::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "aryavarth", &mut script);
            output::print(&script)
        }
        Command::Man { dir } => {
            let command = Args::command().propagate_version(true);
            let made = std::fs::create_dir_all(&dir);
            made.and_then(|()| clap_mangen::generate_to(command, &dir)).map_err(|error| {
                let dir = dir.display();
                Failure::Other(format!("cannot write man pages to {dir}: {error}"))
            })
        }
        Command::Compact { to } => client::compact(&to, &output),
        Command::Damage { to } => damage::run(&to, &output),
        Command::Verify { dir } => verify::run(&dir, &output),
        Command::Salvage { dir, out } => salvage::run(&dir, &out, &output),
    };
    match done {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure @ Failure::Logged) => failure.exit_code(),
        Err(failure) => {
            output.error(&failure.to_string());
            failure.exit_code()
        }
    }
}
