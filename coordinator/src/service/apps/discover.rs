//! `GET /api/apps/discover`: containers that no app owns.

use super::{Apps, Caller, ServiceError, examine::Untold};
use crate::{
    domain::{adoption, catalog::Catalog, placement::Admission},
    service::nodes::only_operators,
    store::{
        apps,
        fleet::{self, FleetNode},
    },
};
use futures_util::future::join_all;
use proximity_protocol::{
    examined::{Examination, Examined, Permission},
    observed::RunState,
};
use serde::Serialize;
use std::net::Ipv4Addr;

const MIB: u64 = 1024 * 1024;

/// A container that no app owns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiscoveredContainer {
    /// Its number.
    pub vmid: u32,
    /// Its host name, or `CT<vmid>` as Proxmox calls one without.
    pub name: String,
    /// `running`, `stopped`, `unknown`.
    pub status: &'static str,
    /// The node's name.
    pub node: String,
    /// The Proxmox installation.
    pub host_id: i64,
    /// Bytes that it may use, without swap.
    pub memory: u64,
    /// Bytes in use; null unless it runs.
    pub memory_used: Option<u64>,
    /// Bytes of its root volume; null where it has no size of its own.
    pub disk: Option<u64>,
    /// Bytes in use; null unless it runs and its file system tells.
    pub disk_used: Option<u64>,
    /// Seconds; null unless it runs.
    pub uptime: Option<u64>,
    /// Cores that it may use.
    pub cpus: Option<u32>,
    /// Null unless it runs and has one.
    pub ip_address: Option<Ipv4Addr>,
    /// Ports on which it listens for others; null unless it runs and they could be read.
    pub listening_ports: Option<Vec<u16>>,
    /// The catalog entry that it is most likely an app of, or `custom`.
    pub suggested_type: String,
    /// Whether it could be adopted now.
    pub adoptable: bool,
    /// Why not, and what to do; null if it could.
    pub not_adoptable_because: Option<String>,
}

/// What was found, and which nodes could not tell: what is missing here need not be missing there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Discovered {
    /// By node and number.
    pub containers: Vec<DiscoveredContainer>,
    /// Node and why, in words.
    pub incomplete: Vec<(String, String)>,
}

impl Apps {
    /// Asks every node, or those of one host, at the same time. A node that cannot tell does not keep the others' answers back: it is named beside them, and
    /// where there is nothing else to show it is the answer (503).
    pub async fn discover(&self, caller: &Caller, host_id: Option<i64>) -> Result<Discovered, ServiceError> {
        only_operators(caller)?;
        let (nodes, owned) = {
            let mut conn = self.deps().store.read().await?;
            if let Some(host_id) = host_id
                && !fleet::host_exists(&mut conn, host_id).await?
            {
                return Err(ServiceError::NotFound(format!(
                    "there is no host {host_id}; GET /api/proxmox/hosts lists them"
                )));
            }
            (fleet::nodes(&mut conn).await?, apps::containers(&mut conn).await?)
        };
        let asked: Vec<&FleetNode> = nodes
            .iter()
            .filter(|n| n.admission != Admission::Revoked && host_id.is_none_or(|host| n.host_id == host))
            .collect();
        let answers = join_all(asked.iter().map(|node| self.examine(node, None))).await;
        let catalog = self.deps().catalog.current();
        let mut found = Discovered::default();
        for (node, answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(examination) => {
                    let is_owned = |vmid: u32| owned.contains(&(node.host_id, vmid));
                    gather(&mut found, &catalog, node, examination, is_owned);
                }
                Err(untold) => {
                    let (Untold::Silent(why) | Untold::Refused(why)) = untold;
                    found.incomplete.push((node.name.clone(), why));
                }
            }
        }
        if found.containers.is_empty() && !found.incomplete.is_empty() {
            let words: Vec<String> = found
                .incomplete
                .iter()
                .map(|(node, why)| format!("{node}: {why}"))
                .collect();
            return Err(ServiceError::Unavailable {
                message: format!(
                    "no other container was found, but not every node could tell ({}); bring them back and ask again",
                    words.join("; ")
                ),
                retry_after_s: 30,
            });
        }
        Ok(found)
    }
}

fn gather(
    found: &mut Discovered,
    catalog: &Catalog,
    node: &FleetNode,
    examination: Examination,
    is_owned: impl Fn(u32) -> bool,
) {
    let mut unread = examination.unreadable;
    if !examination.quorate {
        unread.push("its cluster has no quorum, so its list may be old".into());
    }
    if !unread.is_empty() {
        found.incomplete.push((node.name.clone(), unread.join(", ")));
    }
    // What is only being made, or has a record of ours, is somebody's.
    let free = |c: &Examined| c.owner.is_none() && !c.half_made && !is_owned(c.vmid.get());
    let containers = examination.containers.into_iter().filter(free);
    found
        .containers
        .extend(containers.map(|container| view(catalog, node, container)));
}

/// Why a container cannot be adopted now, and what to do.
pub(super) fn obstacle(container: &Examined) -> Option<String> {
    if container.template {
        return Some("it is a template, which never runs; adopt a container made from it".into());
    }
    match &container.adoption {
        Permission::Granted => None,
        Permission::Denied { because } => Some(because.clone()),
    }
}

fn view(catalog: &Catalog, node: &FleetNode, container: Examined) -> DiscoveredContainer {
    let listening = container.listening.as_deref().unwrap_or_default();
    let because = obstacle(&container);
    DiscoveredContainer {
        vmid: container.vmid.get(),
        suggested_type: adoption::suggest(catalog, container.hostname.as_deref(), listening).to_owned(),
        name: container
            .hostname
            .clone()
            .unwrap_or_else(|| format!("CT{}", container.vmid)),
        status: match container.state {
            RunState::Running => "running",
            RunState::Stopped => "stopped",
            RunState::Unknown => "unknown",
        },
        node: node.name.clone(),
        host_id: node.host_id,
        memory: container.memory_mb.saturating_mul(MIB),
        memory_used: container.memory_used_bytes,
        disk: container.disk_total_bytes,
        disk_used: container.disk_used_bytes,
        uptime: container.uptime_s,
        cpus: container
            .cpu_cores
            .or_else(|| node.facts.as_ref().map(|facts| facts.cpu_count)),
        ip_address: container.addresses.first().copied(),
        listening_ports: container
            .listening
            .as_ref()
            .map(|all| all.iter().filter(|l| l.outside).map(|l| l.port).collect()),
        adoptable: because.is_none(),
        not_adoptable_because: because,
    }
}
