//! What the nodes stand on: loopback networks for hollow ones, network namespaces and a template for those with real containers.

use super::{LoopbackNet, NodeNet};
use anyhow::Result;
use pve_sim::{
    lab::{DEFAULT_CACHE, Lab, ensure_template},
    layout::BodyKind,
};
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
    /// Namespaces with bridges, and the template of the containers.
    Lxc(Lab, PathBuf),
}

impl Ground {
    /// Makes it. Real containers need a template, which is built once per machine.
    pub fn prepare(body: BodyKind, nodes: u8, say: &mut impl FnMut(&str)) -> Result<Self> {
        match body {
            BodyKind::Hollow => Ok(Self::Hollow(LoopbackNet::claim()?)),
            BodyKind::Lxc => {
                say(
                    "preparing networks and the template of the containers (built once per machine, in a minute or two)",
                );
                Lab::requirements()?;
                let template = ensure_template(Path::new(DEFAULT_CACHE), say)?;
                Ok(Self::Lxc(Lab::up("fleet", usize::from(nodes))?, template))
            }
        }
    }

    /// Which body stands on it.
    pub fn body(&self) -> BodyKind {
        match self {
            Self::Hollow(_) => BodyKind::Hollow,
            Self::Lxc(..) => BodyKind::Lxc,
        }
    }

    /// What the coordinator's QUIC listener binds.
    pub fn coordinator_bind(&self) -> Ipv4Addr {
        match self {
            Self::Hollow(_) => Ipv4Addr::LOCALHOST,
            Self::Lxc(..) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Where agents reach the coordinator.
    pub fn coordinator_addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Hollow(_) => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            Self::Lxc(lab, _) => lab.nodes().iter().map(|node| IpAddr::V4(node.gateway)).collect(),
        }
    }

    /// The network of node `index`.
    pub fn network(&self, index: u8) -> NodeNet {
        match self {
            Self::Hollow(net) => {
                let (first, last) = net.pool(index);
                NodeNet {
                    address: net.node(index),
                    subnet: net.subnet(index),
                    first,
                    last,
                    gateway: None,
                    dns: Vec::new(),
                }
            }
            Self::Lxc(lab, _) => {
                let node = lab.node(usize::from(index));
                NodeNet {
                    address: node.address,
                    subnet: node.subnet(),
                    first: node.pool_first,
                    last: node.pool_last,
                    gateway: Some(node.gateway),
                    dns: vec![node.dns],
                }
            }
        }
    }

    /// A command that runs on node `index`.
    pub fn command(&self, index: u8, program: &Path) -> Command {
        match self {
            Self::Hollow(_) => Command::new(program),
            Self::Lxc(lab, _) => lab.command_in(usize::from(index), program),
        }
    }

    /// The folder for the files of node `index`, below `folder` unless the ground has one of its own.
    pub fn root(&self, index: u8, folder: &Path) -> PathBuf {
        match self {
            Self::Hollow(_) => folder.join(format!("pve{}", index + 1)),
            Self::Lxc(lab, _) => lab.node(usize::from(index)).root.clone(),
        }
    }

    /// Where procfs, cgroups and network interfaces of node `index` below `root` are.
    pub fn kernel_files(&self, index: u8, root: &Path) -> KernelFiles {
        match self {
            Self::Hollow(_) => KernelFiles {
                proc: root.join("proc"),
                cgroup: root.join("sys/fs/cgroup"),
                cgroup_parent: "lxc".into(),
                lxc: "/var/lib/lxc".into(),
                sys_class_net: root.join("sys/class/net"),
                nft: root.join("usr/sbin/nft"),
            },
            Self::Lxc(lab, _) => {
                let node = lab.node(usize::from(index));
                KernelFiles {
                    proc: "/proc".into(),
                    cgroup: "/sys/fs/cgroup".into(),
                    cgroup_parent: node.cgroup_parent.clone(),
                    lxc: root.join("var/lib/lxc"),
                    sys_class_net: node.sys_class_net.clone(),
                    nft: "/usr/sbin/nft".into(),
                }
            }
        }
    }

    /// Removes what was made.
    pub fn down(self) -> Result<()> {
        match self {
            Self::Hollow(_) => Ok(()),
            Self::Lxc(lab, _) => Ok(lab.down()?),
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
    /// Path of the containers' cgroups below a hierarchy.
    pub cgroup_parent: String,
    /// LXC's path as it stands in the names of command sockets.
    pub lxc: PathBuf,
    /// sysfs class folder of network interfaces.
    pub sys_class_net: PathBuf,
    /// The `nft` executable.
    pub nft: PathBuf,
}
