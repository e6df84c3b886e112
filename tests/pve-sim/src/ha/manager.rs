//! The cluster's resource manager (pve-ha-crm, PVE::HA::Manager): decides, purely, where each service is to be and in which state.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::resources::{Resource, Resources};

/// `ha/manager_status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerStatus {
    /// Where the manager runs.
    #[serde(default)]
    pub master_node: String,
    /// `online`, `unknown`, `fence` by node.
    #[serde(default)]
    pub node_status: BTreeMap<String, String>,
    /// By `ct:100`.
    #[serde(default)]
    pub service_status: BTreeMap<String, ServiceStatus>,
    /// Seconds since the epoch.
    #[serde(default)]
    pub timestamp: u64,
}

/// What the manager wants done about a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// It stands.
    Stopped,
    /// It is to be stopped.
    RequestStop,
    /// It is to run.
    Started,
    /// Its node is away and perhaps not dead yet.
    Fence,
    /// Its node is dead; another one is looked for.
    Recovery,
    /// It is on its way to `target`.
    Migrate,
    /// The same, for what cannot be moved while it runs.
    Relocate,
    /// The manager gave up; an operator has to disable it first.
    Error,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// State.
    pub state: ServiceState,
    /// Where it is.
    pub node: String,
    /// Names what is asked now: a result of the local manager counts only for its own.
    pub uid: String,
    /// It was seen to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u8>,
    /// Of migrate and relocate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Of a stop, seconds; 0 kills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// A request that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Where it could not be started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed_nodes: Vec<String>,
}

/// What the manager knows besides its own status.
#[derive(Debug)]
pub(super) struct Known<'a> {
    pub(super) master: &'a str,
    pub(super) now_s: u64,
    pub(super) resources: &'a Resources,
    /// Containers of the cluster and their nodes.
    pub(super) places: &'a BTreeMap<String, String>,
    /// Nodes that the master sees.
    pub(super) online: &'a BTreeSet<String>,
    /// Nodes that are away for so long that they must have reset themselves, or lost power.
    pub(super) dead: &'a BTreeSet<String>,
    /// Results of the local managers: whether it succeeded, by uid.
    pub(super) results: &'a BTreeMap<String, bool>,
    /// Lines of `crm_commands`.
    pub(super) commands: &'a str,
}

/// What has to be done besides writing the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// The configuration of a dead node's container goes to another node.
    Steal { sid: String, from: String, to: String },
    /// `resources.cfg` asks for `stopped` from now on.
    AskStopped(String),
}

/// One look of the manager. `fresh` makes a new uid.
pub(super) fn manage(status: &mut ManagerStatus, known: &Known<'_>, fresh: &mut dyn FnMut() -> String) -> Vec<Deed> {
    status.master_node = known.master.to_owned();
    status.timestamp = known.now_s;
    adopt(status, known, fresh);
    take_commands(status, known.commands);
    let mut deeds = Vec::new();
    let mut load: BTreeMap<String, usize> = known.online.iter().map(|node| (node.clone(), 0)).collect();
    for service in status.service_status.values() {
        if let Some(count) = load.get_mut(service.target.as_ref().unwrap_or(&service.node)) {
            *count += 1;
        }
    }
    for (sid, service) in &mut status.service_status {
        let Some(resource) = known.resources.0.get(sid) else {
            continue;
        };
        // A service may go through several states at once; each only once a look.
        for _ in 0..4 {
            let before = service.state;
            step(sid, service, resource, known, &load, &mut deeds);
            if service.state == before {
                break;
            }
            service.uid = fresh();
        }
        if service.state == ServiceState::Started && known.results.contains_key(&service.uid) {
            // Looked at again: it is started anew if it went down.
            service.uid = fresh();
        }
    }
    status.node_status = nodes(status, known);
    deeds
}

fn nodes(status: &ManagerStatus, known: &Known<'_>) -> BTreeMap<String, String> {
    let mut all: BTreeSet<&String> = status.node_status.keys().collect();
    all.extend(known.online);
    all.extend(known.dead);
    let fencing = |node: &String| {
        let mut services = status.service_status.values();
        services.any(|service| service.node == *node && service.state == ServiceState::Fence)
    };
    all.into_iter()
        .map(|node| {
            let word = match () {
                () if known.online.contains(node) => "online",
                () if fencing(node) => "fence",
                () => "unknown",
            };
            (node.clone(), word.to_owned())
        })
        .collect()
}

fn adopt(status: &mut ManagerStatus, known: &Known<'_>, fresh: &mut dyn FnMut() -> String) {
    let wanted = |sid: &String| {
        known
            .resources
            .0
            .get(sid)
            .filter(|resource| resource.state() != "ignored")
    };
    status.service_status.retain(|sid, _| wanted(sid).is_some());
    for sid in known.resources.0.keys() {
        let (Some(resource), Some(node)) = (wanted(sid), known.places.get(sid)) else {
            continue;
        };
        status
            .service_status
            .entry(sid.clone())
            .or_insert_with(|| ServiceStatus {
                state: asked(resource),
                node: node.clone(),
                uid: fresh(),
                running: None,
                target: None,
                timeout: None,
                cmd: None,
                failed_nodes: Vec::new(),
            });
    }
}

fn asked(resource: &Resource) -> ServiceState {
    if resource.state() == "started" {
        ServiceState::Started
    } else {
        ServiceState::RequestStop
    }
}

fn take_commands(status: &mut ManagerStatus, commands: &str) {
    for line in commands.lines() {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if let [command, sid, argument] = words.as_slice()
            && let Some(service) = status.service_status.get_mut(sid)
        {
            service.cmd = Some(vec![command.clone(), argument.clone()]);
        }
    }
}

fn enter(service: &mut ServiceStatus, state: ServiceState) {
    (service.state, service.running, service.target, service.timeout) = (state, None, None, None);
}

fn step(
    sid: &str,
    service: &mut ServiceStatus,
    resource: &Resource,
    known: &Known<'_>,
    load: &BTreeMap<String, usize>,
    deeds: &mut Vec<Deed>,
) {
    let result = known.results.get(&service.uid).copied();
    let dead = known.dead.contains(&service.node);
    match service.state {
        ServiceState::Stopped => {
            if let Some(node) = known.places.get(sid) {
                service.node.clone_from(node);
            }
            if take_move(service, known) || resource.state() == "disabled" {
            } else if dead {
                enter(service, ServiceState::Fence);
            } else if resource.state() == "started" {
                enter(service, ServiceState::Started);
            }
        }
        ServiceState::RequestStop => match result {
            Some(true) => enter(service, ServiceState::Stopped),
            Some(false) => enter(service, ServiceState::Error),
            None if dead => enter(service, ServiceState::Fence),
            None => {}
        },
        ServiceState::Migrate | ServiceState::Relocate => match (result, service.target.clone()) {
            (Some(true), Some(target)) => {
                enter(service, asked(resource));
                service.node = target;
            }
            (Some(_), _) => enter(service, asked(resource)),
            (None, _) if dead => enter(service, ServiceState::Fence),
            (None, _) => {}
        },
        ServiceState::Fence if dead => enter(service, ServiceState::Recovery),
        // Its node came back before it was dead.
        ServiceState::Fence if known.online.contains(&service.node) => enter(service, asked(resource)),
        ServiceState::Fence => {}
        ServiceState::Recovery => {
            if let Some(to) = best(load, known, &[]) {
                deeds.push(Deed::Steal {
                    sid: sid.to_owned(),
                    from: service.node.clone(),
                    to: to.clone(),
                });
                enter(service, asked(resource));
                service.node = to;
            }
        }
        ServiceState::Error => {
            if resource.state() == "disabled" {
                service.failed_nodes.clear();
                enter(service, ServiceState::Stopped);
            }
        }
        ServiceState::Started => started(sid, service, resource, known, load, deeds, result),
    }
}

fn started(
    sid: &str,
    service: &mut ServiceStatus,
    resource: &Resource,
    known: &Known<'_>,
    load: &BTreeMap<String, usize>,
    deeds: &mut Vec<Deed>,
    result: Option<bool>,
) {
    if !known.online.contains(&service.node) {
        if known.dead.contains(&service.node) {
            enter(service, ServiceState::Fence);
        }
        return;
    }
    if resource.state() != "started" {
        enter(service, ServiceState::RequestStop);
        return;
    }
    if let Some([command, argument]) = service.cmd.as_deref()
        && command == "stop"
    {
        let timeout = argument.parse().ok();
        service.cmd = None;
        enter(service, ServiceState::RequestStop);
        service.timeout = timeout;
        deeds.push(Deed::AskStopped(sid.to_owned()));
        return;
    }
    if take_move(service, known) {
        return;
    }
    match result {
        Some(true) => {
            service.failed_nodes.clear();
            service.running = Some(1);
        }
        Some(false) => {
            service.failed_nodes.push(service.node.clone());
            if service.failed_nodes.len() > resource.max_relocate() {
                enter(service, ServiceState::Error);
            } else if let Some(target) = best(load, known, &service.failed_nodes) {
                enter(service, ServiceState::Relocate);
                service.target = Some(target);
            }
        }
        None => {}
    }
}

/// Turns a waiting request to move into a state; whether there was one to follow.
fn take_move(service: &mut ServiceStatus, known: &Known<'_>) -> bool {
    let Some([command, target]) = service.cmd.as_deref() else {
        return false;
    };
    let (state, target) = match command.as_str() {
        "migrate" => (ServiceState::Migrate, target.clone()),
        "relocate" => (ServiceState::Relocate, target.clone()),
        _ => {
            service.cmd = None;
            return false;
        }
    };
    service.cmd = None;
    if !known.online.contains(&target) || service.node == target {
        return false;
    }
    enter(service, state);
    service.target = Some(target);
    true
}

/// The node with the fewest services, the first by name of those.
fn best(load: &BTreeMap<String, usize>, known: &Known<'_>, not: &[String]) -> Option<String> {
    load.iter()
        .filter(|(node, _)| known.online.contains(*node) && !not.contains(node))
        .min_by_key(|(node, count)| (**count, (*node).clone()))
        .map(|(node, _)| node.clone())
}
