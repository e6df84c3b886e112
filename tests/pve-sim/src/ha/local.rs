//! A node's local resource manager (pve-ha-lrm, PVE::HA::LRM): does on its node what the manager asks, once for each uid, and writes down what came of it.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::manager::{ManagerStatus, ServiceState, ServiceStatus};
use super::resources::Resources;
use crate::layout::Layout;
use crate::node::Node;
use crate::pmxcfs;

/// Of a service that did not shut down in its time.
const DEFAULT_STOP_S: u64 = 60;

/// `nodes/<node>/lrm_status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalStatus {
    pub(super) mode: String,
    pub(super) state: String,
    pub(super) timestamp: u64,
    pub(super) results: BTreeMap<String, Outcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// 0 is success, 1 an error.
    pub(super) exit_code: i32,
    pub(super) sid: String,
    pub(super) state: ServiceState,
}

/// Does what is asked of this node, and writes the results.
pub(super) fn work(node: &Node, status: &ManagerStatus, resources: &Resources, now_s: u64) -> io::Result<()> {
    let layout = node.layout();
    let name = &layout.info().name;
    let file = format!("nodes/{name}/lrm_status");
    let old: LocalStatus = serde_json::from_str(&super::read(layout, &file)?).unwrap_or_default();
    let mut results = BTreeMap::new();
    let mut active = false;
    for (sid, service) in status
        .service_status
        .iter()
        .filter(|(_, service)| service.node == *name)
    {
        active = true;
        let done = match old.results.get(&service.uid) {
            Some(done) => done.clone(),
            None => match act(node, sid, service, resources)? {
                Some(success) => Outcome {
                    exit_code: i32::from(!success),
                    sid: sid.clone(),
                    state: service.state,
                },
                None => continue,
            },
        };
        results.insert(service.uid.clone(), done);
    }
    let state = if active { "active" } else { "wait_for_agent_lock" };
    if results == old.results && old.state == state {
        return Ok(());
    }
    let text = json!({"mode": "active", "state": state, "timestamp": now_s, "results": results}).to_string();
    pmxcfs::edit(layout, &file, |_| Ok(text)).map_err(|stop| io::Error::other(stop.text()))
}

/// Whether a service has been active here: then a node without quorum resets itself.
pub(super) fn was_active(layout: &Layout) -> bool {
    let file = format!("nodes/{}/lrm_status", layout.info().name);
    super::read(layout, &file)
        .ok()
        .and_then(|text| serde_json::from_str::<LocalStatus>(&text).ok())
        .is_some_and(|status| status.state == "active")
}

/// Whether it went well; `None`: nothing is to be done in this state.
fn act(node: &Node, sid: &str, service: &ServiceStatus, resources: &Resources) -> io::Result<Option<bool>> {
    let Some(vmid) = sid.strip_prefix("ct:").and_then(|id| id.parse::<u32>().ok()) else {
        return Ok(None);
    };
    let here = pmxcfs::own_containers(node.layout())?.contains(&vmid);
    let running = here && node.is_running(vmid);
    let id = vmid.to_string();
    Ok(match service.state {
        ServiceState::Started if !here => Some(false),
        ServiceState::Started if running => Some(true),
        ServiceState::Started => {
            let tries = 1 + resources.0.get(sid).map_or(1, super::resources::Resource::max_restart);
            Some((0..tries).any(|_| pct(node, &["start", &id])))
        }
        ServiceState::RequestStop | ServiceState::Stopped if !running => {
            (service.state == ServiceState::RequestStop).then_some(true)
        }
        ServiceState::RequestStop | ServiceState::Stopped => {
            let timeout = service.timeout.unwrap_or(DEFAULT_STOP_S);
            let stopped = if timeout == 0 {
                pct(node, &["stop", &id])
            } else {
                // The real one lets its shutdown kill what does not listen: vm_stop with kill = 0 and a timeout fails, and is tried again.
                pct(node, &["shutdown", &id, "--timeout", &timeout.to_string()])
            };
            (stopped || service.state == ServiceState::RequestStop).then_some(stopped)
        }
        ServiceState::Migrate | ServiceState::Relocate => {
            let target = service.target.clone().unwrap_or_default();
            if running && !pct(node, &["shutdown", &id, "--timeout", &DEFAULT_STOP_S.to_string()]) {
                Some(false)
            } else {
                pct(node, &["migrate", &id, &target]);
                Some(!pmxcfs::own_containers(node.layout())?.contains(&vmid))
            }
        }
        ServiceState::Fence | ServiceState::Recovery | ServiceState::Error => None,
    })
}

fn pct(node: &Node, words: &[&str]) -> bool {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = node.run("pct", &words, &mut out, &mut err);
    if code != 0 {
        eprintln!(
            "pve-sim ha: pct {} on {}: {}",
            words.join(" "),
            node.layout().info().name,
            String::from_utf8_lossy(&err)
        );
    }
    code == 0
}
