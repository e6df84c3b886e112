//! What is, as an agent reads it. "Not read" is always a case of its own: unknown is never empty.

use crate::ids::{BridgeName, NodeName, OperationId, Owner, StorageId, Vmid};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// What a node is; sent with Hello and when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node's name in Proxmox.
    pub node_name: NodeName,
    /// The address under which its published ports answer.
    pub address: Ipv4Addr,
    /// The cluster's name; `None` on a standalone machine.
    pub cluster: Option<String>,
    /// Whether `/etc/pve` is writable (a standalone machine always is).
    pub quorate: bool,
    /// SHA-256 of the public key in `/etc/pve/pve-root-ca.pem`: which Proxmox installation this is.
    pub host_fingerprint: [u8; 32],
    /// e.g. `8.4.1`; `None` if it cannot be read.
    pub pve_version: Option<String>,
    /// e.g. `6.8.12-9-pve`.
    pub kernel: String,
    /// Logical CPUs.
    pub cpu_count: u32,
    /// Memory, bytes.
    pub memory_total_bytes: u64,
    /// What takes containers, templates, backups.
    pub storages: Vec<StorageFact>,
    /// Bridges that a container can be put on.
    pub bridges: Vec<BridgeFact>,
    /// Range for new VMIDs of `datacenter.cfg` (`next-id`): first and last, inclusive.
    pub next_id: Option<(u32, u32)>,
    /// What the node's own policy allows.
    pub policy: PolicyFact,
}

/// A storage of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageFact {
    /// Its id.
    pub id: StorageId,
    /// `dir`, `lvmthin`, `zfspool`, `btrfs`, `nfs`, `cifs`, `rbd`, `pbs`….
    pub kind: String,
    /// `rootdir`, `vztmpl`, `backup`, `images`, `iso`, `snippets`.
    pub content: Vec<String>,
    /// Whether several nodes see the same.
    pub shared: bool,
    /// Bytes; `None` where it cannot be told without a tool.
    pub total_bytes: Option<u64>,
    /// Bytes.
    pub used_bytes: Option<u64>,
}

/// A bridge of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeFact {
    /// Its name.
    pub name: BridgeName,
    /// The node's own address on it.
    pub address: Option<Ipv4Addr>,
    /// Length of the prefix.
    pub prefix: Option<u8>,
    /// The node's default gateway, if it leads through this bridge.
    pub gateway: Option<Ipv4Addr>,
}

/// What the node's policy file allows; told so that the coordinator does not ask in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFact {
    /// First VMID that may be made here.
    pub vmid_first: u32,
    /// Last.
    pub vmid_last: u32,
    /// First port that may be published.
    pub port_first: u16,
    /// Last.
    pub port_last: u16,
    /// Allowed storages; empty means all.
    pub storages: Vec<StorageId>,
    /// Allowed bridges; empty means all.
    pub bridges: Vec<BridgeName>,
    /// Verbs that are switched off, by name.
    pub denied_verbs: Vec<String>,
}

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RunState {
    /// Its init process lives.
    Running,
    /// It does not.
    Stopped,
    /// It could not be told.
    Unknown,
}

/// A container as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerObserved {
    /// Its number.
    pub vmid: Vmid,
    /// `hostname` of its configuration.
    pub hostname: Option<String>,
    /// Whether it runs.
    pub state: RunState,
    /// `lock:` of its configuration.
    pub lock: Option<String>,
    /// From the ownership record, never from a tag.
    pub owner: Option<Owner>,
    /// Addresses in its network namespace.
    pub addresses: Vec<Ipv4Addr>,
    /// MiB, of its configuration.
    pub memory_mb: Option<u64>,
    /// Cores, of its configuration.
    pub cpu_cores: Option<u32>,
}

/// A published port as it stands in the node's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedObserved {
    /// The node's port.
    pub public_port: u16,
    /// Whose.
    pub owner: Owner,
    /// Which container.
    pub vmid: Vmid,
    /// Where it leads.
    pub address: Ipv4Addr,
    /// Where it leads.
    pub port: u16,
}

/// An ownership record: what says that a container is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordObserved {
    /// Of which number. Whether there is a container of that number is another question.
    pub vmid: Vmid,
    /// Whose the container is.
    pub owner: Owner,
    /// The operation that made it.
    pub operation: OperationId,
    /// When the making began, seconds since 1970 by the node's clock.
    pub began_unix_s: i64,
}

/// Everything that one node can tell about guests. Only a complete inventory of a quorate node is evidence that something is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Whether `/etc/pve` is quorate; if not, absence proves nothing.
    pub quorate: bool,
    /// What could not be read; empty means complete.
    pub unreadable: Vec<String>,
    /// Containers on this node.
    pub containers: Vec<ContainerObserved>,
    /// Guests of the cluster on other nodes, and virtual machines here: VMID and node.
    pub elsewhere: Vec<(Vmid, String)>,
    /// Ports that lead to our containers.
    pub published: Vec<PublishedObserved>,
}

impl Inventory {
    /// Whether the absence of a container in it means that it does not exist.
    pub fn is_evidence_of_absence(&self) -> bool {
        self.quorate && self.unreadable.is_empty()
    }
}
