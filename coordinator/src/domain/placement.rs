//! On which node an app goes, and in words why there and why not elsewhere.

use proximity_protocol::{
    ids::{BridgeName, NodeId, StorageId},
    observed::{NodeFacts, StorageFact},
};
use serde::{Deserialize, Serialize};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// What an app needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Cores.
    pub cpu_cores: u32,
    /// MiB.
    pub memory_mb: u64,
    /// GiB, root volume and others together.
    pub disk_gb: u64,
    /// The storage that was asked for.
    pub storage: Option<StorageId>,
}

/// Whether a node may take apps, as the registry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// It may.
    Enrolled,
    /// It keeps what it has.
    Draining,
    /// Its certificate is worth nothing.
    Revoked,
}

/// A node as placement sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its Proxmox installation.
    pub host_id: i64,
    /// The name of that.
    pub host_name: String,
    /// An inactive host takes no new apps.
    pub host_active: bool,
    /// The default host is preferred.
    pub host_default: bool,
    /// Whether its agent is connected.
    pub online: bool,
    /// Whether it may.
    pub admission: Admission,
    /// What it is; `None` until its agent has told.
    pub facts: Option<NodeFacts>,
    /// Bytes in use now.
    pub memory_used_bytes: u64,
    /// MiB promised to deployments that are under way.
    pub in_flight_mb: u64,
    /// The bridge that apps of its host are put on.
    pub bridge: BridgeName,
}

/// What was thought of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Considered {
    /// The node.
    pub node: String,
    /// Its host.
    pub host: String,
    /// Whether it could take the app.
    pub fits: bool,
    /// Why, or why not.
    pub because: String,
}

/// A node that can take the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Which candidate, by its place in the slice.
    pub index: usize,
    /// Where its volumes go.
    pub storage: StorageId,
    /// Where templates are.
    pub template_storage: StorageId,
    /// MiB that were available.
    pub available_mb: u64,
}

/// The answer: those that can, best first, and a verdict on each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// Best first; empty if no node can.
    pub fits: Vec<Fit>,
    /// Each candidate, in the order given.
    pub considered: Vec<Considered>,
}

impl Ranking {
    /// Why no node fits, one clause for each.
    pub fn why_none(&self) -> String {
        if self.considered.is_empty() {
            return "no node is enrolled; create a join token and run `proximity-agent join` on a Proxmox node".into();
        }
        self.considered
            .iter()
            .map(|c| format!("{}: {}", c.node, c.because))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

/// Ranks the candidates: default host first, then by available memory, then by name, so that equal ones are always in the same order.
pub fn rank(demand: &Demand, candidates: &[Candidate]) -> Ranking {
    let mut fits = Vec::new();
    let mut considered = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let verdict = judge(demand, candidate);
        considered.push(Considered {
            node: candidate.name.clone(),
            host: candidate.host_name.clone(),
            fits: verdict.is_ok(),
            because: match &verdict {
                Ok(fit) => format!("{} MiB of memory available", fit.available_mb),
                Err(why) => why.clone(),
            },
        });
        if let Ok(mut fit) = verdict {
            fit.index = index;
            fits.push(fit);
        }
    }
    fits.sort_by(|a, b| {
        let (x, y) = (&candidates[a.index], &candidates[b.index]);
        (y.host_default, b.available_mb)
            .cmp(&(x.host_default, a.available_mb))
            .then_with(|| (&x.name, x.node).cmp(&(&y.name, y.node)))
    });
    Ranking { fits, considered }
}

/// What a deployment asks of a node, by name: a node whose policy denies one of them is not asked.
const DEPLOY_VERBS: &[&str] = &[
    "confirm",
    "ensure_template",
    "ensure_created",
    "ensure_started",
    "await_network",
    "install_recipe",
    "await_healthy",
    "ensure_published",
];

/// What moving an app here asks of a node, by name.
const MOVE_VERBS: &[&str] = &["ensure_started", "await_network", "await_healthy", "ensure_published"];

fn judge(demand: &Demand, candidate: &Candidate) -> Result<Fit, String> {
    let (facts, available_mb) = can_run(demand, candidate, DEPLOY_VERBS)?;
    let storage = pick_storage(demand, facts)?;
    let template_storage = pick_template_storage(facts, &storage)?;
    Ok(Fit {
        index: 0,
        storage,
        template_storage,
        available_mb,
    })
}

/// Whether a container of another node of the same cluster could be moved here, where it finds its storages again by their names: that of its root volume, which the
/// demand says, and others. Answers the MiB of memory that are available.
pub fn could_be_moved_to(demand: &Demand, others: &[StorageId], candidate: &Candidate) -> Result<u64, String> {
    let (facts, available_mb) = can_run(demand, candidate, MOVE_VERBS)?;
    // What is on a shared storage is there already.
    let is_shared = |id: &StorageId| facts.storages.iter().any(|s| s.id == *id && s.shared);
    let rest = others.iter().map(|id| (id, 0));
    for (id, disk_gb) in demand.storage.iter().map(|id| (id, demand.disk_gb)).chain(rest) {
        let part = Demand {
            storage: Some(id.clone()),
            disk_gb: if is_shared(id) { 0 } else { disk_gb },
            ..demand.clone()
        };
        pick_storage(&part, facts)?;
    }
    Ok(available_mb)
}

/// Whether the app could run here, its volumes aside; the MiB of memory that are available.
fn can_run<'c>(demand: &Demand, candidate: &'c Candidate, verbs: &[&str]) -> Result<(&'c NodeFacts, u64), String> {
    match candidate.admission {
        Admission::Enrolled => {}
        Admission::Draining => return Err("is draining; undrain it to let it take apps".into()),
        Admission::Revoked => return Err("is revoked; enrol it again with a join token".into()),
    }
    if !candidate.host_active {
        return Err(format!("its host {} is inactive", candidate.host_name));
    }
    if !candidate.online {
        return Err("its agent is not connected".into());
    }
    let facts = candidate
        .facts
        .as_ref()
        .ok_or("its agent has not told yet what the node is")?;
    if !facts.quorate {
        return Err("its cluster has no quorum".into());
    }
    if let Some(verb) = verbs.iter().find(|v| facts.policy.denied_verbs.iter().any(|d| d == *v)) {
        return Err(format!("its policy file denies {verb}"));
    }
    if demand.cpu_cores > facts.cpu_count {
        return Err(format!(
            "has {} CPUs, {} are asked for",
            facts.cpu_count, demand.cpu_cores
        ));
    }
    let total_mb = facts.memory_total_bytes / MIB;
    let available_mb = total_mb
        .saturating_sub(candidate.memory_used_bytes.div_ceil(MIB))
        .saturating_sub(candidate.in_flight_mb);
    if demand.memory_mb > available_mb {
        return Err(format!(
            "has {available_mb} of {total_mb} MiB of memory available, {} are asked for",
            demand.memory_mb
        ));
    }
    let bridge = &candidate.bridge;
    if !facts.bridges.iter().any(|b| b.name == *bridge) {
        return Err(format!(
            "has no bridge {bridge}; change the network of host {}",
            candidate.host_name
        ));
    }
    if !facts.policy.bridges.is_empty() && !facts.policy.bridges.contains(bridge) {
        return Err(format!("its policy file does not allow bridge {bridge}"));
    }
    Ok((facts, available_mb))
}

fn takes(storage: &StorageFact, content: &str) -> bool {
    storage.content.iter().any(|c| c == content)
}

fn allowed<'a>(facts: &'a NodeFacts, content: &'static str) -> impl Iterator<Item = &'a StorageFact> {
    facts.storages.iter().filter(move |s| {
        takes(s, content) && (facts.policy.storages.is_empty() || facts.policy.storages.contains(&s.id))
    })
}

fn pick_storage(demand: &Demand, facts: &NodeFacts) -> Result<StorageId, String> {
    if let Some(wanted) = &demand.storage {
        return match facts.storages.iter().find(|s| s.id == *wanted) {
            None => Err(format!("has no storage {wanted}")),
            Some(s) if !takes(s, "rootdir") => {
                Err(format!("its storage {wanted} takes no containers (content rootdir)"))
            }
            Some(_) if !facts.policy.storages.is_empty() && !facts.policy.storages.contains(wanted) => {
                Err(format!("its policy file does not allow storage {wanted}"))
            }
            Some(s) => match free_bytes(s) {
                Some(free) if free < demand.disk_gb * GIB => Err(format!(
                    "its storage {wanted} has {} GiB free, {} are asked for",
                    free / GIB,
                    demand.disk_gb
                )),
                _ => Ok(s.id.clone()),
            },
        };
    }
    let mut fitting: Vec<&StorageFact> = Vec::new();
    let mut largest: Option<(&StorageId, u64)> = None;
    for storage in allowed(facts, "rootdir") {
        match free_bytes(storage) {
            Some(free) if free < demand.disk_gb * GIB => {
                if largest.is_none_or(|(_, most)| free > most) {
                    largest = Some((&storage.id, free));
                }
            }
            _ => fitting.push(storage),
        }
    }
    // Known space before unknown, then the most; equal ones in the order of storage.cfg.
    match fitting.into_iter().rev().max_by_key(|s| free_bytes(s).unwrap_or(0)) {
        Some(storage) => Ok(storage.id.clone()),
        None => Err(match largest {
            Some((id, free)) => format!(
                "its storage {id} has {} GiB free, {} are asked for",
                free / GIB,
                demand.disk_gb
            ),
            None => "has no storage that takes containers (content rootdir) and is allowed by its policy file".into(),
        }),
    }
}

fn pick_template_storage(facts: &NodeFacts, preferred: &StorageId) -> Result<StorageId, String> {
    let all: Vec<&StorageFact> = allowed(facts, "vztmpl").collect();
    all.iter()
        .find(|s| s.id == *preferred)
        .or_else(|| all.iter().find(|s| s.id.as_str() == "local"))
        .or_else(|| all.first())
        .map(|s| s.id.clone())
        .ok_or_else(|| "has no storage for templates (content vztmpl) that is allowed by its policy file".into())
}

fn free_bytes(storage: &StorageFact) -> Option<u64> {
    Some(storage.total_bytes?.saturating_sub(storage.used_bytes?))
}

#[cfg(test)]
#[path = "placement_tests.rs"]
pub(super) mod tests;
