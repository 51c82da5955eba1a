//! The server command: a listening socket, a store, a pool, and an orderly end.
//!
//! Wrong options are refused before the store is opened, which would change its directory. Each change
//! of state is a line of the log (log.rs); the last line on the way up is `ready`.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

#[cfg(feature = "sled")]
use aryavarth::SledKvsEngine;
use aryavarth::{Damage, KvStore, KvsEngine, KvsError, Options, Recovery};
use aryavarth_server::{
    Config, KvServer, Limits, Listener, LoggedEvents, MemoryHooks, NaiveThreadPool,
    RayonThreadPool, SharedQueueThreadPool, ThreadPool, ignore_stray_signals,
    log_events_to_their_end,
};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{error, info, warn};

use crate::allocator;
use crate::args::{Engine, Pool, ServerOptions};
use crate::log::{self, Format};
use crate::notify;
use crate::output::{Failure, has_host};
use crate::password;

/// How long the store may take to close once the clients are gone.
const CLOSE_TIME: Duration = Duration::from_millis(2_200);
/// How long the store's last events may take to be in the log.
const EVENTS_TIME: Duration = Duration::from_secs(1);
/// Descriptors that are not connections: the store's files mostly.
const DESCRIPTORS_KEPT: u64 = 256;

pub(crate) fn run(options: &ServerOptions, json: bool) -> Result<(), Failure> {
    ignore_stray_signals().map_err(|error| Failure::Other(format!("no signals: {error}")))?;
    let format = if json { Format::Json } else { options.log_format };
    let _log = log::begin(options.log_level, format)
        .map_err(|error| Failure::Other(format!("no log: {error}")))?;
    allocator::use_huge_pages(false);
    let done = match options.pool {
        Pool::SharedQueue => run_on::<SharedQueueThreadPool>(options),
        Pool::Rayon => run_on::<RayonThreadPool>(options),
        Pool::Naive => run_on::<NaiveThreadPool>(options),
    };
    done.map_err(|failure| {
        let reason = failure.to_string();
        error!(reason, "failed");
        Failure::Logged
    })
}

fn run_on<P: ThreadPool>(options: &ServerOptions) -> Result<(), Failure> {
    let limits = options.limits.limits()?;
    has_host(&options.listen)?;
    let password = password::find(options.password_file.as_deref(), options.insecure)?;
    let is_guarded = options.insecure || password.is_some();
    let listener = Listener::bind(options.listen.as_str(), is_guarded)?;
    let limits = limits_of_system(limits);
    let pool = P::new(options.threads.unwrap_or_else(threads_default))?;
    let directory = options.data.display().to_string();
    let config = Config {
        limits,
        password: password.unwrap_or_default(),
        memory_bytes_max: options.memory_max,
        directory,
        stop_on_signals: true,
        memory: MemoryHooks {
            give_back: Some(allocator::give_back),
            use_huge_pages: Some(allocator::use_huge_pages),
        },
    };
    let (events, logged) = log_events_to_their_end()
        .map_err(|error| Failure::Other(format!("no threads: {error}")))?;
    let mut store_options =
        Options { durability: options.durability, events, ..Options::default() };
    options.limits.widen(&mut store_options);
    store_options.map_bytes_max = options.map_max.unwrap_or(u64::MAX);
    // Where it is refused no file is mapped, and reads make calls of the system.
    drop(aryavarth::fs::install_sigbus_guard());
    log_start(options);
    let begun = Instant::now();
    match options.engine {
        Engine::Kvs => {
            let store = opened(options, &logged, KvStore::open_with(&options.data, store_options))?;
            log_recovery(store.recovery(), begun.elapsed());
            log_damage(&store.damage());
            let server = KvServer::with_config(listener, store.clone(), pool, config);
            serve(server, &logged, || store.close())
        }
        #[cfg(feature = "sled")]
        Engine::Sled => {
            let opening = SledKvsEngine::open_with(&options.data, store_options);
            let store = opened(options, &logged, opening)?;
            let took_ms = ms(begun.elapsed());
            info!(keys = store.stats().keys, took_ms, "recovered");
            let server = KvServer::with_config(listener, store.clone(), pool, config);
            serve(server, &logged, || store.close())
        }
    }
}

/// Serves until a signal comes, then closes the store.
fn serve<E: KvsEngine, P: ThreadPool>(
    server: KvServer<E, P>,
    logged: &LoggedEvents,
    close_store: impl FnOnce() -> Result<(), KvsError> + Send + 'static,
) -> Result<(), Failure> {
    log::plain(&format!("listening on {}", server.local_addr()));
    server.run_with(|| {
        log::plain("ready");
        notify::state("READY=1");
    })?;
    notify::state("STOPPING=1");
    close(server, logged, close_store)
}

/// The store, or its error with the remedy.
fn opened<E>(
    options: &ServerOptions,
    logged: &LoggedEvents,
    opened: Result<E, KvsError>,
) -> Result<E, Failure> {
    let directory = options.data.display();
    opened.inspect_err(|_| _ = logged.wait(EVENTS_TIME)).map_err(|error| match error {
        error if error.is_full() => Failure::Other(format!(
            "cannot open {directory}: {error}; nothing acknowledged is lost. Free some space and start \
             again"
        )),
        KvsError::Io(error) => Failure::Other(format!(
            "cannot open {directory}: {error}; nothing acknowledged is lost. Check that it is a directory \
             that you may write to, or choose another one with --data"
        )),
        error => error.into(),
    })
}

fn log_start(options: &ServerOptions) {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let directory = options.data.display().to_string();
    let engine = options.engine.to_possible_value();
    let engine = engine.as_ref().map(PossibleValue::get_name);
    info!(version, pid, directory, engine, durability = %options.durability, "started");
}

/// The findings of the open. A log that a crash left is told by its whole records, which were kept;
/// bytes of a record that is not whole have a line of their own.
fn log_recovery(found: &Recovery, took: Duration) {
    let Recovery { keys, segments, kept_records, torn_bytes, merged_segments, .. } = *found;
    let took_ms = ms(took);
    if found.clean {
        info!(keys, segments, merged_segments, took_ms, clean = true, "recovered");
        return;
    }
    let note = "the store was not closed the last time; all whole records behind the last mark of a \
                sync were kept";
    info!(
        keys,
        segments,
        merged_segments,
        took_ms,
        clean = false,
        kept_records,
        torn_bytes,
        note,
        "recovered"
    );
    if let Some((path, offset)) = &found.torn_at {
        let file = path.display().to_string();
        let note = "these bytes were no whole records, as a crash amid a write leaves them";
        warn!(file, offset, bytes = torn_bytes, note, "tail cut");
    }
}

/// The damage that an earlier run found and that is still there.
fn log_damage(known: &[Damage]) {
    let lost = known.iter().filter(|damage| damage.is_loss()).count();
    let Some(first) = known.iter().find(|damage| damage.is_loss() || lost == 0) else { return };
    let (places, file, offset) = (known.len(), first.path.display().to_string(), first.offset);
    let safe = "all other records are served";
    let remedy = "see `aryavarth damage`";
    if lost > 0 {
        error!(places, lost, file, offset, safe, remedy, "damage known");
    } else {
        warn!(places, lost, file, offset, safe, remedy, "damage known");
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Lets jobs that still run finish and closes the store, within reason: an unclean close loses
/// nothing acknowledged, while a supervisor that loses its patience would kill us anyway.
fn close<E: KvsEngine, P: ThreadPool>(
    server: KvServer<E, P>,
    logged: &LoggedEvents,
    close_store: impl FnOnce() -> Result<(), KvsError> + Send + 'static,
) -> Result<(), Failure> {
    let (closed, wait) = mpsc::channel();
    let closing = thread::Builder::new().name("close".to_owned()).spawn(move || {
        drop(server);
        closed.send(close_store())
    });
    closing.map_err(|error| {
        Failure::Other(format!(
            "no thread to close the store: {error}; nothing acknowledged is lost"
        ))
    })?;
    match wait.recv_timeout(CLOSE_TIME) {
        Ok(result) => {
            logged.wait(EVENTS_TIME);
            result.map_err(not_closed)?;
            info!("closed");
        }
        Err(_late) => {
            let safe = "nothing acknowledged is lost";
            warn!(safe, "stopped while work was running");
        }
    }
    Ok(())
}

/// The error of a close, which an open reads as a crash: the store keeps everything acknowledged that
/// the disk still holds.
fn not_closed(error: KvsError) -> Failure {
    let (reason, remedy) = match error {
        KvsError::Corrupt { path, offset, reason } => (
            format!("{} is damaged at byte {offset}: {reason}", path.display()),
            "Copy the directory, then run `aryavarth verify` on it to see what is affected",
        ),
        error => (error.to_string(), "Start the server again once that is mended"),
    };
    Failure::Other(format!(
        "stopped, but the store could not be closed: {reason}. All other acknowledged writes are on \
         disk. {remedy}"
    ))
}

fn threads_default() -> u32 {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    u32::try_from(cores * 2).unwrap_or(64).max(4)
}

/// Asks the system for all the descriptors that it allows, and accepts no more clients than that.
fn limits_of_system(mut limits: Limits) -> Limits {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let descriptors = if raised { maximum } else { current };
    if let Some(descriptors) = descriptors {
        let clients = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(descriptors / 2);
        let clients = usize::try_from(clients).unwrap_or(usize::MAX);
        limits.connections_max = limits.connections_max.min(clients);
    }
    limits
}
