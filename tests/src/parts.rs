//! Real parts for the tests: Debian's redis, and clients in Python and JavaScript.
//!
//! Programs that the machine has are used as they are; missing ones are fetched once into `real-parts` beside
//! the build output, in versions written down here, and nothing else on the machine changes. A
//! part that cannot be had is an `Err` with the reason, and the test that wanted it says that it
//! was skipped. Invariants: one process at a time installs a part, the others wait for it; an
//! installation has a time limit; a stamp with the list of versions is written last, so a half
//! installation is never used; a failed one is not tried again for ten minutes.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The longest that one installation may take.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(180);
/// How long a failed installation is remembered.
const FAILURE_KEPT: Duration = Duration::from_secs(600);

/// Debian's packages: the server, its tools, and the libraries that a machine may lack.
const DEBIAN: &str = "redis-server redis-tools libjemalloc2 liblzf1 libatomic1 liblua5.1-0";
/// The Python clients and the frameworks that use one of them.
const PYTHON: &str = "redis==8.1.0 Django==5.2.19 Flask==3.1.3 Flask-Session==0.8.0 cachelib==0.17.0 \
     limits==5.8.0";
/// The JavaScript clients and the framework that uses one of them.
const NODE: &str = "redis@6.3.1 ioredis@6.0.0 express@5.3.0 express-session@1.19.0 connect-redis@9.0.0 \
     rate-limiter-flexible@11.4.0";

/// Programs and the libraries that they need.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Where the programs are; `None` means in the `PATH`.
    unpacked: Option<PathBuf>,
}

impl Tools {
    /// A command that runs `program`, `redis-server` for example.
    pub fn command(&self, program: &str) -> Command {
        let Some(root) = &self.unpacked else { return Command::new(program) };
        let mut command = Command::new(root.join("usr/bin").join(program));
        command.env("LD_LIBRARY_PATH", library_path(root));
        command
    }
}

/// Debian's `redis-server`, `redis-cli` and `redis-benchmark`, from the `PATH` or unpacked.
///
/// # Errors
/// Why they cannot be had.
pub fn redis_tools() -> Result<Tools, String> {
    let here = Tools { unpacked: None };
    if ["redis-server", "redis-cli", "redis-benchmark"].iter().all(|name| answers(&here, name)) {
        return Ok(here);
    }
    let root = installed("debian", DEBIAN, |dir| {
        let download = || {
            let mut apt = Command::new("apt-get");
            apt.args(["-q", "download"]).args(DEBIAN.split(' ')).current_dir(dir);
            finished(apt)
        };
        // A machine that has never fetched its lists of packages can still do so.
        download().or_else(|_| {
            let mut update = Command::new("apt-get");
            update.args(["-q", "update"]);
            finished(update)?;
            download()
        })?;
        for entry in fs::read_dir(dir).map_err(told)? {
            let path = entry.map_err(told)?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                let mut unpack = Command::new("dpkg");
                unpack.arg("-x").arg(&path).arg(dir);
                finished(unpack)?;
            }
        }
        Ok(())
    })?;
    let tools = Tools { unpacked: Some(root) };
    if answers(&tools, "redis-server") {
        Ok(tools)
    } else {
        Err("the unpacked redis-server does not run here".to_owned())
    }
}

/// A Python interpreter that has the Python clients.
///
/// # Errors
/// Why it cannot be had.
pub fn python() -> Result<PathBuf, String> {
    let root = installed("python", PYTHON, |dir| {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(dir);
        finished(venv)?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(PYTHON.split(' '));
        finished(pip)
    })?;
    Ok(root.join("bin/python"))
}

/// A directory whose `node_modules` has the JavaScript clients; `node` is in the `PATH`.
///
/// # Errors
/// Why it cannot be had.
pub fn node() -> Result<PathBuf, String> {
    let mut version = Command::new("node");
    version.arg("--version");
    finished(version)?;
    installed("node", NODE, |dir| {
        fs::write(dir.join("package.json"), "{\"private\":true}\n").map_err(told)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]);
        npm.args(NODE.split(' ')).current_dir(dir);
        finished(npm)
    })
}

/// Runs a command to its end, but no longer than `time_max`, and returns its text on both
/// outputs.
///
/// # Errors
/// Its output, if it failed, could not be started or took too long.
pub fn run_within(mut command: Command, time_max: Duration) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (mut output, writer) = std::io::pipe().map_err(told)?;
    command.stdout(writer.try_clone().map_err(told)?).stderr(writer);
    let mut child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
    // The command holds the other ends of the pipe.
    drop(command);
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        drop(output.read_to_end(&mut said));
        String::from_utf8_lossy(&said).into_owned()
    });
    let start = Instant::now();
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().map_err(told)? {
            break status;
        }
        if start.elapsed() > time_max {
            drop(child.kill());
            drop(child.wait());
            // A grandchild may hold the pipe, so the output so far is left alone.
            return Err(format!("{name} took longer than {} s", time_max.as_secs()));
        }
        thread::sleep(Duration::from_millis(10));
    };
    let said = reader.join().unwrap_or_default();
    if status.success() { Ok(said) } else { Err(format!("{name} failed: {status}\n{said}")) }
}

/// The directory of a part, installed by `install` unless it is there.
fn installed(
    name: &str,
    versions: &str,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let parts = build_output()?.join("real-parts");
    fs::create_dir_all(&parts).map_err(told)?;
    let lock = File::create(parts.join(format!("{name}.lock"))).map_err(told)?;
    lock.lock().map_err(told)?;

    let (dir, failure) = (parts.join(name), parts.join(format!("{name}.failed")));
    let stamp = dir.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == versions) {
        return Ok(dir);
    }
    let failed_at = failure.metadata().and_then(|data| data.modified()).ok();
    if failed_at.and_then(|at| at.elapsed().ok()).is_some_and(|age| age < FAILURE_KEPT) {
        return fs::read_to_string(&failure).map_or_else(|error| Err(told(error)), Err);
    }
    drop(fs::remove_dir_all(&dir));
    fs::create_dir_all(&dir).map_err(told)?;
    match install(&dir) {
        Ok(()) => {
            fs::write(stamp, versions).map_err(told)?;
            drop(fs::remove_file(failure));
            Ok(dir)
        }
        Err(why) => {
            let last: Vec<&str> = why.lines().rev().take(5).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            let why = format!("{name} cannot be installed: {}", last.join(" | "));
            fs::write(failure, &why).map_err(told)?;
            Err(why)
        }
    }
}

fn finished(command: Command) -> Result<(), String> {
    run_within(command, INSTALL_TIME_MAX).map(drop)
}

/// Whether a program runs and tells its version.
fn answers(tools: &Tools, program: &str) -> bool {
    let mut command = tools.command(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The folders below an unpacked root that hold shared libraries.
fn library_path(root: &Path) -> String {
    let mut folders = vec![root.join("usr/lib")];
    if let Ok(entries) = fs::read_dir(root.join("usr/lib")) {
        let paths = entries.flatten().map(|entry| entry.path());
        folders.extend(paths.filter(|path| path.is_dir()));
    }
    let folders: Vec<_> = folders.iter().map(|path| path.to_string_lossy()).collect();
    folders.join(":")
}

/// Cargo's build output, which the running test is a part of.
pub(crate) fn build_output() -> Result<PathBuf, String> {
    Ok(profile_output()?.parent().ok_or("no folder above the build output")?.to_owned())
}

/// The part of the build output where the programs of this build are.
pub(crate) fn profile_output() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(told)?;
    let deps = test.ancestors().find(|path| path.ends_with("deps"));
    let profile = deps.and_then(Path::parent).ok_or("the test runs outside a build output")?;
    Ok(profile.to_owned())
}

#[expect(clippy::needless_pass_by_value, reason = "called through map_err")]
pub(crate) fn told(error: impl ToString) -> String {
    error.to_string()
}
