//! What an agent tells of containers when it is asked about them, beyond an inventory: what there is to adopt, and which settings wait for a restart.

use crate::{
    ids::{MacAddress, Owner, Vmid},
    observed::RunState,
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The answer to `Examine`. What could not be read is named: its absence proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Whether `/etc/pve` is quorate.
    pub quorate: bool,
    /// What could not be read; empty means complete.
    pub unreadable: Vec<String>,
    /// Containers on this node that were asked for.
    pub containers: Vec<Examined>,
    /// Guests that were asked for and are something else, or somewhere else.
    pub others: Vec<OtherGuest>,
    /// Whether adopted containers may be destroyed here.
    pub destroys_adopted: Permission,
}

/// What the node's own policy says, and if it says no, what an operator changes there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    /// It may be done.
    Granted,
    /// It may not.
    Denied {
        /// One sentence for the operator, with the exact change on the node that would allow it.
        because: String,
    },
}

/// A guest that is no container of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherGuest {
    /// Its number.
    pub vmid: Vmid,
    /// On which node it is.
    pub node: String,
    /// Whether it is a virtual machine.
    pub machine: bool,
}

/// A container, looked at closely. Read from files; no tool runs for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examined {
    /// Its number.
    pub vmid: Vmid,
    /// `hostname` of its configuration.
    pub hostname: Option<String>,
    /// Whether it runs.
    pub state: RunState,
    /// `lock:` of its configuration.
    pub lock: Option<String>,
    /// Whether it is a template, which never runs.
    pub template: bool,
    /// Whether it is only being made.
    pub half_made: bool,
    /// From the ownership record, never from a tag.
    pub owner: Option<Owner>,
    /// Whether it was adopted instead of made.
    pub adopted: bool,
    /// Cores of its configuration; `None` means all of the node.
    pub cpu_cores: Option<u32>,
    /// MiB of its configuration.
    pub memory_mb: u64,
    /// MiB of its configuration.
    pub swap_mb: u64,
    /// Without the page cache; `None` unless it runs.
    pub memory_used_bytes: Option<u64>,
    /// Volume id of its root, e.g. `local-lvm:vm-105-disk-0`.
    pub root_volume: Option<String>,
    /// What its other mount points lead to: volume ids, or paths and devices of the node.
    pub mounts: Vec<String>,
    /// Whether it is managed by HA, which alone starts, stops and moves it then.
    pub ha: bool,
    /// Size of the root volume; `None` where neither the configuration nor its file system tells it.
    pub disk_total_bytes: Option<u64>,
    /// Used on the root volume; `None` unless it runs.
    pub disk_used_bytes: Option<u64>,
    /// Since its init was started, seconds; `None` unless it runs.
    pub uptime_s: Option<u64>,
    /// Addresses in its network namespace.
    pub addresses: Vec<Ipv4Addr>,
    /// TCP ports on which something listens in its network namespace; `None` unless it runs and they could be read.
    pub listening: Option<Vec<Listening>>,
    /// Keys of its configuration that wait for its next start.
    pub pending: Vec<String>,
    /// Whether it may be adopted.
    pub adoption: Permission,
}

/// A port on which something listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listening {
    /// The port.
    pub port: u16,
    /// Whether others than the container itself can reach it (it does not listen on the loopback alone).
    pub outside: bool,
}

/// A container that was taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The interface's address, by which it is recognised.
    pub mac: Option<MacAddress>,
    /// Whether it runs.
    pub running: bool,
    /// The text of its configuration as it was found, at most [`Adopted::CONFIGURATION_MAX`] bytes. Values of environment variables are left out.
    pub configuration: String,
}

impl Adopted {
    /// The longest configuration that is sent, in bytes.
    pub const CONFIGURATION_MAX: usize = 64 * 1024;
}
