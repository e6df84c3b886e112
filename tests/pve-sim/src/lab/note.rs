//! The note of what a lab makes, written before it is made: `/run/proximity-lab/<lab>/lab.json`.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{LabError, io_at, tool};
use crate::layout::write_atomically;

/// Notes, process ids, locks.
pub(super) const RUN: &str = "/run/proximity-lab";
/// Roots of nodes.
const FILES: &str = "/var/lib/proximity-lab";

/// A lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) name: String,
    /// The process that made it, and its start in clock ticks since boot, since numbers are used again.
    pub(super) pid: u32,
    pub(super) pid_start: u64,
    pub(super) nodes: Vec<NodeNote>,
}

/// A node of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeNote {
    pub(super) index: usize,
    /// N of 10.198.N.0/24 and of the interface `pxlab<N>`.
    pub(super) subnet: u8,
}

impl NodeNote {
    pub(super) fn host(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 198, self.subnet, number)
    }
    pub(super) fn netns(&self, lab: &str) -> String {
        format!("pxlab-{lab}-{}", self.index)
    }
    pub(super) fn cgroup(&self, lab: &str) -> String {
        format!("pxlab-{lab}-{}", self.index)
    }
    pub(super) fn wire(&self) -> String {
        format!("pxlab{}", self.subnet)
    }
    pub(super) fn sysfs(&self, lab: &str) -> PathBuf {
        folder(lab).join(format!("sysfs{}", self.index))
    }
    pub(super) fn dnsmasq_pid(&self, lab: &str) -> PathBuf {
        folder(lab).join(format!("dnsmasq{}.pid", self.index))
    }
}

/// The lab's folder of notes.
pub(super) fn folder(lab: &str) -> PathBuf {
    Path::new(RUN).join(lab)
}

/// The folder of its nodes' roots.
pub(super) fn files(lab: &str) -> PathBuf {
    Path::new(FILES).join(lab)
}

/// The lab's table in the machine's own namespace.
pub(super) fn table(lab: &str) -> String {
    format!("pxlab_{}", lab.replace('-', "_"))
}

/// One lab is made or removed at a time.
pub(super) fn machine_lock() -> Result<Flock<File>, LabError> {
    fs::create_dir_all(RUN).map_err(io_at(Path::new(RUN)))?;
    lock(&Path::new(RUN).join("lock"))
}

/// Waits for the lock of a file.
pub(super) fn lock(path: &Path) -> Result<Flock<File>, LabError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io_at(path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io_at(path)(errno.into()))
}

/// Field 22 of `/proc/<pid>/stat` (proc_pid_stat(5)); `None`: there is no such process.
pub(super) fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

impl Note {
    /// Chooses free subnets. The caller holds the machine lock until the networks are there.
    pub(super) fn draw(name: &str, nodes: usize) -> Result<Self, LabError> {
        let mut taken = tool::run("ip", ["-4", "-o", "address", "show"])?;
        taken.push_str(&tool::run("ip", ["-4", "route", "show", "table", "all"])?);
        let mut free = (1..=250u8).filter(|n| !taken.contains(&format!("10.198.{n}.")));
        let mut drawn = Vec::new();
        for index in 0..nodes {
            drawn.push(NodeNote {
                index,
                subnet: free.next().ok_or(LabError::NoSubnet)?,
            });
        }
        let pid = std::process::id();
        Ok(Self {
            name: name.to_owned(),
            pid,
            pid_start: started(pid).unwrap_or_default(),
            nodes: drawn,
        })
    }

    pub(super) fn save(&self) -> Result<(), LabError> {
        let path = folder(&self.name).join("lab.json");
        let text = serde_json::to_vec_pretty(self).map_err(|error| io_at(&path)(error.into()))?;
        write_atomically(&path, &text).map_err(io_at(&path))
    }

    pub(super) fn load(name: &str) -> Result<Option<Self>, LabError> {
        let path = folder(name).join("lab.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io_at(&path)(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_at(&path)(error)),
        }
    }

    /// Names of all labs that have a folder.
    pub(super) fn names() -> Result<Vec<String>, LabError> {
        let run = Path::new(RUN);
        let entries = match fs::read_dir(run) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_at(run)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(io_at(run))?;
            if entry.path().is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// Whether the process that made it still runs.
    pub(super) fn is_alive(&self) -> bool {
        started(self.pid).is_some_and(|start| start == self.pid_start)
    }
}
