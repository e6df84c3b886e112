//! Where everything of a simulated node lies: the files of a Proxmox node under one root directory, and `node.json`.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What simulates the containers themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BodyKind {
    /// No root, no process per container: files, and a stub that answers on the ports.
    Hollow,
    /// Real containers by Debian's `lxc`, as root.
    Lxc,
}

/// `<root>/node.json`: what this node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Node name, as in `/etc/pve/nodes/<name>`.
    pub name: String,
    /// What runs the containers.
    pub body: BodyKind,
    /// As `/proc/sys/kernel/random/boot_id` says; a new one stands for a reboot.
    pub boot_id: String,
    /// When the node "booted", seconds since the epoch.
    pub booted_s: u64,
    /// Address at which published ports are answered; a loopback address for hollow nodes.
    pub address: Ipv4Addr,
    /// Hollow: containers with `ip=dhcp` get addresses from here upwards (first, last).
    pub dhcp_range: (Ipv4Addr, Ipv4Addr),
    /// Total memory.
    pub memory_mb: u64,
    /// CPU threads.
    pub cpus: u32,
    /// Size of the storage `local`, and of `btr`.
    pub disk_gb: u64,
    /// Bridges that exist; a start with another one fails.
    pub bridges: Vec<String>,
    /// `pveversion` says `pve-manager/<this>`.
    pub pve_version: String,
    /// Folder that `pveam download` copies from; a template that is not there fails like a broken download.
    pub template_pool: Option<PathBuf>,
    /// Hollow: ports that every installed container answers on, beside those that are published or pushed.
    pub default_ports: Vec<u16>,
    /// Settings of the lxc body, which it alone understands.
    #[serde(default)]
    pub lab: serde_json::Value,
    /// Folder of the cluster that it belongs to, see [`crate::cluster`]; `None`: a standalone machine.
    #[serde(default)]
    pub cluster: Option<PathBuf>,
}

/// Paths of one node. Every method is a pure path; nothing is created.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
    info: NodeInfo,
}

impl Layout {
    /// Opens the node whose files lie under `root`.
    ///
    /// # Errors
    /// When `node.json` cannot be read or is not understood.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let path = root.join("node.json");
        let text = std::fs::read(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let info = serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))?;
        Ok(Self { root, info })
    }

    pub(crate) fn new(root: PathBuf, info: NodeInfo) -> Self {
        Self { root, info }
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `node.json` says.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// A path of the node (`/etc/pve/storage.cfg`) as it lies on the host. Paths outside the node's own trees
    /// (`/etc`, `/var`, `/run`, `/proc`, `/sys`, `/usr`) are not moved.
    pub fn host_path(&self, node_path: &str) -> PathBuf {
        self.root.join(node_path.trim_start_matches('/'))
    }

    /// A host path as the node would call it, for messages (`/var/lib/vz/…`).
    pub fn node_path(&self, host_path: &Path) -> String {
        match host_path.strip_prefix(&self.root) {
            Ok(inside) => format!("/{}", inside.display()),
            Err(_) => host_path.display().to_string(),
        }
    }

    /// `/etc/pve`.
    pub fn pve(&self) -> PathBuf {
        self.root.join("etc/pve")
    }

    /// The folder that really holds the files of `/etc/pve`. In a cluster `/etc/pve` is made of links into it, so what replaces a
    /// file of the top level must do it here.
    pub fn pve_files(&self) -> PathBuf {
        match &self.info.cluster {
            Some(cluster) => cluster.join("views").join(&self.info.name),
            None => self.pve(),
        }
    }

    /// The configuration file of a container.
    pub fn conf_path(&self, vmid: u32) -> PathBuf {
        self.pve().join(format!("nodes/{}/lxc/{vmid}.conf", self.info.name))
    }

    /// `/var/lib/lxc/<id>`: what the body keeps of a container.
    pub fn lxc_dir(&self, vmid: u32) -> PathBuf {
        self.root.join(format!("var/lib/lxc/{vmid}"))
    }

    /// What stands for the disks of a hollow container. In a cluster it goes with the container from node to node; whether the
    /// node could use it is told by the volumes.
    pub fn guest_dir(&self, vmid: u32) -> PathBuf {
        self.guests().join(vmid.to_string())
    }

    /// Folder of [`Layout::guest_dir`].
    pub(crate) fn guests(&self) -> PathBuf {
        match &self.info.cluster {
            Some(cluster) => cluster.join("guests"),
            None => self.root.join("var/lib/lxc"),
        }
    }

    /// The file lock of a container's configuration.
    pub fn config_lock(&self, vmid: u32) -> PathBuf {
        self.root.join(format!("run/lock/lxc/pve-config-{vmid}.lock"))
    }

    /// `/proc`.
    pub fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// `/sys/fs/cgroup`.
    pub fn cgroup(&self) -> PathBuf {
        self.root.join("sys/fs/cgroup")
    }

    /// Folder of the task logs.
    pub fn tasks(&self) -> PathBuf {
        self.root.join("var/log/pve/tasks")
    }

    /// The fault script.
    pub fn script(&self) -> PathBuf {
        self.root.join("script.json")
    }

    /// Where the fault script counts.
    pub fn script_state(&self) -> PathBuf {
        self.root.join("run/script-state.json")
    }

    /// The simulated nftables ruleset.
    pub fn nft_ruleset(&self) -> PathBuf {
        self.root.join("run/nft/ruleset.json")
    }
}

/// Writes a file whole or not at all: temporary file beside it, then rename.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = folder.join(format!(
        ".{name}.{}.{:?}.tmp",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}
