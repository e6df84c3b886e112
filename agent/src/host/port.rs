//! What a node's side asks of the machine below it: time, tools that outlive the agent, short commands, and whether a port answers. `own_machine` is the
//! product's; the crash campaign of the project's tests puts a machine without processes behind it.

use super::{
    liveness::ProcessStamp,
    short::{Short, ShortEnd},
};
use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddrV4,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A boxed future, for ports that are used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The port to the machine.
pub trait HostTools: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970, UTC.
    fn now_unix_ms(&self) -> i64;

    /// Time since the machine was started, which setting its clock does not move.
    fn uptime(&self) -> Duration;

    /// Which boot of the machine this is, `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn boot(&self) -> io::Result<String>;

    /// How long ago a file was written that has this time, by the machine's clock; nothing for one of the future.
    fn age(&self, written: SystemTime) -> Duration;

    /// Ends after `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'_, ()>;

    /// Starts a shim for the folder of a run, so that shim and tool outlive the agent. `unit` is the name of the run. More than one is harmless: the claim
    /// of the folder decides.
    ///
    /// # Errors
    /// When it could not be started.
    fn start<'a>(&'a self, unit: &'a str, folder: &'a Path) -> BoxFuture<'a, io::Result<()>>;

    /// Ends when the run in that folder has ended, as far as that shows by itself, and at the latest after `at_most`.
    fn news<'a>(&'a self, folder: &'a Path, at_most: Duration) -> BoxFuture<'a, ()>;

    /// Whether the process lives.
    fn lives(&self, process: &ProcessStamp) -> bool;

    /// Whether anything of the run in that folder lives: its shim, or what goes on in the session of a shim that was killed. `claim` is the shim; `None`: it
    /// cannot be read.
    fn run_lives(&self, folder: &Path, claim: Option<&ProcessStamp>) -> bool;

    /// Whether the process of that number lives that began so many clock ticks after boot.
    fn process_lives(&self, pid: i32, started_ticks: u64) -> bool;

    /// TERM.
    ///
    /// # Errors
    /// When it could not be sent.
    fn terminate(&self, process: &ProcessStamp) -> io::Result<()>;

    /// Runs a command that only reads, or that acts in one piece.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended within its bound.
    fn short<'a>(&'a self, command: Short<'a>) -> BoxFuture<'a, io::Result<ShortEnd>>;

    /// Whether somebody takes TCP connections there.
    ///
    /// # Errors
    /// Why not.
    fn connect(&self, address: SocketAddrV4, at_most: Duration) -> BoxFuture<'_, io::Result<()>>;
}

/// The port, shared.
pub type SharedTools = Arc<dyn HostTools>;
