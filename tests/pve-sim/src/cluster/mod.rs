//! Clusters: several nodes that share one `/etc/pve`.
//!
//! A cluster is a folder:
//!
//! | path | what |
//! |---|---|
//! | `cluster.json` | [`ClusterInfo`]: members, who has power, who is in which partition |
//! | `pve/` | the files of `/etc/pve`, as the nodes with quorum see and change them |
//! | `frozen/<node>/` | the same as they were when that node lost quorum: a partitioned node sees nothing newer, and can change nothing |
//! | `views/<node>` | link to one of the two: what the node sees now |
//! | `guests/<id>/` | what stands for the disks of hollow containers |
//! | `shared/<storage>/` | shared storages: `/mnt/pve/<storage>` of every node is a link to it |
//!
//! `/etc/pve` of each node is a folder of links into its view, with a `.members`, `lxc`, `local` and `qemu-server` of its own.
//!
//! # Quorum
//!
//! A node has quorum when more than half of all members have power and are in its partition. Without it the real pmxcfs shows folders with
//! mode 0555 and files with 0444, and answers every write with EACCES (`tree_entry_stat` of cfs-plug-memdb.c, `dcdb_send_fuse_message` of
//! dcdb.c). The frozen view really has these modes, so the kernel refuses with EACCES as well, to everybody without CAP_DAC_OVERRIDE; root has
//! that, so a process that is to be refused is started without it (`setpriv --bounding-set -dac_override …`, as the fleet harness does). The
//! simulated tools ask by themselves: `cluster not ready - no quorum?` where the real ones check, else `unable to open file '…' - Permission
//! denied`.
//!
//! # What a test does to a cluster
//!
//! [`Cluster::partition`], [`Cluster::heal`], [`Cluster::power_off`], [`Cluster::power_on`], [`Cluster::write`] and [`Cluster::read`] for its files. Tools do
//! the rest: `pct migrate`, `ha-manager`.

mod members;
mod views;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::body::hollow::kernel;
use crate::clock::{Clock, SystemClock};
use crate::layout::{Layout, write_atomically};
use crate::locks::{open_lock, try_lock};
use crate::node::Node;

/// `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its name, of `corosync.conf`.
    pub name: String,
    /// Rises with every change of the members; `version` of `.members`.
    pub version: u64,
    /// In the order in which they joined.
    pub members: Vec<Member>,
    /// How often the HA manager and the local ones look, milliseconds (the real ones: every 10 s).
    pub ha_round_ms: u64,
    /// How long a node is away before HA takes it for dead and recovers its services, milliseconds (the real one: 60 s, and 120 s more for the
    /// lock of the dead node). A node that is without quorum for half of it resets itself, as its watchdog would.
    pub ha_fence_ms: u64,
}

/// One node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// `nodeid` of `corosync.conf`.
    pub id: u32,
    /// Its address.
    pub address: Ipv4Addr,
    /// Root of its files.
    pub root: PathBuf,
    /// Whether the machine is on.
    pub powered: bool,
    /// Which part of a broken network it is in; all in one while it is whole.
    pub partition: u32,
    /// It reset itself because it had no quorum while HA services ran on it, and has not had quorum since.
    #[serde(default)]
    pub fenced: bool,
}

impl ClusterInfo {
    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Whether `name` sees `other`: both have power and are in one partition.
    pub fn sees(&self, name: &str, other: &str) -> bool {
        match (self.member(name), self.member(other)) {
            (Some(a), Some(b)) => a.powered && b.powered && a.partition == b.partition,
            _ => false,
        }
    }

    /// Whether the node has quorum: it sees more than half of all members, itself included.
    pub fn is_quorate(&self, name: &str) -> bool {
        let seen = self.members.iter().filter(|other| self.sees(name, &other.name)).count();
        seen * 2 > self.members.len()
    }
}

/// A cluster whose files lie in one folder. Cheap: it holds the path only.
#[derive(Debug, Clone)]
pub struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    /// Makes a cluster without members; [`crate::NodeSpec::cluster`] adds them. `storages`: shared ones, each an NFS share that takes everything.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn create(folder: &Path, name: &str, storages: &[&str]) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let info = ClusterInfo {
            name: name.to_owned(),
            version: 0,
            members: Vec::new(),
            ha_round_ms: 10_000,
            ha_fence_ms: 120_000,
        };
        let cluster = Self { folder };
        for sub in ["views", "frozen", "guests"] {
            fs::create_dir_all(cluster.folder.join(sub))?;
        }
        for storage in storages {
            fs::create_dir_all(cluster.folder.join("shared").join(storage))?;
        }
        crate::spec::shared_files(&cluster.database(), storages)?;
        cluster.store(&info)?;
        Ok(cluster)
    }

    /// Opens the one in the folder.
    ///
    /// # Errors
    /// When it is not there or not understood.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let cluster = Self {
            folder: folder.canonicalize()?,
        };
        cluster.info().map(|_| cluster)
    }

    /// The cluster of a node.
    pub(crate) fn of(layout: &Layout) -> Option<Self> {
        layout.info().cluster.clone().map(|folder| Self { folder })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `/etc/pve` as the nodes with quorum see it.
    pub fn database(&self) -> PathBuf {
        self.folder.join("pve")
    }

    /// How it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn info(&self) -> io::Result<ClusterInfo> {
        let text = fs::read(self.folder.join("cluster.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    fn store(&self, info: &ClusterInfo) -> io::Result<()> {
        write_atomically(
            &self.folder.join("cluster.json"),
            serde_json::to_string_pretty(info)?.as_bytes(),
        )
    }

    /// Nothing of the shared files, and of who has quorum, changes while this is held.
    pub(crate) fn lock(&self) -> io::Result<fs::File> {
        // Held only for the moment of a rewrite.
        loop {
            if let Some(file) = try_lock(&self.folder.join("lock"))? {
                return Ok(file);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Changes members, then what every node sees.
    fn change(&self, change: impl FnOnce(&mut ClusterInfo)) -> io::Result<()> {
        let _held = self.lock()?;
        let mut info = self.info()?;
        change(&mut info);
        info.version += 1;
        self.store(&info)?;
        self.show(&info)
    }

    /// How quickly HA acts, from now on: a round that a node began at the pace before has ended when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn ha_pace(&self, round_ms: u64, fence_ms: u64) -> io::Result<()> {
        self.change(|info| (info.ha_round_ms, info.ha_fence_ms) = (round_ms, fence_ms))?;
        for member in self.info()?.members {
            self.hold_ha(&member.name)?;
        }
        Ok(())
    }

    /// A node's round of HA, or whoever waits for its end. Given back when the process ends.
    pub(crate) fn hold_ha(&self, node: &str) -> io::Result<fs::File> {
        let file = open_lock(&self.folder.join(format!("ha-round-{node}.lock")))?;
        file.lock()?;
        Ok(file)
    }

    /// A node joins: it has its part of the shared files from here on.
    pub(crate) fn join(&self, name: &str, address: Ipv4Addr, root: &Path) -> io::Result<()> {
        for folder in ["lxc", "qemu-server"] {
            fs::create_dir_all(self.database().join("nodes").join(name).join(folder))?;
        }
        self.change(|info| {
            let id = info.members.iter().map(|member| member.id).max().unwrap_or(0) + 1;
            info.members.push(Member {
                name: name.to_owned(),
                id,
                address,
                root: root.to_owned(),
                powered: true,
                partition: 0,
                fenced: false,
            });
        })
    }

    /// The network between the nodes breaks into these parts; who is not named is alone.
    ///
    /// # Errors
    /// When what the nodes see cannot be written.
    pub fn partition(&self, parts: &[&[&str]]) -> io::Result<()> {
        self.change(|info| {
            let mut alone = u32::try_from(parts.len()).unwrap_or(u32::MAX / 2);
            for member in &mut info.members {
                let part = parts.iter().position(|part| part.contains(&member.name.as_str()));
                member.partition = part.and_then(|part| u32::try_from(part).ok()).unwrap_or_else(|| {
                    alone += 1;
                    alone
                });
            }
        })
    }

    /// The network is whole again.
    ///
    /// # Errors
    /// As there.
    pub fn heal(&self) -> io::Result<()> {
        self.change(|info| info.members.iter_mut().for_each(|member| member.partition = 0))
    }

    /// All machines have power and the network is whole, whatever was before; nothing is started. For who is about to remove the folder.
    ///
    /// # Errors
    /// When what the nodes see cannot be written.
    pub fn whole_again(&self) -> io::Result<()> {
        self.change(|info| {
            for member in &mut info.members {
                (member.powered, member.partition) = (true, 0);
            }
        })
    }

    /// A machine loses its power: everything that ran on it is gone. Its `pve-sim serve` and whatever else runs there is the caller's to end.
    ///
    /// # Errors
    /// When there is no such member, or something cannot be written.
    pub fn power_off(&self, name: &str) -> io::Result<()> {
        let info = self.info()?;
        let member = info
            .member(name)
            .ok_or_else(|| io::Error::other(format!("no member {name}")))?;
        let layout = Layout::open(&member.root)?;
        self.change(|info| {
            for member in info.members.iter_mut().filter(|member| member.name == name) {
                member.powered = false;
            }
        })?;
        kill_all(&layout)
    }

    /// It comes up again: another boot, and as far as the cluster has quorum then, the containers with `onboot` that HA does not look after are started.
    ///
    /// # Errors
    /// As there.
    pub fn power_on(&self, name: &str) -> io::Result<()> {
        self.power_on_at(name, Arc::new(SystemClock))
    }

    /// As [`Cluster::power_on`], by another clock.
    ///
    /// # Errors
    /// As there.
    pub fn power_on_at(&self, name: &str, clock: Arc<dyn Clock>) -> io::Result<()> {
        let info = self.info()?;
        let member = info
            .member(name)
            .ok_or_else(|| io::Error::other(format!("no member {name}")))?;
        self.change(|info| {
            for member in info.members.iter_mut().filter(|member| member.name == name) {
                member.powered = true;
            }
        })?;
        Node::open(&member.root)?.with_clock(clock).reboot(true)?;
        Ok(())
    }

    /// The node resets itself, as its watchdog makes it: it had HA services and no quorum.
    pub(crate) fn fence(&self, layout: &Layout) -> io::Result<()> {
        kill_all(layout)?;
        let name = layout.info().name.clone();
        self.change(|info| {
            for member in info.members.iter_mut().filter(|member| member.name == name) {
                member.fenced = true;
            }
        })?;
        Node::open(layout.root())?.reboot(false)?;
        Ok(())
    }

    /// Whether a node has quorum.
    ///
    /// # Errors
    /// When the cluster cannot be read.
    pub fn is_quorate(&self, name: &str) -> io::Result<bool> {
        Ok(self.info()?.is_quorate(name))
    }

    /// Writes a file below `/etc/pve`, as an operator on a node with quorum would.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let _held = self.lock()?;
        write_atomically(&self.database().join(name), text.as_bytes())
    }

    /// A file below `/etc/pve`; `None`: it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.database().join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Nothing runs any more, and the kernel's memory is gone.
fn kill_all(layout: &Layout) -> io::Result<()> {
    for vmid in kernel::running(layout) {
        kernel::stop(layout, vmid).map_err(io::Error::other)?;
    }
    match fs::remove_file(layout.nft_ruleset()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
