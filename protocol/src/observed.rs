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

impl BridgeFact {
    /// The network that the node's address on it belongs to: its first address and the length of its prefix.
    pub fn network(&self) -> Option<(Ipv4Addr, u8)> {
        let (address, prefix) = (self.address?, self.prefix?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(prefix.into())?).unwrap_or(0);
        Some((Ipv4Addr::from(u32::from(address) & mask), prefix))
    }
}

/// The bridge whose network is proposed for the apps of a new host: the one that leads out, else the first on which the node has an address.
pub fn proposed_bridge(bridges: &[BridgeFact]) -> Option<&BridgeFact> {
    let first = |wanted: fn(&&BridgeFact) -> bool| bridges.iter().find(wanted);
    first(|bridge| bridge.gateway.is_some()).or_else(|| first(|bridge| bridge.address.is_some()))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bridge(name: &str, address: Option<[u8; 4]>, gateway: Option<[u8; 4]>) -> BridgeFact {
        BridgeFact {
            name: name.parse().unwrap(),
            address: address.map(Into::into),
            prefix: address.map(|_| 20),
            gateway: gateway.map(Into::into),
        }
    }

    fn proposed(bridges: &[BridgeFact]) -> Option<(&str, Option<(Ipv4Addr, u8)>)> {
        let bridge = proposed_bridge(bridges)?;
        Some((bridge.name.as_str(), bridge.network()))
    }

    #[test]
    fn the_bridge_that_leads_out_is_proposed() {
        let none = bridge("vmbr2", None, None);
        let inner = bridge("vmbr0", Some([10, 0, 0, 1]), None);
        let outer = bridge("vmbr1", Some([192, 168, 17, 4]), Some([192, 168, 16, 1]));
        let net = |a: [u8; 4]| Some((a.into(), 20));
        let all = [none.clone(), inner.clone(), outer];
        assert_eq!(proposed(&all), Some(("vmbr1", net([192, 168, 16, 0]))));
        assert_eq!(proposed(&all[..2]), Some(("vmbr0", net([10, 0, 0, 0]))));
        assert_eq!(proposed(&[none]), None);
        let odd = BridgeFact {
            prefix: Some(33),
            ..inner
        };
        assert_eq!(odd.network(), None);
    }
}
