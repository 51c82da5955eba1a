//! The server command: a listening socket, a store, a pool, and an orderly end.
//!
//! Wrong options are refused before the store is opened, which would change its directory. The last
//! line printed on the way up is `ready`: scripts wait for it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

#[cfg(feature = "sled")]
use aryavarth::SledKvsEngine;
use aryavarth::{KvStore, KvsEngine, KvsError, Options, Recovery};
use aryavarth_server::{
    Config, KvServer, Limits, Listener, MemoryHooks, NaiveThreadPool, RayonThreadPool,
    SharedQueueThreadPool, ThreadPool, ignore_stray_signals,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::allocator;
use crate::args::{Engine, Pool, ServerOptions};
use crate::notify;
use crate::output::{Failure, say};
use crate::password;

/// How long the store may take to close once the clients are gone.
const CLOSE_TIME: Duration = Duration::from_millis(2_200);
/// Descriptors that are not connections: the store's files mostly.
const DESCRIPTORS_KEPT: u64 = 256;

pub(crate) fn run(options: &ServerOptions) -> Result<(), Failure> {
    ignore_stray_signals().map_err(|error| Failure::Other(format!("no signals: {error}")))?;
    allocator::use_huge_pages(false);
    match options.pool {
        Pool::SharedQueue => run_on::<SharedQueueThreadPool>(options),
        Pool::Rayon => run_on::<RayonThreadPool>(options),
        Pool::Naive => run_on::<NaiveThreadPool>(options),
    }
}

fn run_on<P: ThreadPool>(options: &ServerOptions) -> Result<(), Failure> {
    let password = password::find(options.password_file.as_deref(), options.insecure)?;
    let is_guarded = options.insecure || password.is_some();
    let listener = Listener::bind(options.listen.as_str(), is_guarded)?;
    let limits = Limits { output_bytes_max_total: options.output_max, ..Limits::default() };
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
    let store_options = Options { durability: options.durability, ..Options::default() };
    match options.engine {
        Engine::Kvs => {
            let store = opened(options, KvStore::open_with(&options.data, store_options))?;
            say_store(options, &store);
            say_recovery(store.recovery());
            let server = KvServer::with_config(listener, store.clone(), pool, config);
            serve(server, || store.close())
        }
        #[cfg(feature = "sled")]
        Engine::Sled => {
            let store = opened(options, SledKvsEngine::new_with(&options.data, store_options))?;
            say_store(options, &store);
            say(format_args!("{} keys", store.stats().keys));
            let server = KvServer::with_config(listener, store.clone(), pool, config);
            serve(server, || store.close())
        }
    }
}

/// Serves until a signal comes, then closes the store.
fn serve<E: KvsEngine, P: ThreadPool>(
    server: KvServer<E, P>,
    close_store: impl FnOnce() -> Result<(), KvsError> + Send + 'static,
) -> Result<(), Failure> {
    say(format_args!("listening on {}", server.local_addr()));
    server.run_with(|| {
        say("ready");
        notify::state("READY=1");
    })?;
    notify::state("STOPPING=1");
    close(server, close_store)
}

/// The store, or its error with the remedy.
fn opened<E>(options: &ServerOptions, opened: Result<E, KvsError>) -> Result<E, Failure> {
    opened.map_err(|error| match error {
        error if error.is_full() => Failure::Other(format!(
            "cannot open {}: {error}; nothing acknowledged is lost. Free some space and start again",
            options.data.display()
        )),
        KvsError::Io(error) => Failure::Other(format!(
            "cannot open {}: {error}; nothing acknowledged is lost. Check that it is a directory \
             that you may write to, or choose another one with --data",
            options.data.display()
        )),
        error => error.into(),
    })
}

fn say_store(options: &ServerOptions, store: &impl KvsEngine) {
    say(format_args!("aryavarth {}", env!("CARGO_PKG_VERSION")));
    say(format_args!("engine {}, data in {}", store.name(), options.data.display()));
    say(format_args!("durability {}", store.durability()));
}

/// Prints the findings of the open, and the losses of a crash.
fn say_recovery(found: &Recovery) {
    let Recovery { keys, kept_records, torn_bytes, .. } = found;
    if found.clean {
        say(format_args!("{keys} keys"));
        return;
    }
    say(format_args!(
        "the store was not closed the last time: {keys} keys, {kept_records} records kept that had \
         not been synced, {torn_bytes} bytes of a torn tail cut off"
    ));
    if let Some((path, offset)) = &found.torn_at {
        say(format_args!("the torn tail began at byte {offset} of {}", path.display()));
    }
}

/// Lets jobs that still run finish and closes the store, within reason: an unclean close loses
/// nothing acknowledged, while a supervisor that loses its patience would kill us anyway.
fn close<E: KvsEngine, P: ThreadPool>(
    server: KvServer<E, P>,
    close_store: impl FnOnce() -> Result<(), KvsError> + Send + 'static,
) -> Result<(), Failure> {
    let (closed, wait) = mpsc::channel();
    thread::spawn(move || {
        drop(server);
        closed.send(close_store())
    });
    match wait.recv_timeout(CLOSE_TIME) {
        Ok(result) => {
            result?;
            say("closed");
        }
        Err(_late) => {
            say("stopped while work was still running; nothing acknowledged is lost");
        }
    }
    Ok(())
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
