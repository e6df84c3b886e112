//! A laboratory for nodes of real containers: per node a network namespace with a bridge `vmbr0`, a way out, DHCP and DNS; and a
//! template made by debootstrap. Needs root and a few Debian packages; [`Lab::requirements`] says which are missing.
//!
//! ```text
//!  machine's own namespace                        namespace pxlab-<lab>-<i>  (the simulated node)
//!  ┌───────────────────────────────┐              ┌──────────────────────────────────────────────┐
//!  │ eth0 ◀─masquerade── pxlab<N>  │══ veth pair ═│ up0 ─┐                                       │
//!  │      table ip pxlab_<lab>     │              │    vmbr0 10.198.N.2  ◀ published ports       │
//!  │      10.198.N.1, dnsmasq      │              │      ├─ veth100i0 ── container 100           │
//!  └───────────────────────────────┘              │      └─ veth101i0 ── container 101           │
//!                                                 └──────────────────────────────────────────────┘
//! ```
//!
//! - [`Lab::up`] writes down what it is going to make (`/run/proximity-lab/<lab>/lab.json`) before it makes it; [`clean()`] undoes from that
//!   note, also after a crash. [`clean_dead`] does so for every lab whose process is gone, and is called by `up`.
//! - A lab's name has the process id in it, its subnets are chosen under a machine-wide lock: labs of several processes do not meet.
//! - Processes of a node run in its namespace by [`Lab::command_in`]; they see the machine's own `/proc` and `/sys`. sysfs shows the
//!   interfaces of the namespace that it was mounted from, so each node has its own sysfs mount ([`LabNode::sys_class_net`]).
//! - Container processes are found through the cgroups of the lab; roots of nodes belong below [`LabNode::root`], which goes with the lab.
//!
//! It does not lay nodes out (that is [`crate::NodeSpec`] with [`LabNode::settings`]) and starts no agent.

#[cfg(test)]
mod catalog_tests;
pub(crate) mod cgroups;
mod clean;
pub(crate) mod mounts;
mod network;
mod note;
mod requirements;
mod template;
#[cfg(test)]
mod tests;
mod tool;

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub use clean::{clean, clean_dead};
pub use requirements::Missing;
pub use template::{DEFAULT_CACHE, ensure_template};

use note::{NodeNote, Note};

/// Why the lab could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine cannot do it.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A program failed.
    #[error("{program} failed: {stderr}")]
    Program {
        /// The program with its arguments.
        program: String,
        /// What it said.
        stderr: String,
    },
    /// A file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A name that cannot be part of names of interfaces and folders.
    #[error("'{0}' cannot name a lab: 1 to 12 of a-z, 0-9, starting with a letter")]
    Name(String),
    /// All of 10.198.0.0/16 is in use.
    #[error("every network of 10.198.0.0/16 is in use on this machine; remove old labs with `pve-sim lab-clean`")]
    NoSubnet,
    /// Something could not be removed.
    #[error("the lab {lab} left something behind: {what}; repeat `pve-sim lab-clean --name {lab}`")]
    Left {
        /// The lab.
        lab: String,
        /// What.
        what: String,
    },
}

/// One simulated node's place on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabNode {
    /// Counts from 0.
    pub index: usize,
    /// Name of its network namespace (`/run/netns/<name>`).
    pub netns: String,
    /// The node's own address, on `vmbr0`; published ports answer here, from the machine and from other nodes.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Gateway of the subnet: the machine's end of the wire.
    pub gateway: Ipv4Addr,
    /// DNS server for containers.
    pub dns: Ipv4Addr,
    /// First address to give to containers by hand (`ip=<address>/24`).
    pub pool_first: Ipv4Addr,
    /// Last such address. Addresses above, to .250, are given by DHCP.
    pub pool_last: Ipv4Addr,
    /// The bridge.
    pub bridge: String,
    /// An empty folder for the node's files; removed with the lab.
    pub root: PathBuf,
    /// `sys/class/net` of the namespace.
    pub sys_class_net: PathBuf,
    /// Path of the containers' cgroups below each hierarchy: `<hierarchy>/<this>/<vmid>`.
    pub cgroup_parent: String,
}

impl LabNode {
    /// For [`crate::NodeSpec::lab`].
    pub fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "netns": self.netns, "cgroup_parent": self.cgroup_parent, "dns": [self.dns] })
    }

    /// The subnet as CIDR.
    pub fn subnet(&self) -> String {
        let [a, b, c, _] = self.address.octets();
        format!("{}/{}", Ipv4Addr::new(a, b, c, 0), self.prefix)
    }

    /// A command whose process runs in this node's network namespace; arguments and streams as for any command.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .arg("--")
            .arg(program);
        command
    }
}

/// A running lab. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    nodes: Vec<LabNode>,
    down: bool,
}

impl Lab {
    /// What this machine lacks, in one line that says what to do.
    ///
    /// # Errors
    /// When something is missing.
    pub fn requirements() -> Result<(), Missing> {
        requirements::check()
    }

    /// Makes namespaces and networks for `nodes` nodes. The lab's name is `<prefix>-<pid>-<n>`.
    ///
    /// # Errors
    /// When the machine cannot, or a step fails; what was made is removed again.
    pub fn up(prefix: &str, nodes: usize) -> Result<Self, LabError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let fits = (1..=12).contains(&prefix.len())
            && prefix.starts_with(|c: char| c.is_ascii_lowercase())
            && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !fits {
            return Err(LabError::Name(prefix.to_owned()));
        }
        Self::requirements()?;
        clean_dead()?;
        let name = format!(
            "{prefix}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let _lock = note::machine_lock()?;
        let note = Note::draw(&name, nodes)?;
        note.save()?;
        let lab = Self {
            name,
            nodes: note.nodes.iter().map(|node| node.public(&note.name)).collect(),
            down: false,
        };
        // From here on dropping `lab` undoes whatever was made.
        if let Err(error) = network::make(&note) {
            drop(_lock);
            return Err(error);
        }
        Ok(lab)
    }

    /// The name, for [`clean()`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The nodes.
    pub fn nodes(&self) -> &[LabNode] {
        &self.nodes
    }

    /// One node.
    ///
    /// # Panics
    /// When the lab has no such node.
    pub fn node(&self, index: usize) -> &LabNode {
        &self.nodes[index]
    }

    /// A command whose process runs in the namespace of node `index`.
    ///
    /// # Panics
    /// When the lab has no such node.
    pub fn command_in(&self, index: usize, program: impl AsRef<OsStr>) -> Command {
        self.nodes[index].command(program)
    }

    /// Removes everything that the lab made: containers, processes of its namespaces, networks, files.
    ///
    /// # Errors
    /// When something stays.
    pub fn down(mut self) -> Result<(), LabError> {
        self.down = true;
        clean(&self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.down
            && let Err(error) = clean(&self.name)
        {
            eprintln!("pve-sim: {error}");
        }
    }
}

impl NodeNote {
    fn public(&self, lab: &str) -> LabNode {
        LabNode {
            index: self.index,
            netns: self.netns(lab),
            address: self.host(2),
            prefix: 24,
            gateway: self.host(1),
            dns: self.host(1),
            pool_first: self.host(10),
            pool_last: self.host(99),
            bridge: "vmbr0".to_owned(),
            root: note::files(lab).join(format!("node{}", self.index)),
            sys_class_net: self.sysfs(lab).join("class/net"),
            cgroup_parent: format!("{}/lxc", self.cgroup(lab)),
        }
    }
}

fn io_at(path: &Path) -> impl FnOnce(std::io::Error) -> LabError + use<'_> {
    move |source| LabError::Io {
        path: path.to_owned(),
        source,
    }
}
