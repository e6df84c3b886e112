//! What the nodes stand on: loopback networks for hollow ones, network namespaces and a template for those with real containers.

use super::{LoopbackNet, NodeNet};
use anyhow::{Context, Result};
use pve_sim::{lab::Lab, layout::BodyKind};
use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
};

/// Networks of a fleet, made before and removed after its nodes.
#[derive(Debug)]
pub enum Ground {
    /// Loopback addresses.
    Hollow(LoopbackNet),
    /// Namespaces with bridges.
    Lxc(Lab),
}

impl Ground {
    /// Makes it. Real containers need a template, which is built once per machine.
    pub fn prepare(body: BodyKind, nodes: u8, folder: &Path, say: &mut impl FnMut(&str)) -> Result<Self> {
        match body {
            BodyKind::Hollow => Ok(Self::Hollow(LoopbackNet::claim()?)),
            BodyKind::Lxc => {
                let name = folder.file_name().context("a folder without a name")?.to_string_lossy().into_owned();
                say("preparing networks and the template of the containers (the template is built once, in a minute or two)");
                Ok(Self::Lxc(Lab::up(&name, usize::from(nodes))?))
            }
        }
    }

    /// Which body stands on it.
    pub fn body(&self) -> BodyKind {
        match self {
            Self::Hollow(_) => BodyKind::Hollow,
            Self::Lxc(_) => BodyKind::Lxc,
        }
    }

    /// What the coordinator's QUIC listener binds.
    pub fn coordinator_bind(&self) -> Ipv4Addr {
        match self {
            Self::Hollow(_) => Ipv4Addr::LOCALHOST,
            Self::Lxc(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Where agents reach the coordinator.
    pub fn coordinator_addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Hollow(_) => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            Self::Lxc(lab) => lab.host_addresses().into_iter().map(IpAddr::V4).collect(),
        }
    }

    /// The network of node `index`.
    pub fn network(&self, index: u8) -> NodeNet {
        match self {
            Self::Hollow(net) => {
                let (first, last) = net.pool(index);
                NodeNet { address: net.node(index), subnet: net.subnet(index), first, last, gateway: None, dns: Vec::new() }
            }
            Self::Lxc(lab) => lab.node(usize::from(index)).into(),
        }
    }

    /// A command that runs on node `index`.
    pub fn command(&self, index: u8, program: &Path) -> Command {
        match self {
            Self::Hollow(_) => Command::new(program),
            Self::Lxc(lab) => lab.command_in(usize::from(index), program),
        }
    }

    /// Where procfs, cgroups and network interfaces of a node below `root` are.
    pub fn kernel_files(&self, root: &Path) -> KernelFiles {
        match self {
            Self::Hollow(_) => KernelFiles {
                proc: root.join("proc"),
                cgroup: root.join("sys/fs/cgroup"),
                lxc: "/var/lib/lxc".into(),
                sys_class_net: root.join("sys/class/net"),
                nft: root.join("usr/sbin/nft"),
            },
            Self::Lxc(_) => KernelFiles {
                proc: "/proc".into(),
                cgroup: "/sys/fs/cgroup".into(),
                lxc: root.join("var/lib/lxc"),
                sys_class_net: "/sys/class/net".into(),
                nft: "/usr/sbin/nft".into(),
            },
        }
    }

    /// Removes what was made.
    pub fn down(self) -> Result<()> {
        match self {
            Self::Hollow(_) => Ok(()),
            Self::Lxc(lab) => lab.down(),
        }
    }
}

/// Files of a node's kernel.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// procfs.
    pub proc: PathBuf,
    /// cgroup file systems.
    pub cgroup: PathBuf,
    /// LXC's path as it stands in the names of command sockets.
    pub lxc: PathBuf,
    /// sysfs class folder of network interfaces.
    pub sys_class_net: PathBuf,
    /// The `nft` executable.
    pub nft: PathBuf,
}
