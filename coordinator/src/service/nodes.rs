//! Nodes: everybody who is logged in sees them, operators drain them, admins throw them out.

use super::{Caller, Role, ServiceError, settings::only_admins};
use crate::{
    clock::{SharedClock, UnixMs, rfc3339},
    domain::{
        clocks::{self, Clocks},
        placement::Admission,
    },
    events::{Bus, NewEvent},
    live::Live,
    nodes::{SharedQueries, inventories::Inventories},
    store::{
        self, AuditEntry, Connection, Store, StoreError, certificates, hosts,
        node_trust::{self, Cloned},
        nodes::{self as rows, NodeRow},
    },
};
use proximity_protocol::{close, ids::NodeId};
use serde::Serialize;
use std::{collections::HashMap, fmt};

/// A node as clients see it. What is measured is null while the node is offline: old figures are not shown as if they were new.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Its host.
    pub host_id: i64,
    /// Its host's name.
    pub host_name: String,
    /// Its name in Proxmox.
    pub name: String,
    /// `pve`.
    pub node_type: &'static str,
    /// `online`, `offline`, `draining` (and online), `revoked`.
    pub status: &'static str,
    /// Logical CPUs.
    pub cpu_count: Option<u32>,
    /// Busy part of all CPUs, 0 to 1.
    pub cpu_usage: Option<f64>,
    /// Bytes.
    pub memory_total: Option<u64>,
    /// Bytes.
    pub memory_used: Option<u64>,
    /// Bytes, of storages that take containers.
    pub storage_total: Option<u64>,
    /// Bytes.
    pub storage_used: Option<u64>,
    /// Seconds since boot.
    pub uptime: Option<u64>,
    /// Where its published ports answer.
    pub ip_address: Option<String>,
    /// Of Proxmox VE.
    pub pve_version: Option<String>,
    /// Containers on it, as its last inventory has them.
    pub lxc_count: usize,
    /// Of its agent.
    pub agent_version: Option<String>,
    /// As of when all this is.
    pub last_updated: Option<String>,
    /// When its certificate ends.
    pub certificate_expires_at: Option<String>,
    /// What is wrong with the node itself; null: nothing that is known.
    pub alarm: Option<NodeAlarm>,
}

/// What is wrong with a node, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeAlarm {
    /// `cloned`, `clock`.
    pub kind: &'static str,
    /// Since when, where that is known.
    pub since: Option<String>,
    /// What was seen.
    pub message: String,
    /// What to do.
    pub action: String,
}

fn cloned_alarm(node: NodeId, cloned: &Cloned) -> NodeAlarm {
    NodeAlarm {
        kind: "cloned",
        since: Some(rfc3339(cloned.since)),
        message: cloned.message.clone(),
        action: format!(
            "If the machine that serves is the right one: POST /api/proxmox/nodes/{node}/rekey, which makes the copied key worthless, and join the copy with a \
             token of its own. If it is not: revoke the node, and join the right machine with a new token and --take-over."
        ),
    }
}

fn clock_alarm(node: NodeId, clocks: &Clocks) -> Option<NodeAlarm> {
    let (message, action) = match clocks {
        Clocks::NodesOff(off) => {
            let (_, by) = off.iter().find(|(of, _)| *of == node)?;
            (
                format!("this node's clock is {} the coordinator's", clocks::words(*by)),
                "Set the node's clock, and let chrony or systemd-timesyncd keep it.",
            )
        }
        Clocks::Either(of, by) if *of == node => (
            format!("this node's clock is {} the coordinator's", clocks::words(*by)),
            "One of the two is wrong: compare `date -u` on both and set that one.",
        ),
        _ => return None,
    };
    Some(NodeAlarm {
        kind: "clock",
        since: None,
        message,
        action: action.into(),
    })
}

/// The use cases.
#[derive(Clone)]
pub struct Nodes {
    store: Store,
    clock: SharedClock,
    links: SharedQueries,
    live: Live,
    inventories: Inventories,
    bus: Bus,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nodes(…)")
    }
}

/// Refuses everybody below an operator.
pub(super) fn only_operators(caller: &Caller) -> Result<(), ServiceError> {
    if caller.role >= Role::Operator {
        Ok(())
    } else {
        Err(ServiceError::Forbidden(
            "this is for operators and admins; ask one".into(),
        ))
    }
}

fn unknown(id: &str) -> ServiceError {
    ServiceError::NotFound(format!("there is no node {id:?}; GET /api/proxmox/nodes lists them"))
}

/// Storages that take containers, together: total and used; `None` if none of them could be told.
pub(super) fn storage(node: &NodeRow) -> Option<(u64, u64)> {
    let facts = node.facts.as_ref()?;
    let sizes: Vec<(u64, u64)> = facts
        .storages
        .iter()
        .filter(|s| s.content.iter().any(|c| c == "rootdir"))
        .filter_map(|s| Some((s.total_bytes?, s.used_bytes?)))
        .collect();
    (!sizes.is_empty()).then(|| sizes.iter().fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1)))
}

impl Nodes {
    /// Puts the use cases together.
    pub fn new(
        store: Store,
        clock: SharedClock,
        links: SharedQueries,
        live: Live,
        inventories: Inventories,
        bus: Bus,
    ) -> Self {
        Self {
            store,
            clock,
            links,
            live,
            inventories,
            bus,
        }
    }

    /// Every node, or those of one host.
    pub async fn list(&self, _caller: &Caller, host_id: Option<i64>) -> Result<Vec<NodeView>, ServiceError> {
        let mut read = self.store.read().await?;
        let nodes = rows::list(&mut read, host_id).await?;
        self.views(&mut read, nodes).await
    }

    /// One node.
    pub async fn get(&self, _caller: &Caller, id: &str) -> Result<NodeView, ServiceError> {
        let parsed: NodeId = id.parse().map_err(|_| unknown(id))?;
        let mut read = self.store.read().await?;
        let node = rows::get(&mut read, parsed).await?.ok_or_else(|| unknown(id))?;
        self.views(&mut read, vec![node])
            .await?
            .pop()
            .ok_or_else(|| unknown(id))
    }

    async fn views(&self, tx: &mut Connection, nodes: Vec<NodeRow>) -> Result<Vec<NodeView>, ServiceError> {
        let hosts: HashMap<i64, String> = hosts::list(tx).await?.into_iter().map(|h| (h.id, h.name)).collect();
        let expiries = certificates::expiries(tx).await?;
        let trust = node_trust::all(tx).await?;
        let clocks = clocks::judge(&self.live.clocks());
        let now = self.clock.now_ms();
        Ok(nodes
            .into_iter()
            .map(|node| {
                let host = hosts.get(&node.host_id).cloned().unwrap_or_default();
                let expires = expiries.get(&node.id).copied();
                let cloned = trust.get(&node.id).and_then(|trust| trust.cloned.as_ref());
                let alarm = match cloned {
                    Some(cloned) => Some(cloned_alarm(node.id, cloned)),
                    None => clock_alarm(node.id, &clocks),
                };
                NodeView {
                    alarm,
                    ..self.view(node, host, expires, now)
                }
            })
            .collect())
    }

    fn view(&self, node: NodeRow, host_name: String, expires: Option<UnixMs>, now: UnixMs) -> NodeView {
        let online = self.links.is_online(node.id);
        let figures = self.live.node(node.id).filter(|_| online);
        let stored = storage(&node).filter(|_| online);
        let facts = node.facts.as_ref();
        let lxc_count = match self.inventories.get(node.id) {
            Some((_, inventory)) => inventory.containers.len(),
            None => self.live.running_containers(node.id).unwrap_or(0),
        };
        NodeView {
            id: node.id.to_string(),
            host_id: node.host_id,
            host_name,
            status: match (node.admission, online) {
                (Admission::Revoked, _) => "revoked",
                (_, false) => "offline",
                (Admission::Draining, true) => "draining",
                (Admission::Enrolled, true) => "online",
            },
            node_type: "pve",
            cpu_count: facts.map(|f| f.cpu_count),
            cpu_usage: figures.as_ref().map(|f| f64::from(f.cpu_ppm) / 1_000_000.0),
            memory_total: facts.map(|f| f.memory_total_bytes),
            memory_used: figures.as_ref().map(|f| f.memory_used_bytes),
            storage_total: figures
                .as_ref()
                .map(|f| f.storage_total_bytes)
                .or(stored.map(|(total, _)| total)),
            storage_used: figures
                .as_ref()
                .map(|f| f.storage_used_bytes)
                .or(stored.map(|(_, used)| used)),
            uptime: figures.as_ref().map(|f| f.uptime_s),
            ip_address: node.address,
            pve_version: facts.and_then(|f| f.pve_version.clone()),
            lxc_count,
            agent_version: node.agent_version,
            last_updated: if online { Some(now) } else { node.last_seen }.map(rfc3339),
            certificate_expires_at: expires.map(rfc3339),
            alarm: None,
            name: node.name,
        }
    }

    /// Throws a node out: its certificates are worth nothing, its link is closed now. Its apps stay in the registry.
    pub async fn revoke(&self, caller: &Caller, id: &str) -> Result<NodeView, ServiceError> {
        only_admins(caller)?;
        let node = self.change(caller, id, Admission::Revoked).await?;
        self.links.disconnect(
            node,
            close::REVOKED,
            "this node's certificate was revoked by an operator: join again with a new token",
        );
        self.live.forget(node);
        self.inventories.forget(node);
        self.get(caller, id).await
    }

    /// The machine that is connected keeps the node's identity under a new key, which it makes at once: copies of the old one are worth nothing from the new
    /// one's first use on, and an alarm about a clone ends then.
    pub async fn rekey(&self, caller: &Caller, id: &str) -> Result<NodeView, ServiceError> {
        only_admins(caller)?;
        let node: NodeId = id.parse().map_err(|_| unknown(id))?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let row = rows::get(&mut tx, node).await?.ok_or_else(|| unknown(id))?;
        let shown = self.links.shown(node).ok_or_else(|| {
            ServiceError::Conflict(format!(
                "the node {:?} is not connected, so there is nobody who could make a new key; wait until the right machine is, or revoke the node and join it \
                 with a new token and --take-over",
                row.name
            ))
        })?;
        if !shown.follows {
            return Err(ServiceError::Conflict(format!(
                "the agent of {:?} is too old to replace its key when asked: update proximity-agent there, or revoke the node and join it with a new token and \
                 --take-over",
                row.name
            )));
        }
        node_trust::set_rekey_from(&mut tx, node, Some(&shown.serial)).await?;
        let entry = AuditEntry {
            actor: caller.username.clone(),
            action: "node.rekey".into(),
            target: Some(id.to_owned()),
            remote: caller.remote.clone(),
            outcome: "ok".into(),
            detail: Some(format!(
                "node {}: the key of certificate {} is to go",
                row.name, shown.serial
            )),
            request_id: caller.request_id.clone(),
        };
        store::audit(&mut tx, now, &entry).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.links.renew_now(node);
        self.get(caller, id).await
    }

    /// The node takes no new apps and keeps what it has.
    pub async fn drain(&self, caller: &Caller, id: &str) -> Result<NodeView, ServiceError> {
        only_operators(caller)?;
        self.change(caller, id, Admission::Draining).await?;
        self.get(caller, id).await
    }

    /// The node takes new apps again.
    pub async fn undrain(&self, caller: &Caller, id: &str) -> Result<NodeView, ServiceError> {
        only_operators(caller)?;
        self.change(caller, id, Admission::Enrolled).await?;
        self.get(caller, id).await
    }

    async fn change(&self, caller: &Caller, id: &str, to: Admission) -> Result<NodeId, ServiceError> {
        let node: NodeId = id.parse().map_err(|_| unknown(id))?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let row = rows::get(&mut tx, node).await?.ok_or_else(|| unknown(id))?;
        if row.admission == to {
            return Ok(node);
        }
        if row.is_revoked() {
            return Err(ServiceError::Conflict(format!(
                "the node {:?} is revoked; let it in again with a new join token first",
                row.name
            )));
        }
        rows::set_admission(&mut tx, now, node, to).await?;
        let change = match to {
            Admission::Revoked => {
                certificates::revoke_all(&mut tx, now, node, "node revoked").await?;
                "revoked"
            }
            Admission::Draining => "drained",
            Admission::Enrolled => "undrained",
        };
        let entry = AuditEntry {
            actor: caller.username.clone(),
            action: format!("node.{change}"),
            target: Some(id.to_owned()),
            remote: caller.remote.clone(),
            outcome: "ok".into(),
            detail: Some(format!("node {}", row.name)),
            request_id: caller.request_id.clone(),
        };
        store::audit(&mut tx, now, &entry).await?;
        let event = NewEvent {
            kind: "node",
            app_id: None,
            operation_id: None,
            owner_id: None,
            data: serde_json::json!({"node_id": node, "name": row.name, "change": change}),
        };
        let event = store::insert_event(&mut tx, now, event).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.bus.publish(event);
        Ok(node)
    }
}
