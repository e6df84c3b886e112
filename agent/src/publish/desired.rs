//! What is wanted: `<state>/published.json`.

use crate::host::{NodeContext, files};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{Owner, Vmid},
};
use serde::{Deserialize, Serialize};
use std::{net::Ipv4Addr, path::Path};

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedPort {
    pub(crate) public_port: u16,
    pub(crate) vmid: Vmid,
    pub(crate) owner: Owner,
    /// The container's address.
    pub(crate) address: Ipv4Addr,
    /// The container's port.
    pub(crate) port: u16,
    pub(crate) way_back: WayBack,
}

/// How the container's answers find back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WayBack {
    /// The node is the container's gateway: answers come through it by themselves, except to neighbours in this network.
    ThroughNode {
        /// The container's network.
        network: Ipv4Addr,
        /// Length of its prefix.
        prefix: u8,
    },
    /// Another machine is the gateway, or it is not known: every flow gets the node's address.
    Elsewhere,
}

/// The newest format of the file; older ones there are none.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    ports: Vec<PublishedPort>,
}

fn fault(path: &Path, act: &str, why: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::Internal, format!("cannot {act} {}: {why}", path.display()))
}

/// All, by port. No file means none.
pub(super) fn load(node: &NodeContext) -> Result<Vec<PublishedPort>, Fault> {
    let path = node.state("published.json");
    let Some(text) = files::read_if_there(&path).map_err(|error| fault(&path, "read", error))? else {
        return Ok(Vec::new());
    };
    let stored: Stored = serde_json::from_str(&text).map_err(|error| {
        let advice = "restore it, or move it away: then the coordinator publishes its apps' ports again";
        fault(&path, "read", format!("{error}; {advice}"))
    })?;
    if stored.version != VERSION {
        let why = format!(
            "it is of format {}, this agent knows {VERSION}: install the newer agent again that has written it",
            stored.version
        );
        return Err(fault(&path, "read", why));
    }
    Ok(stored.ports)
}

/// Lasts when it returns.
pub(super) fn store(node: &NodeContext, ports: &[PublishedPort]) -> Result<(), Fault> {
    let path = node.state("published.json");
    let mut ports = ports.to_vec();
    ports.sort_by_key(|port| port.public_port);
    let stored = Stored {
        version: VERSION,
        ports,
    };
    let bytes = serde_json::to_vec_pretty(&stored).map_err(|error| fault(&path, "write", error))?;
    files::write_private(&path, &bytes).map_err(|error| fault(&path, "write", error))
}
