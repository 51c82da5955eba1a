//! The store's behaviour, told by the scripts in `tests/scripts`, over a simulated disk.
//!
//! A script lists events and the store's answers; nothing runs by itself, so every run
//! is the same. After a change that is meant, `UPDATE_GOLDENFILES=1 cargo test -p aryavarth
//! scripts` rewrites them; read the difference.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use aryavarth::fs::{Crash, Fault, Fs, SimFs, Site};
use aryavarth::{Batch, Durability, KeyRange, KvStore, KvsError, Options, verify};

use crate::runner::TestClock;

const DIR: &str = "/db";

#[derive(goldenscript::Command)]
enum Command {
    /// Sets keys, `key=value`, each by itself.
    Set {
        #[arg(key, many)]
        pairs: Vec<(String, String)>,
    },
    /// Removes a key.
    Remove { key: String },
    /// Reads a key.
    Get { key: String },
    /// Writes `key=value` and `-key` as one batch.
    Batch {
        #[arg(key, many)]
        sets: Vec<(String, String)>,
        #[arg(pos, many)]
        removes: Vec<String>,
    },
    /// Adds one to a counter, in a closure.
    Increment { key: String },
    /// Shows all entries of a prefix, in order or backwards.
    Scan {
        #[arg(optional)]
        prefix: Option<String>,
        #[arg(key, optional)]
        reverse: bool,
    },
    /// The level that the next calls wait for.
    Level { level: String },
    /// Syncs everything.
    Flush,
    /// Runs the work of the background threads, until there is nothing left.
    Settle,
    /// Rewrites the files without dead records.
    Compact,
    /// Closes the store and opens it again.
    Reopen,
    /// The process is killed, and the store opened again.
    Kill,
    /// The power fails: unsynced data is gone. Then the store is opened again.
    Crash,
    /// The next sync of the log fails.
    FailSync,
    /// The files of the directory.
    Files,
    /// The store's report of itself.
    Stats,
    /// Closes the store, verifies the directory and opens it again.
    Verify,
}

struct Runner {
    fs: SimFs,
    store: Option<KvStore>,
    level: Durability,
}

impl Runner {
    fn new() -> Runner {
        let mut runner = Runner { fs: SimFs::new(), store: None, level: Durability::Always };
        runner.open().expect("a new directory");
        runner
    }

    fn options(&self) -> Options {
        Options {
            fs: Arc::new(self.fs.clone()),
            clock: TestClock::new(),
            background: false,
            segment_bytes_min: 4096,
            seed: 1,
            ..Options::default()
        }
    }

    fn open(&mut self) -> Result<String, KvsError> {
        self.store = None;
        let store = KvStore::open_with(DIR, self.options())?;
        let found = store.recovery();
        let said = format!(
            "opened: clean {}, {} keys, {} records kept, {} bytes torn\n",
            found.clean, found.keys, found.kept_records, found.torn_bytes
        );
        self.store = Some(store);
        Ok(said)
    }

    fn store(&self) -> KvStore {
        let store = self.store.as_ref().expect("the store is open");
        store.with_durability(self.level)
    }

    fn stop(&mut self, crash: Option<Crash>) -> Result<String, KvsError> {
        match (self.store.take(), crash) {
            (Some(store), None) => store.close()?,
            // Forgotten, for dropping it would close it.
            (store, Some(crash)) => {
                let fs = self.fs.crash(crash);
                drop(store);
                self.fs = fs;
            }
            (None, None) => {}
        }
        self.open()
    }

    fn files(&self) -> Result<String, Box<dyn Error>> {
        let mut names = self.fs.list(Site::DirList, Path::new(DIR))?;
        names.sort();
        Ok(names.join(" ") + "\n")
    }

    fn verify(&mut self) -> Result<String, Box<dyn Error>> {
        if let Some(store) = self.store.take() {
            store.close()?;
        }
        let report = verify(DIR, &self.options(), |_, _| {})?;
        let mut said = format!("{} records, {} damaged\n", report.records, report.damage.len());
        said += &self.open()?;
        Ok(said)
    }
}

fn show(value: Option<Vec<u8>>) -> String {
    value.map_or("absent".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        match self.command(command) {
            // An error of the store is a result like others.
            Err(error) if error.is::<KvsError>() => Ok(format!("error: {error}\n")),
            result => result,
        }
    }
}

impl Runner {
    fn command(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut said = String::new();
        match command {
            Command::Set { pairs } => {
                for (key, value) in pairs {
                    self.store().put(key.as_bytes(), value.as_bytes())?;
                }
            }
            Command::Remove { key } => {
                let existed = self.store().delete(key.as_bytes())?;
                writeln!(said, "{key} existed: {existed}")?;
            }
            Command::Get { key } => {
                writeln!(said, "{key} is {}", show(self.store().read(key.as_bytes())?))?;
            }
            Command::Batch { sets, removes } => {
                let pairs = sets.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                let mut batch: Batch = pairs.collect();
                for key in removes {
                    batch.delete(key.as_str());
                }
                writeln!(said, "removed {}", self.store().write(&batch)?)?;
            }
            Command::Increment { key } => {
                let count = self.store().transact(&[key.as_bytes()], |tx| {
                    let old = tx.read(key.as_bytes())?.map_or("0".to_owned(), |v| show(Some(v)));
                    let count = old.parse::<u64>().unwrap_or(0) + 1;
                    tx.put(key.as_str(), count.to_string());
                    Ok(count)
                })?;
                writeln!(said, "{key} is {count}")?;
            }
            Command::Scan { prefix, reverse } => {
                let range = KeyRange::prefix(prefix.as_deref().unwrap_or_default().as_bytes());
                let range = if *reverse { range.reversed() } else { range };
                for entry in self.store().scan(range) {
                    let (key, value) = entry?;
                    writeln!(said, "{}={}", show(Some(key)), show(Some(value)))?;
                }
            }
            Command::Level { level } => self.level = level.parse()?,
            Command::Flush => self.store().flush()?,
            Command::Settle => while self.store().step()? {},
            Command::Compact => self.store().compact()?,
            Command::Reopen => said += &self.stop(None)?,
            Command::Kill => said += &self.stop(Some(Crash::Everything))?,
            Command::Crash => said += &self.stop(Some(Crash::Nothing))?,
            Command::FailSync => self.fs.fail_next(Site::LogSync, Fault::LostSync),
            Command::Files => said += &self.files()?,
            Command::Stats => {
                let stats = self.store().stats();
                writeln!(said, "{} keys, {} live bytes", stats.keys, stats.live_bytes)?;
            }
            Command::Verify => said += &self.verify()?,
        }
        Ok(said)
    }
}

#[test]
fn every_script_of_the_store_gets_its_output() {
    aryavarth_tests::scripts::run_all("tests/scripts", Runner::new);
}
