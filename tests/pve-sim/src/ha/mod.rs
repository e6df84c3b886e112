//! High availability: `/etc/pve/ha`, the tool `ha-manager`, and the two daemons that carry out what is asked there.
//!
//! | file | what |
//! |---|---|
//! | `ha/resources.cfg` | what HA manages and in which state it wants it (`resources`) |
//! | `ha/crm_commands` | requests that wait for the manager, one a line: `stop ct:100 60`, `migrate ct:100 pve2` |
//! | `ha/manager_status` | JSON: where each service is, and in which state (`manager`) |
//! | `nodes/<node>/lrm_status` | JSON: what came of it there (`local`) |
//!
//! The manager (pve-ha-crm) runs on one node with quorum, a local one (pve-ha-lrm) on each. Here both are a thread of `pve-sim serve`, or [`round()`] is
//! called by a test. Words, files and states are those of pve-ha-manager's source (PVE::HA::Config, Manager, LRM, PVE::API2::HA::Resources). Not simulated:
//! groups and rules (every node may take everything), `freeze` and the modes of a shutdown, virtual machines.

mod local;
mod manager;
mod resources;
mod round;
mod tool;

use std::fs;
use std::io;

use crate::call::Stop;
use crate::layout::Layout;
use crate::pmxcfs;

pub use manager::{ManagerStatus, ServiceState, ServiceStatus};
pub(crate) use round::run_in_serve;
pub use round::{Patience, round};
pub(crate) use tool::run;

use resources::Resources;

const RESOURCES: &str = "ha/resources.cfg";
const COMMANDS: &str = "ha/crm_commands";
const STATUS: &str = "ha/manager_status";

/// The name of a container in HA.
pub(crate) fn sid(vmid: u32) -> String {
    format!("ct:{vmid}")
}

fn read(layout: &Layout, name: &str) -> io::Result<String> {
    match fs::read_to_string(layout.pve().join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

fn resources(layout: &Layout) -> Result<Resources, Stop> {
    read(layout, RESOURCES)
        .map(|text| Resources::parse(&text))
        .map_err(|error| Stop::die(format!("/etc/pve/{RESOURCES}: {error}")))
}

fn status(layout: &Layout) -> Result<ManagerStatus, Stop> {
    let text = read(layout, STATUS).map_err(|error| Stop::die(format!("/etc/pve/{STATUS}: {error}")))?;
    if text.is_empty() {
        return Ok(ManagerStatus::default());
    }
    serde_json::from_str(&text).map_err(|error| Stop::die(format!("/etc/pve/{STATUS}: {error}")))
}

/// Whether HA looks after the container: it is in the configuration and not to be ignored (`vm_is_ha_managed`).
pub(crate) fn is_managed(layout: &Layout, vmid: u32) -> Result<bool, Stop> {
    let resources = resources(layout)?;
    let resource = resources.0.get(&sid(vmid));
    Ok(resource.is_some_and(|resource| resource.state() != "ignored"))
}

/// Whether HA's configuration names it at all (`service_is_configured`).
pub(crate) fn is_configured(layout: &Layout, vmid: u32) -> Result<bool, Stop> {
    Ok(resources(layout)?.0.contains_key(&sid(vmid)))
}

/// `ha-manager set <sid> --state <state>`.
pub(crate) fn request_state(layout: &Layout, sid: &str, state: &str) -> Result<(), Stop> {
    check_error_state(layout, sid, Some(state))?;
    pmxcfs::check_quorum(layout)?;
    pmxcfs::edit(layout, RESOURCES, |text| {
        let mut resources = Resources::parse(text);
        let resource = resources
            .0
            .get_mut(sid)
            .ok_or_else(|| Stop::die(format!("update resource failed: no such resource '{sid}'")))?;
        resource.set("state", state);
        Ok(resources.render())
    })
}

/// A service in `error` takes no request until it was disabled.
fn check_error_state(layout: &Layout, sid: &str, wanted: Option<&str>) -> Result<(), Stop> {
    let state = status(layout)?.service_status.get(sid).map(|service| service.state);
    if state == Some(ServiceState::Error) && wanted != Some("disabled") {
        return Err(Stop::die(format!(
            "service '{sid}' in error state, must be disabled and fixed first"
        )));
    }
    Ok(())
}

/// Queues a request for the manager (`queue_crm_commands`).
pub(crate) fn command(layout: &Layout, line: &str) -> Result<(), Stop> {
    pmxcfs::check_quorum(layout)?;
    pmxcfs::edit(layout, COMMANDS, |text| Ok(format!("{text}{line}\n")))
}

/// Takes a service out of the configuration (`delete_service_from_config`).
pub(crate) fn forget(layout: &Layout, sid: &str) -> Result<(), Stop> {
    pmxcfs::edit(layout, RESOURCES, |text| {
        let mut resources = Resources::parse(text);
        resources.0.remove(sid);
        Ok(resources.render())
    })
}
