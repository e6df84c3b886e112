//! The machine that the agent runs on.

use super::{
    liveness::{self, ProcessStamp},
    port::{BoxFuture, HostTools},
    short::{self, Short, ShortEnd},
    silence, start,
    tool_dir::ToolDir,
};
use crate::config::Runner;
use nix::sys::signal::{Signal, kill};
use std::{
    io,
    net::SocketAddrV4,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpStream, time};

/// How often a waiting agent looks for the end of a tool. A look is one `stat(2)`.
const LOOK: Duration = Duration::from_millis(50);

/// Processes of this machine.
#[derive(Debug)]
pub struct OwnMachine {
    executable: PathBuf,
    runner: Runner,
}

impl OwnMachine {
    /// `executable` is the agent's own, which is the shim for tools as well.
    pub fn new(executable: PathBuf, runner: Runner) -> Self {
        let runner = match runner {
            Runner::Auto if Path::new("/run/systemd/system").is_dir() => Runner::Systemd,
            Runner::Auto => Runner::Fork,
            chosen => chosen,
        };
        Self { executable, runner }
    }
}

/// By the machine's clock.
pub(crate) fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl HostTools for OwnMachine {
    fn now_unix_ms(&self) -> i64 {
        now_unix_ms()
    }

    fn uptime(&self) -> Duration {
        silence::since_boot()
    }

    fn boot(&self) -> io::Result<String> {
        liveness::boot()
    }

    fn age(&self, written: SystemTime) -> Duration {
        SystemTime::now().duration_since(written).unwrap_or_default()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()> {
        Box::pin(time::sleep(time))
    }

    fn start<'a>(&'a self, unit: &'a str, folder: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(start::start(&self.executable, self.runner, unit, folder))
    }

    fn news<'a>(&'a self, folder: &'a Path, at_most: Duration) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let limit = Instant::now() + at_most;
            let dir = ToolDir(folder.to_owned());
            while !dir.has_ended() && Instant::now() < limit {
                time::sleep(LOOK.min(at_most)).await;
            }
        })
    }

    fn lives(&self, process: &ProcessStamp) -> bool {
        process.lives()
    }

    fn run_lives(&self, folder: &Path, claim: Option<&ProcessStamp>) -> bool {
        match claim {
            Some(claim) => claim.session_lives(),
            None => liveness::any_with([b"--dir", folder.as_os_str().as_bytes()]),
        }
    }

    fn process_lives(&self, pid: i32, started_ticks: u64) -> bool {
        liveness::process_lives(pid, started_ticks)
    }

    fn terminate(&self, process: &ProcessStamp) -> io::Result<()> {
        Ok(kill(nix::unistd::Pid::from_raw(process.pid), Signal::SIGTERM)?)
    }

    fn short<'a>(&'a self, command: Short<'a>) -> BoxFuture<'a, io::Result<ShortEnd>> {
        Box::pin(async move { short::run(command.program, command.arguments, command.stdin, command.bound).await })
    }

    fn connect(&self, address: SocketAddrV4, at_most: Duration) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            match time::timeout(at_most, TcpStream::connect(address)).await {
                Ok(connected) => connected.map(drop),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
            }
        })
    }
}
