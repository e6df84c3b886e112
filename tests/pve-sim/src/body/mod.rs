//! The body of a node: what containers are made of. Everything above it (arguments, configuration files, locks, tasks,
//! storages, words) is the same for both bodies.
//!
//! - `hollow`: no root and no process; see [`hollow`].
//! - `lxc`: real containers by Debian's `lxc`, as root; see [`lxc`].
//!
//! Order of calls: `unpack` (create, restore) → `start` → `exec`/`push`/`pull` → `shutdown`/`stop` → `destroy`. `is_running`
//! decides as the real `pct` does. A body never touches `/etc/pve`; it keeps its own files in [`Layout::lxc_dir`].

pub mod hollow;
pub mod lxc;

use std::fmt::Debug;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::archive::Squeezer;
use crate::clock::Clock;
use crate::conf::Section;
use crate::layout::{BodyKind, Layout};

/// Why a body could not do what it was asked. `message` is what the real tool would say, without a newline.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The act failed; the text goes to stderr and into the task log.
    #[error("{0}")]
    Failed(String),
    /// TERM or INT came meanwhile; what was begun has been undone.
    #[error("received interrupt")]
    Interrupted,
    /// The caller's pipe is gone.
    #[error("broken pipe")]
    BrokenPipe,
    /// A file of the body could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One container, as a body sees it.
#[derive(Debug, Clone, Copy)]
pub struct Ct<'a> {
    /// The node.
    pub layout: &'a Layout,
    /// Time.
    pub clock: &'a dyn Clock,
    /// The container's number.
    pub vmid: u32,
    /// Its configuration in force (`hostname`, `memory` in MiB, `cores`, `unprivileged`, `features`, `netN`, `rootfs`, …).
    pub conf: &'a Section,
    /// The root volume on the host: an image file (`….raw`) or a subvolume folder (`….subvol`). A body is free to keep
    /// the tree elsewhere (in `lxc_dir`) and to treat the volume as a name only.
    pub root_volume: &'a Path,
    /// TERM or INT came to this tool. Long acts ask, undo, and answer [`BodyError::Interrupted`].
    pub interrupted: &'a dyn Interrupted,
}

/// What goes into the archive of a backup besides the tree, and how.
#[derive(Debug, Clone, Copy)]
pub struct Packing<'a> {
    /// The container's configuration.
    pub config: &'a str,
    /// How the archive is compressed.
    pub squeezer: Squeezer,
    /// Not the container as it is, but as this snapshot of it.
    pub snapshot: Option<&'a str>,
}

/// Asked by long acts.
pub trait Interrupted: Sync + Debug {
    /// True once TERM or INT came.
    fn yes(&self) -> bool;
}

/// What unpacking found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes that tar counted; printed as `Total bytes read: N`.
    pub bytes: u64,
    /// `amd64`, `arm64`…
    pub arch: String,
    /// `debian`, `ubuntu`… when it could be told.
    pub ostype: Option<String>,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// It stopped by itself.
    Stopped,
    /// It did not stop in time and still runs; the caller decides whether to kill.
    StillRunning,
}

/// Figures of a running container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Process id of the container's init on the node.
    pub init_pid: u32,
    /// Used memory without page cache.
    pub memory_bytes: u64,
    /// Bytes that it received.
    pub netin_bytes: u64,
    /// Bytes that it sent.
    pub netout_bytes: u64,
    /// Bytes used on the root disk.
    pub disk_bytes: u64,
    /// Seconds since start.
    pub uptime_s: u64,
}

/// Standard streams of `pct exec`.
pub struct Stdio<'a> {
    /// What the command reads.
    pub stdin: &'a mut dyn Read,
    /// Where its output goes.
    pub out: &'a mut dyn Write,
    /// Where its errors go.
    pub err: &'a mut dyn Write,
    /// True in the executable: the three are file descriptors 0, 1, 2 of this process, so a child may simply inherit them.
    pub inherit: bool,
}

impl Debug for Stdio<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stdio")
            .field("inherit", &self.inherit)
            .finish_non_exhaustive()
    }
}

/// Owner and mode of a pushed or pulled file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileOwner {
    /// `--perms`, octal; `0o644` when not given.
    pub mode: u32,
    /// `--user`, a number or a name inside the container; root when not given.
    pub user: String,
    /// `--group`.
    pub group: String,
}

/// What a node's containers are made of. A body has no state of its own in memory: every call is another process.
pub trait Body: Send + Sync + Debug {
    /// Which body this is.
    fn kind(&self) -> BodyKind;

    /// Makes the root tree of a new container from `archive` (a template or a backup). The caller has already printed
    /// `extracting archive '…'` and prints the totals. Undoes its own half when it fails.
    ///
    /// # Errors
    /// When the archive cannot be unpacked; `Interrupted` after TERM.
    fn unpack(&self, ct: &Ct<'_>, archive: &Path, out: &mut dyn Write) -> Result<Unpacked, BodyError>;

    /// Copies the root tree of another container of the node to this new one: `pct clone`. `snapshot`: as it was then.
    ///
    /// # Errors
    /// When the copy fails.
    fn copy_from(&self, ct: &Ct<'_>, from: u32, snapshot: Option<&str>) -> Result<(), BodyError>;

    /// Writes the root tree of a container as the archive of a backup; answers the bytes that went in. Mount points without `backup=1` are left out.
    ///
    /// # Errors
    /// When it cannot be written.
    fn pack(&self, ct: &Ct<'_>, archive: &Path, packing: &Packing<'_>) -> Result<u64, BodyError>;

    /// The text of the configuration that an archive holds.
    ///
    /// # Errors
    /// When it cannot be read, or holds none.
    fn saved_config(&self, archive: &Path) -> Result<String, BodyError>;

    /// Keeps the volumes as they are now, under a name. The storages can do that.
    ///
    /// # Errors
    /// When they could not be copied.
    fn snapshot(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError>;

    /// Forgets what was kept under a name; nothing there is success.
    ///
    /// # Errors
    /// When something stays.
    fn drop_snapshot(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError>;

    /// The volumes of a stopped container are as they were kept.
    ///
    /// # Errors
    /// When they could not be copied back.
    fn roll_back(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError>;

    /// The file system on an image that has grown follows, whether the container runs or not.
    ///
    /// # Errors
    /// When it could not be made larger; `pct` prints that and still exits 0.
    fn grow(&self, ct: &Ct<'_>, image: &Path) -> Result<(), BodyError>;

    /// Starts it and returns the process id of its init when it runs. The bridges have been checked.
    ///
    /// # Errors
    /// What the real tool would say, e.g. `startup for container '100' failed`.
    fn start(&self, ct: &Ct<'_>) -> Result<u32, BodyError>;

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// When it could not be killed.
    fn stop(&self, ct: &Ct<'_>) -> Result<(), BodyError>;

    /// Asks it to shut down and waits at most `timeout`.
    ///
    /// # Errors
    /// When it could not be asked.
    fn shutdown(&self, ct: &Ct<'_>, timeout: Duration) -> Result<Shutdown, BodyError>;

    /// Whether it runs, as `pct` decides: a line `@/var/lib/lxc/<id>/command` in `/proc/net/unix`.
    fn is_running(&self, layout: &Layout, vmid: u32) -> bool;

    /// Figures of a running container; `None` when it does not run.
    fn figures(&self, ct: &Ct<'_>) -> Option<Figures>;

    /// Puts a changed `memory`, `cores`, `hostname` of a running container into force.
    ///
    /// # Errors
    /// When the cgroup refuses.
    fn apply(&self, ct: &Ct<'_>) -> Result<(), BodyError>;

    /// Runs a command inside; answers its exit code (127 not found, 128+n killed). The container runs.
    ///
    /// # Errors
    /// When the container could not be entered.
    fn exec(&self, ct: &Ct<'_>, argv: &[String], keep_env: bool, stdio: Stdio<'_>) -> Result<i32, BodyError>;

    /// Copies a file of the node into the running container. `to` is absolute inside it.
    ///
    /// # Errors
    /// `failed to open <from> for reading` or `failed to create file: <to>: No such file or directory`; `pct` prints
    /// either and still exits 0.
    fn push(&self, ct: &Ct<'_>, from: &Path, to: &str, owner: &FileOwner) -> Result<(), BodyError>;

    /// Copies a file out of the running container.
    ///
    /// # Errors
    /// `failed to open <from>: No such file or directory`; `pct` prints it and still exits 0.
    fn pull(&self, ct: &Ct<'_>, from: &str, to: &Path, owner: &FileOwner) -> Result<(), BodyError>;

    /// Removes everything that the body keeps of a stopped container; nothing there is success.
    ///
    /// # Errors
    /// When something stays.
    fn destroy(&self, ct: &Ct<'_>) -> Result<(), BodyError>;

    /// The root tree on the node, or `None` when it has none (hollow).
    fn rootfs(&self, ct: &Ct<'_>) -> Option<PathBuf>;
}

/// The body that `node.json` asks for.
pub(crate) fn of(kind: BodyKind) -> Box<dyn Body> {
    match kind {
        BodyKind::Hollow => Box::new(hollow::HollowBody),
        BodyKind::Lxc => Box::new(lxc::LxcBody::default()),
    }
}

/// Wraps an IO error with its path.
pub(crate) fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> BodyError + use<'_> {
    move |source| BodyError::Io {
        path: path.to_owned(),
        source,
    }
}
