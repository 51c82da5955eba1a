//! Servers in processes of their own: Debian's redis, and ours.
//!
//! Which one a test runs against is a matter of [`Kind`] alone, so every test of a client is proved
//! against the server that the client was written for: `SUBJECT=redis` puts Debian's redis in our
//! place, and `SUBJECT=sled` our other engine. A server ends with its handle; a killed one can be started again on its directory.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::parts::{self, Tools, told};
use crate::resp::Connection;
use crate::text_files;

/// The longest that a server may take until it answers.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest that our own program may take to build, if the build at hand is an old one.
const BUILD_TIME_MAX: Duration = Duration::from_secs(900);

/// Which server.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Debian's redis-server, in memory.
    Redis(Tools),
    /// Debian's redis-server with a log that it syncs before each reply.
    DurableRedis(Tools),
    /// Our program, on one of its engines.
    Aryavarth {
        /// The program.
        program: PathBuf,
        /// `kvs` or `sled`.
        engine: String,
    },
}

/// The server that the tests are about: ours on `engine`, unless `SUBJECT` names another engine, or
/// `redis`, which puts Debian's redis in our place.
///
/// # Errors
/// Why it cannot be had.
pub fn subject(engine: &str) -> Result<Kind, String> {
    let subject = std::env::var("SUBJECT").unwrap_or_else(|_| engine.to_owned());
    match subject.as_str() {
        "redis" => Ok(Kind::DurableRedis(parts::redis_tools()?)),
        _ => Ok(Kind::Aryavarth { program: program()?, engine: subject }),
    }
}

/// Our program, as `cargo test` has built it; built again if sources are newer than it, as after
/// an edit when only this package's tests are run.
///
/// # Errors
/// If it does not build.
pub fn program() -> Result<PathBuf, String> {
    built("aryavarth", &["--package", "aryavarth-cli"])
}

/// The program of a package's example, likewise.
///
/// # Errors
/// If it does not build.
pub fn example(package: &str, name: &str) -> Result<PathBuf, String> {
    built(&format!("examples/{name}"), &["--package", package, "--example", name])
}

/// A program at its place below the build output.
fn built(place: &str, target: &[&str]) -> Result<PathBuf, String> {
    let profile = parts::profile_output()?;
    let program = profile.join(place);
    let built = program.metadata().and_then(|data| data.modified()).ok();
    let is_source = |path: &str| {
        path.starts_with("crates/") && (path.contains("/src/") || path.contains("/examples/"))
    };
    let changed = |path: &str| crate::root().join(path).metadata().and_then(|data| data.modified());
    let sources = text_files().into_iter().map(|file| file.path).filter(|path| is_source(path));
    let newest: Option<SystemTime> = sources.filter_map(|path| changed(&path).ok()).max();
    if built.is_some() && built >= newest {
        return Ok(program);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").args(target).arg("--profile");
    cargo.arg(if profile.ends_with("release") { "release" } else { "test" });
    cargo.arg("--target-dir").arg(parts::build_output()?).current_dir(crate::root());
    parts::run_within(cargo, BUILD_TIME_MAX)?;
    Ok(program)
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    child: Child,
    addr: SocketAddr,
}

impl Server {
    /// Starts a server on a directory, with further arguments, and waits until it answers.
    ///
    /// # Errors
    /// Its output, if it ended or was not ready in time.
    pub fn start(kind: &Kind, data: &Path, arguments: &[&str]) -> Result<Server, String> {
        // Redis takes no port 0, so another process may take the port first: then once more.
        let mut last = String::new();
        for _attempt in 0..5 {
            let mut listen = SocketAddr::from(([127, 0, 0, 1], 0));
            if !matches!(kind, Kind::Aryavarth { .. }) {
                let free = TcpListener::bind(listen).map_err(told)?;
                listen = free.local_addr().map_err(told)?;
            }
            match Server::start_at(kind, data, listen, arguments) {
                Ok(server) => return Ok(server),
                Err(why) => last = why,
            }
        }
        Err(last)
    }

    /// Starts a server on the directory and the address of this one, which has been killed.
    ///
    /// # Errors
    /// Its output, if it ended or was not ready in time.
    pub fn start_again(&self, data: &Path) -> Result<Server, String> {
        Server::start_at(&self.kind, data, self.addr, &[])
    }

    fn start_at(
        kind: &Kind,
        data: &Path,
        listen: SocketAddr,
        arguments: &[&str],
    ) -> Result<Server, String> {
        match kind {
            Kind::Redis(tools) | Kind::DurableRedis(tools) => {
                let mut command = tools.command("redis-server");
                command.args(["--port", &listen.port().to_string(), "--bind", "127.0.0.1"]);
                command.args(["--save", "", "--dir"]).arg(data).args(arguments);
                if matches!(kind, Kind::DurableRedis(_)) {
                    command.args(["--appendonly", "yes", "--appendfsync", "always"]);
                }
                command.stdout(Stdio::null()).stderr(Stdio::null());
                let child = command.spawn().map_err(told)?;
                let mut server = Server { kind: kind.clone(), child, addr: listen };
                server.wait_for_info()?;
                Ok(server)
            }
            Kind::Aryavarth { program, engine } => {
                let mut command = Command::new(program);
                command.args(["server", "--listen", &listen.to_string(), "--engine", engine]);
                if has_admin_port(program)? {
                    command.args(["--admin", "off"]);
                }
                command.arg("--data").arg(data).args(arguments);
                let (child, addr) = start_ours(command)?;
                Ok(Server { kind: kind.clone(), child, addr })
            }
        }
    }

    fn wait_for_info(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < START_TIME_MAX {
            if let Some(status) = self.child.try_wait().map_err(told)? {
                return Err(format!("it ended: {status}"));
            }
            if let Ok(mut connection) = Connection::open(self.addr) {
                // It is the right one, not another that took the port; loading, it says so.
                let number = format!("process_id:{}\r\n", self.child.id());
                let info = connection.ask(&["INFO"]).unwrap_or_default();
                let says = |line: &str| info.windows(line.len()).any(|at| at == line.as_bytes());
                if says(&number) && says("\nloading:0\r\n") {
                    return Ok(());
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("it does not answer".to_owned())
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: nothing of the process runs any more when this returns.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether our program has a second port, which several servers beside each other must not share.
fn has_admin_port(program: &Path) -> Result<bool, String> {
    let help = Command::new(program).args(["server", "--help"]).output().map_err(told)?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("--admin"))
}

/// Runs our program until it says that it is ready, and where it listens.
fn start_ours(mut command: Command) -> Result<(Child, SocketAddr), String> {
    let mut child = command.stderr(Stdio::piped()).spawn().map_err(told)?;
    let stderr = child.stderr.take().ok_or("no standard error")?;
    let (tell, told_by) = mpsc::channel();
    // The thread reads on after `ready`, so that the server never waits for its reader.
    thread::spawn(move || {
        let mut addr: Option<SocketAddr> = None;
        let mut said = String::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if let Some(at) = line.strip_prefix("listening on ") {
                addr = at.parse().ok();
            }
            if line == "ready" {
                drop(tell.send(addr.ok_or_else(|| "it told no address".to_owned())));
            }
            said.push_str(&line);
            said.push('\n');
        }
        drop(tell.send(Err(format!("the server ended:\n{said}"))));
    });
    let told = told_by.recv_timeout(START_TIME_MAX);
    match told.unwrap_or_else(|_| Err("the server did not get ready".to_owned())) {
        Ok(addr) => Ok((child, addr)),
        Err(why) => {
            drop(child.kill());
            drop(child.wait());
            Err(why)
        }
    }
}
