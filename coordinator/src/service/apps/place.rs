//! The fleet as placement sees it, and which part of it a request means.

use super::{Apps, CreateApp, ServiceError};
use crate::{
    domain::{
        app_state::Status,
        placement::{Admission, Candidate, Demand, Ranking, rank},
    },
    operations::{
        migrate::MIGRATE,
        params::MigrateParams,
        surroundings::{SurroundingsError, app_network},
    },
    store::{
        Connection, StoreError, apps,
        fleet::{self, FleetNode},
        operations,
    },
};
use proximity_protocol::{ids::NodeId, observed::NodeFacts};
use std::collections::HashMap;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// The largest that any node of the fleet could take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Largest {
    pub(super) cpu_cores: u64,
    pub(super) memory_mb: u64,
    pub(super) disk_gb: u64,
}

/// `None` while no node has told what it is.
pub(super) fn largest(nodes: &[FleetNode]) -> Option<Largest> {
    let facts: Vec<&NodeFacts> = nodes
        .iter()
        .filter(|n| n.admission != Admission::Revoked)
        .filter_map(|n| n.facts.as_ref())
        .collect();
    let most = |of: &dyn Fn(&NodeFacts) -> u64| facts.iter().map(|f| of(f)).max();
    Some(Largest {
        cpu_cores: most(&|f| f.cpu_count.into())?,
        memory_mb: most(&|f| f.memory_total_bytes / MIB)?,
        disk_gb: most(&|f| {
            let sizes = f.storages.iter().filter(|s| s.content.iter().any(|c| c == "rootdir"));
            // A storage whose size cannot be told may be of any size.
            sizes
                .map(|s| s.total_bytes.map_or(u64::MAX, |b| b / GIB))
                .max()
                .unwrap_or(0)
        })?,
    })
}

/// The nodes of a host, or all: 404 for a host that is not there.
async fn of_host<'f>(
    conn: &mut Connection,
    host_id: Option<i64>,
    nodes: &'f [FleetNode],
) -> Result<Vec<&'f FleetNode>, ServiceError> {
    if let Some(host_id) = host_id
        && !fleet::host_exists(conn, host_id).await?
    {
        return Err(ServiceError::NotFound(format!(
            "there is no host {host_id}; GET /api/proxmox/hosts lists them"
        )));
    }
    Ok(nodes
        .iter()
        .filter(|n| host_id.is_none_or(|host_id| n.host_id == host_id))
        .collect())
}

fn with_name<'f>(nodes: Vec<&'f FleetNode>, name: &str) -> Result<Vec<&'f FleetNode>, ServiceError> {
    let named: Vec<&FleetNode> = nodes.into_iter().filter(|n| n.name == name).collect();
    if named.is_empty() {
        let name: String = name.chars().take(80).collect();
        return Err(ServiceError::NotFound(format!(
            "there is no node {name:?}; GET /api/proxmox/nodes lists them"
        )));
    }
    Ok(named)
}

/// The nodes of that name, at least one.
pub(super) async fn named<'f>(
    conn: &mut Connection,
    name: &str,
    host_id: Option<i64>,
    nodes: &'f [FleetNode],
) -> Result<Vec<&'f FleetNode>, ServiceError> {
    with_name(of_host(conn, host_id, nodes).await?, name)
}

impl Apps {
    /// The nodes that the request means, or why it cannot mean any: 404 before 409.
    pub(super) async fn meant<'f>(
        &self,
        conn: &mut Connection,
        body: &CreateApp,
        nodes: &'f [FleetNode],
    ) -> Result<Vec<&'f FleetNode>, ServiceError> {
        let of_host = of_host(conn, body.host_id, nodes).await?;
        match &body.node {
            Some(name) => with_name(of_host, name),
            None => Ok(of_host),
        }
    }

    /// Refuses a named node or host that takes nothing now.
    pub(super) fn refuse_closed(&self, body: &CreateApp, meant: &[&FleetNode]) -> Result<(), ServiceError> {
        let conflict = |text: String| Err(ServiceError::Conflict(text));
        if body.host_id.is_some()
            && let Some(node) = meant.first()
            && !node.host_active
        {
            return conflict(format!(
                "host {} is inactive; activate it or choose another",
                node.host_name
            ));
        }
        if body.node.is_none() {
            return Ok(());
        }
        self.refuse_closed_node(meant)
    }

    /// Refuses a named node that takes nothing now.
    pub(super) fn refuse_closed_node(&self, meant: &[&FleetNode]) -> Result<(), ServiceError> {
        let conflict = |text: String| Err(ServiceError::Conflict(text));
        if let [a, b, ..] = meant {
            return conflict(format!(
                "hosts {} and {} both have a node {}; say which with host_id",
                a.host_name, b.host_name, a.name
            ));
        }
        let Some(node) = meant.first() else { return Ok(()) };
        if !node.host_active {
            return conflict(format!(
                "host {} of node {} is inactive; activate it or choose another",
                node.host_name, node.name
            ));
        }
        match node.admission {
            Admission::Enrolled => {}
            Admission::Draining => {
                return conflict(format!("node {} is draining; undrain it or choose another", node.name));
            }
            Admission::Revoked => {
                return conflict(format!(
                    "node {} is revoked; enrol it again with a join token or choose another",
                    node.name
                ));
            }
        }
        if !self.deps().queries.is_online(node.id) {
            return conflict(format!(
                "node {} is offline; bring its agent back or choose another",
                node.name
            ));
        }
        Ok(())
    }

    /// Ranks the nodes for a demand, deployments under way counted. Index into `meant`.
    pub(super) async fn rank(
        &self,
        conn: &mut Connection,
        demand: &Demand,
        meant: &[&FleetNode],
        all: &[FleetNode],
    ) -> Result<Ranking, ServiceError> {
        Ok(rank(demand, &self.candidates(conn, meant, all).await?))
    }

    /// The nodes as placement sees them, with what is promised on each.
    pub(super) async fn candidates(
        &self,
        conn: &mut Connection,
        meant: &[&FleetNode],
        all: &[FleetNode],
    ) -> Result<Vec<Candidate>, ServiceError> {
        let mut in_flight: HashMap<NodeId, u64> = HashMap::new();
        let mut running: HashMap<NodeId, u64> = HashMap::new();
        for (node, status, resources) in apps::promised(&mut *conn).await? {
            let of = match status {
                Status::Deploying | Status::Cloning | Status::Restoring | Status::Updating => &mut in_flight,
                Status::Stopped | Status::Error => continue,
                _ => &mut running,
            };
            *of.entry(node).or_default() += u64::from(resources.memory_mb);
        }
        for (at, params, resources) in operations::under_way(&mut *conn, MIGRATE.name).await? {
            let params: MigrateParams = serde_json::from_value(params).map_err(StoreError::from)?;
            // Once it is there, it counts as an app of that node.
            if at != Some(params.to) {
                *in_flight.entry(params.to).or_default() += u64::from(resources.memory_mb);
            }
        }
        let mut bridges = HashMap::new();
        for node in meant {
            if bridges.contains_key(&node.host_id) {
                continue;
            }
            let facts: Vec<&NodeFacts> = all
                .iter()
                .filter(|n| n.host_id == node.host_id)
                .filter_map(|n| n.facts.as_ref())
                .collect();
            match app_network(&mut *conn, node.host_id, &node.host_name, &facts).await {
                Ok(network) => bridges.insert(node.host_id, network.params.bridge),
                Err(SurroundingsError::Store(error)) => return Err(error.into()),
                Err(other) => {
                    return Err(ServiceError::Conflict(format!(
                        "{other}; set it with PUT /api/proxmox/hosts/{}/network",
                        node.host_id
                    )));
                }
            };
        }
        Ok(meant
            .iter()
            .filter_map(|node| {
                Some(Candidate {
                    node: node.id,
                    name: node.name.clone(),
                    host_id: node.host_id,
                    host_name: node.host_name.clone(),
                    host_active: node.host_active,
                    host_default: node.host_default,
                    online: self.deps().queries.is_online(node.id),
                    admission: node.admission,
                    facts: node.facts.clone(),
                    // Without live figures, what its running apps may use at most.
                    memory_used_bytes: match self.deps().live.node(node.id) {
                        Some(figures) => figures.memory_used_bytes,
                        None => running.get(&node.id).copied().unwrap_or_default() * MIB,
                    },
                    in_flight_mb: in_flight.get(&node.id).copied().unwrap_or_default(),
                    bridge: bridges.get(&node.host_id)?.clone(),
                })
            })
            .collect())
    }
}
