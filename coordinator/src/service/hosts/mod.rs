//! Hosts: everybody who is logged in sees them, operators ask their agents, admins change them.

mod network;

pub use network::{HostNetwork, HostNetworkInput};

use super::{
    Caller, FieldError, ServiceError,
    nodes::{only_operators, storage},
    settings::only_admins,
};
use crate::{
    clock::{SharedClock, rfc3339},
    nodes::SharedQueries,
    store::{
        self, AuditEntry, Connection, Store, StoreError,
        hosts::{self as rows, HostFields, HostRow},
        nodes::{self, NodeRow},
    },
};
use futures_util::future::join_all;
use proximity_protocol::close;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

const PVE_PORT: u16 = 8006;

/// A host as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostView {
    /// Its id.
    pub id: i64,
    /// Unique.
    pub name: String,
    /// Address or name.
    pub host: String,
    /// Of Proxmox's own web page.
    pub port: i64,
    /// Whether it takes new apps.
    pub is_active: bool,
    /// Whether it is preferred.
    pub is_default: bool,
    /// When a node of it was last connected.
    pub last_seen: Option<String>,
    /// Logical CPUs of its nodes.
    pub total_cpu: u64,
    /// Memory of its nodes, bytes.
    pub total_memory: u64,
    /// Storages that take containers, bytes; shared ones once.
    pub total_storage: u64,
    /// When it was made.
    pub created_at: String,
    /// When it was last changed.
    pub updated_at: String,
    /// The user who made it; null: it appeared with its first node.
    pub created_by: Option<i64>,
}

/// A host to make, or what to change of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostInput {
    /// 1 to 63 letters, digits, '-', '_', '.'; needed to make one.
    pub name: Option<String>,
    /// Address or name, for operators; at most 255 characters.
    pub host: Option<String>,
    /// 1 to 65535.
    pub port: Option<i64>,
    /// Whether it takes new apps.
    pub is_active: Option<bool>,
    /// Whether it is preferred.
    pub is_default: Option<bool>,
}

/// What a test of a host found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostTest {
    /// Whether every node answered, and there is one.
    pub success: bool,
    /// In words.
    pub message: String,
    /// Its nodes, but for revoked ones.
    pub nodes: Vec<NodeTest>,
}

/// What a test of a node found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeTest {
    /// Its name.
    pub name: String,
    /// Whether its agent answered just now.
    pub reachable: bool,
    /// Of the link.
    pub rtt_ms: Option<f64>,
    /// Of its agent.
    pub agent_version: Option<String>,
}

/// What asking the agents brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// Whether every node answered.
    pub success: bool,
    /// `Synced N nodes`.
    pub message: String,
    /// Names of those that did not.
    pub unreachable: Vec<String>,
}

/// The use cases.
#[derive(Clone)]
pub struct Hosts {
    store: Store,
    clock: SharedClock,
    links: SharedQueries,
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hosts(…)")
    }
}

fn unknown(id: i64) -> ServiceError {
    ServiceError::NotFound(format!("there is no host {id}; GET /api/proxmox/hosts lists them"))
}

fn taken(error: StoreError) -> ServiceError {
    match error {
        StoreError::Taken(_) => {
            ServiceError::Conflict("a host of this name is there already; choose another name".into())
        }
        other => other.into(),
    }
}

/// The fields after a change, or everything that is wrong with it.
fn changed(old: HostFields, input: HostInput) -> Result<HostFields, ServiceError> {
    let mut wrong = Vec::new();
    let name = input.name.unwrap_or(old.name);
    let word = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 63 || !name.bytes().all(word) {
        wrong.push(FieldError::body(
            "name",
            "has to be 1 to 63 of letters, digits, '-', '_' and '.'",
        ));
    }
    let host = input.host.unwrap_or(old.host);
    if host.len() > 255 || !host.bytes().all(|b| b.is_ascii_graphic()) {
        wrong.push(FieldError::body(
            "host",
            "has to be an address or a name of at most 255 characters without blanks",
        ));
    }
    let port = input.port.unwrap_or(old.port.into());
    let port = u16::try_from(port).ok().filter(|p| *p > 0).unwrap_or_else(|| {
        wrong.push(FieldError::body("port", "has to be from 1 to 65535"));
        PVE_PORT
    });
    if !wrong.is_empty() {
        return Err(ServiceError::Invalid(wrong));
    }
    Ok(HostFields {
        name,
        host,
        port,
        is_active: input.is_active.unwrap_or(old.is_active),
        is_default: input.is_default.unwrap_or(old.is_default),
    })
}

fn view(host: HostRow, nodes: &[NodeRow]) -> HostView {
    let own: Vec<&NodeRow> = nodes
        .iter()
        .filter(|n| n.host_id == host.id && !n.is_revoked())
        .collect();
    let facts = || own.iter().filter_map(|n| n.facts.as_ref());
    let shared: BTreeMap<&str, u64> = facts()
        .flat_map(|f| &f.storages)
        .filter(|s| s.shared && s.content.iter().any(|c| c == "rootdir"))
        .filter_map(|s| Some((s.id.as_str(), s.total_bytes?)))
        .collect();
    let local = |node: &NodeRow| {
        let mut node = node.clone();
        if let Some(facts) = &mut node.facts {
            facts.storages.retain(|s| !s.shared);
        }
        storage(&node).map_or(0, |(total, _)| total)
    };
    HostView {
        total_cpu: facts().map(|f| u64::from(f.cpu_count)).sum(),
        total_memory: facts().map(|f| f.memory_total_bytes).sum(),
        total_storage: own.iter().map(|n| local(n)).sum::<u64>() + shared.values().sum::<u64>(),
        id: host.id,
        name: host.name,
        host: host.host,
        port: host.port,
        is_active: host.is_active,
        is_default: host.is_default,
        last_seen: host.last_seen.map(rfc3339),
        created_at: rfc3339(host.created_at),
        updated_at: rfc3339(host.updated_at),
        created_by: host.created_by,
    }
}

impl Hosts {
    /// Puts the use cases together.
    pub fn new(store: Store, clock: SharedClock, links: SharedQueries) -> Self {
        Self { store, clock, links }
    }

    /// Every host.
    pub async fn list(&self, _caller: &Caller) -> Result<Vec<HostView>, ServiceError> {
        let mut read = self.store.read().await?;
        let nodes = nodes::list(&mut read, None).await?;
        let hosts = rows::list(&mut read).await?;
        Ok(hosts.into_iter().map(|host| view(host, &nodes)).collect())
    }

    /// One host.
    pub async fn get(&self, _caller: &Caller, id: i64) -> Result<HostView, ServiceError> {
        let mut read = self.store.read().await?;
        let host = rows::get(&mut read, id).await?.ok_or_else(|| unknown(id))?;
        Ok(view(host, &nodes::list(&mut read, Some(id)).await?))
    }

    /// Makes a host, to be filled by nodes with join tokens for it.
    pub async fn create(&self, caller: &Caller, input: HostInput) -> Result<HostView, ServiceError> {
        only_admins(caller)?;
        if input.name.is_none() {
            return Err(ServiceError::Invalid(vec![FieldError::body("name", "is needed")]));
        }
        let empty = HostFields {
            name: String::new(),
            host: String::new(),
            port: PVE_PORT,
            is_active: true,
            is_default: false,
        };
        let fields = changed(empty, input)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let id = rows::insert(&mut tx, now, Some(caller.user_id), &fields, None)
            .await
            .map_err(taken)?;
        self.audit(&mut tx, caller, "host.create", id, &fields.name).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.get(caller, id).await
    }

    /// Changes what is given.
    pub async fn update(&self, caller: &Caller, id: i64, input: HostInput) -> Result<HostView, ServiceError> {
        only_admins(caller)?;
        let mut tx = self.store.begin().await?;
        let row = rows::get(&mut tx, id).await?;
        let old = row.as_ref().map_or_else(
            || HostFields {
                // Judges the body before the path, as everywhere: 422 goes before 404.
                name: "x".into(),
                host: String::new(),
                port: PVE_PORT,
                is_active: true,
                is_default: false,
            },
            |row| HostFields {
                name: row.name.clone(),
                host: row.host.clone(),
                port: u16::try_from(row.port).unwrap_or(PVE_PORT),
                is_active: row.is_active,
                is_default: row.is_default,
            },
        );
        let fields = changed(old, input)?;
        if row.is_none() {
            return Err(unknown(id));
        }
        rows::update(&mut tx, self.clock.now_ms(), id, &fields)
            .await
            .map_err(taken)?;
        self.audit(&mut tx, caller, "host.update", id, &fields.name).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.get(caller, id).await
    }

    /// Takes a host out, with its nodes: they are thrown out. Refused while it has apps.
    pub async fn delete(&self, caller: &Caller, id: i64) -> Result<(), ServiceError> {
        only_admins(caller)?;
        let mut tx = self.store.begin().await?;
        let host = rows::get(&mut tx, id).await?.ok_or_else(|| unknown(id))?;
        let apps = rows::apps_on(&mut tx, id).await?;
        if !apps.is_empty() {
            return Err(ServiceError::Conflict(format!(
                "the host {:?} has {} app(s): {}; delete them first",
                host.name,
                apps.len(),
                apps.join(", ")
            )));
        }
        if rows::has_reservations(&mut tx, id).await? {
            return Err(ServiceError::Conflict(format!(
                "VMIDs, ports or addresses of the host {:?} are still reserved for apps whose removal is not proven; try again when its nodes are online and reconciled",
                host.name
            )));
        }
        let gone = nodes::list(&mut tx, Some(id)).await?;
        rows::remove(&mut tx, id).await?;
        self.audit(&mut tx, caller, "host.delete", id, &host.name).await?;
        tx.commit().await.map_err(StoreError::from)?;
        for node in gone {
            self.links
                .disconnect(node.id, close::REVOKED, "this node's host was removed by an operator");
        }
        Ok(())
    }

    /// Asks every agent of the host and tells who answered.
    pub async fn test(&self, caller: &Caller, id: i64) -> Result<HostTest, ServiceError> {
        only_operators(caller)?;
        let nodes: Vec<NodeTest> = self
            .ask(id)
            .await?
            .into_iter()
            .map(|(node, reachable)| NodeTest {
                rtt_ms: self
                    .links
                    .round_trip(node.id)
                    .filter(|_| reachable)
                    .map(|rtt| rtt.as_secs_f64() * 1000.0),
                name: node.name,
                reachable,
                agent_version: node.agent_version,
            })
            .collect();
        let silent: Vec<&str> = nodes.iter().filter(|n| !n.reachable).map(|n| n.name.as_str()).collect();
        let message = if nodes.is_empty() {
            "no node has enrolled in this host yet: make a join token and run `proximity-agent join` on it".into()
        } else if silent.is_empty() {
            format!("all {} nodes answered", nodes.len())
        } else {
            format!("no answer from {}: look at proximity-agent there", silent.join(", "))
        };
        Ok(HostTest {
            success: silent.is_empty() && !nodes.is_empty(),
            message,
            nodes,
        })
    }

    /// Asks every agent of the host for fresh facts and an inventory, and waits until they are stored.
    pub async fn sync_nodes(&self, caller: &Caller, id: i64) -> Result<Synced, ServiceError> {
        only_operators(caller)?;
        let asked = self.ask(id).await?;
        let synced = asked.iter().filter(|(_, answered)| *answered).count();
        let unreachable: Vec<String> = asked
            .into_iter()
            .filter(|(_, answered)| !answered)
            .map(|(node, _)| node.name)
            .collect();
        Ok(Synced {
            success: unreachable.is_empty(),
            message: format!("Synced {synced} nodes"),
            unreachable,
        })
    }

    async fn ask(&self, id: i64) -> Result<Vec<(NodeRow, bool)>, ServiceError> {
        let mut read = self.store.read().await?;
        rows::get(&mut read, id).await?.ok_or_else(|| unknown(id))?;
        let nodes = nodes::list(&mut read, Some(id)).await?;
        drop(read);
        // All at once: one silent node does not make the others wait.
        let asking = nodes.into_iter().filter(|n| !n.is_revoked()).map(|node| async {
            let answered = self.links.refresh(node.id).await;
            if let Err(error) = &answered {
                tracing::info!(node_id = %node.id, %error, "the node did not answer");
            }
            (node, answered.is_ok())
        });
        Ok(join_all(asking).await)
    }

    async fn audit(
        &self,
        tx: &mut Connection,
        caller: &Caller,
        action: &str,
        id: i64,
        name: &str,
    ) -> Result<(), StoreError> {
        let entry = AuditEntry {
            actor: caller.username.clone(),
            action: action.into(),
            target: Some(id.to_string()),
            remote: caller.remote.clone(),
            outcome: "ok".into(),
            detail: Some(format!("host {name}")),
            request_id: caller.request_id.clone(),
        };
        store::audit(tx, self.clock.now_ms(), &entry).await
    }
}

#[cfg(test)]
mod tests;
