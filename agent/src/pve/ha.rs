//! What HA manages: `/etc/pve/ha/resources.cfg`, and what its manager says of it, `/etc/pve/ha/manager_status` (PVE::HA::Config of pve-ha-manager).

use proximity_protocol::ids::Vmid;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The state that HA is asked to keep a service in (`state` of its section).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Requested {
    /// Also where nothing is said, and `enabled` of old.
    Started,
    /// It stands, and is recovered from a dead node.
    Stopped,
    /// It stands, and is left where it is.
    Disabled,
    /// HA leaves it alone.
    Ignored,
}

/// A container that HA's configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) requested: Requested,
    /// The manager's word for where it stands (`started`, `request_stop`, `error`…); `None`: the manager has not said anything yet.
    pub(crate) state: Option<String>,
}

#[derive(Deserialize)]
struct ManagerStatus {
    #[serde(default)]
    service_status: BTreeMap<String, ServiceStatus>,
}

#[derive(Deserialize)]
struct ServiceStatus {
    state: String,
}

/// The container's part of both files; `None`: HA does not know it. A status that cannot be understood tells nothing.
pub(crate) fn service(resources_cfg: &str, manager_status: Option<&str>, vmid: Vmid) -> Option<Service> {
    let requested = section(resources_cfg, vmid)?;
    let state = manager_status
        .and_then(|text| serde_json::from_str::<ManagerStatus>(text).ok())
        .and_then(|status| {
            status
                .service_status
                .get(&sid(vmid))
                .map(|service| service.state.clone())
        });
    Some(Service { requested, state })
}

/// What HA calls a container.
pub(crate) fn sid(vmid: Vmid) -> String {
    format!("ct:{vmid}")
}

fn section(text: &str, vmid: Vmid) -> Option<Requested> {
    let mut found = None;
    let mut inside = false;
    for line in text.lines() {
        if line.trim().is_empty() {
            inside = false;
        } else if !line.starts_with([' ', '\t']) {
            inside = line.split_once(':').is_some_and(|(kind, name)| {
                kind.trim() == "ct" && name.trim().parse::<Vmid>().is_ok_and(|number| number == vmid)
            });
            if inside {
                found = Some(Requested::Started);
            }
        } else if inside && let Some(("state", word)) = line.trim().split_once([' ', '\t']) {
            found = Some(match word.trim() {
                "stopped" => Requested::Stopped,
                "disabled" => Requested::Disabled,
                "ignored" => Requested::Ignored,
                _ => Requested::Started,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    #[test]
    fn what_is_asked_of_ha_is_read() {
        let text = "ct: 100\n\tmax_restart 2\n\tstate stopped\n\nvm: 101\n\tstate started\n\nct: 102\n\nct: 103\n\tstate ignored\n\nct: 104\n\tstate enabled\n";
        let requested = |number| service(text, None, vmid(number)).map(|service| service.requested);
        assert_eq!(requested(100), Some(Requested::Stopped));
        assert_eq!(requested(101), None, "a virtual machine");
        assert_eq!(requested(102), Some(Requested::Started));
        assert_eq!(requested(103), Some(Requested::Ignored));
        assert_eq!(requested(104), Some(Requested::Started));
        assert_eq!(requested(105), None);
    }

    #[test]
    fn the_managers_word_is_added_where_it_can_be_understood() {
        let status =
            r#"{"master_node":"a","service_status":{"ct:100":{"node":"a","state":"error","uid":"x"}},"timestamp":1}"#;
        let state = |status| service("ct: 100\n", Some(status), vmid(100)).unwrap().state;
        assert_eq!(state(status).as_deref(), Some("error"));
        assert_eq!(state(""), None);
        assert_eq!(state("{}"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(ct: 100|vm: |:|\n|\t|state|[ -~]|é){0,40}", status in any::<String>()) {
            let _ = service(&text, Some(&status), vmid(100));
        }
    }
}
