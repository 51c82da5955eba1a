//! The `aryavarth` command: the server, its clients, and tools for a store's directory.
//!
//! Data goes to standard output, everything else to standard error. The exit code is 0 when the
//! thing was done, 1 when a key was not found, 2 for any other error. An error is one line that
//! says what happened, what is safe and what to do.

mod args;
mod client;
mod output;
mod salvage;
mod server;
mod transfer;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command};
use crate::output::{Failure, Output};

/// A server makes and frees many small things on several threads, and its index is large. (Measured:
/// `docs/decisions/dependencies.md`.)
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json);
    let done = match args.command {
        Command::Server(options) => server::run(&options),
        Command::Get { key, to } => client::get(&to, &key, &output),
        Command::Set { key, value, to } => client::set(&to, key, value),
        Command::Rm { key, to } => client::remove(&to, key),
        Command::Scan { prefix, limit, to } => client::scan(&to, &prefix, limit, &output),
        Command::Export { prefix, to } => transfer::export(&to, &prefix),
        Command::Import { to } => transfer::import(&to, &output),
        Command::Completion { shell } => {
            let mut command = Args::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "aryavarth", &mut script);
            output::print(&script)
        }
        Command::Compact { to } => client::compact(&to),
        Command::Verify { dir } => verify::run(&dir, &output),
        Command::Salvage { dir, out } => salvage::run(&dir, &out, &output),
    };
    match done {
        Ok(()) | Err(Failure::ReaderGone) => ExitCode::SUCCESS,
        Err(failure) => {
            output.error(&failure.to_string());
            failure.exit_code()
        }
    }
}
