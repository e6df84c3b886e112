//! What is left on a host, and in the registry, of apps that are no more: pure decisions over what all its nodes told.
//!
//! A reservation is freed only when it is proven that nothing stands behind it: every node of the host has told everything, and none has the container, the
//! record, or the port. A node that is away, not quorate or unreadable keeps every reservation of its host.

use super::report::{Stray, UnknownContainer};
use crate::{
    clock::UnixMs,
    store::{
        apps::AppRow,
        reservations::{Reservation, Reserved},
    },
};
use proximity_protocol::observed::{Inventory, RecordObserved, RunState};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A reservation that is younger is left alone, milliseconds: what made it may still be on its way.
pub const GRACE_MS: i64 = 10 * 60 * 1000;

/// What the nodes of a host told.
#[derive(Debug, Clone)]
pub struct HostSeen {
    /// The host's name.
    pub host: String,
    /// Inventories by node name: of those that told everything, and of those that told a part.
    pub told: Vec<(String, Inventory)>,
    /// Why it is not proven that what was not seen does not exist; empty: it is.
    pub unproven: Vec<String>,
    /// The ownership records; `None`: not known.
    pub records: Option<Vec<RecordObserved>>,
}

/// What the registry knows, read after the nodes were asked.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Every app by id.
    pub apps: HashMap<String, AppRow>,
    /// Every reservation of the host.
    pub reservations: Vec<Reservation>,
    /// Containers beside the apps' own: they are known, and their numbers stay reserved.
    pub side: BTreeSet<u32>,
    /// Apps with an operation under way.
    pub busy: BTreeSet<String>,
    /// Apps whose latest operation an operator has abandoned.
    pub abandoned: BTreeSet<String>,
}

/// Reservations of one app that are to be freed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freed {
    /// Whose they are.
    pub app_id: String,
    /// Which.
    pub what: Vec<Reserved>,
    /// Whether they are all that the app has, which is in the registry still.
    pub of_app: bool,
}

/// Containers that are nobody's. One that is being made may be somebody's in a moment.
pub fn unknown(seen: &HostSeen) -> Vec<UnknownContainer> {
    let mut found = Vec::new();
    for (node, inventory) in seen.told.iter().filter(|(_, i)| i.is_evidence_of_absence()) {
        let recorded = |vmid| {
            let mut records = seen.records.iter().flatten();
            records.any(|record| record.vmid == vmid)
        };
        for container in inventory.containers.iter().filter(|c| c.owner.is_none()) {
            if container.lock.as_deref() == Some("create") || recorded(container.vmid) {
                continue;
            }
            found.push(UnknownContainer {
                node: node.clone(),
                vmid: container.vmid.get(),
                hostname: container.hostname.clone(),
                running: match container.state {
                    RunState::Running => Some(true),
                    RunState::Stopped => Some(false),
                    RunState::Unknown => None,
                },
            });
        }
    }
    found
}

/// What stands on the host for apps that the registry does not have, or not under that number. `before`: the apps from before the nodes were asked; what is of
/// one that went since (deleted, or an adopted one that was let go of) is looked at next time.
pub fn strays(seen: &HostSeen, known: &Known, before: &BTreeSet<String>) -> Vec<Stray> {
    let mut found = Vec::new();
    let mut containers = BTreeSet::new();
    let is_stray = |app: &str, vmid: u32| match known.apps.get(app) {
        None => !before.contains(app),
        Some(row) => row.vmid != Some(vmid) && !known.busy.contains(app) && !known.side.contains(&vmid),
    };
    for (node, inventory) in &seen.told {
        for container in &inventory.containers {
            containers.insert(container.vmid);
            let Some(owner) = &container.owner else { continue };
            let vmid = container.vmid.get();
            if is_stray(owner.app.as_str(), vmid) {
                found.push(Stray {
                    place: node.clone(),
                    kind: "container".into(),
                    number: vmid,
                    app_id: owner.app.to_string(),
                    message: format!(
                        "container {vmid} on {node} is recorded as of app {}, which the registry does not have there: `rm /etc/pve/priv/proximity/{vmid}` on \
                         {node} lets go of it, and it can be adopted then. If it was made for that app (tag `proximity` in `pct config {vmid}`) and nothing in \
                         it is needed, run `pct stop {vmid}` and `pct destroy {vmid}` before that",
                        owner.app
                    ),
                });
            }
        }
        for port in &inventory.published {
            let app = port.owner.app.as_str();
            if !known.apps.contains_key(app) && !before.contains(app) {
                let public_port = port.public_port;
                found.push(Stray {
                    place: node.clone(),
                    kind: "port".into(),
                    number: public_port.into(),
                    app_id: port.owner.app.to_string(),
                    message: format!(
                        "port {public_port} of {node} leads to container {} of app {}, which the registry does not have: it closes when that \
                         container is destroyed",
                        port.vmid, port.owner.app
                    ),
                });
            }
        }
    }
    let elsewhere: BTreeSet<_> = seen
        .told
        .iter()
        .flat_map(|(_, i)| &i.elsewhere)
        .map(|(vmid, _)| *vmid)
        .collect();
    for record in seen.records.iter().flatten() {
        let (vmid, app) = (record.vmid.get(), record.owner.app.as_str());
        let here = containers.contains(&record.vmid) || elsewhere.contains(&record.vmid);
        if !here && seen.unproven.is_empty() && is_stray(app, vmid) {
            found.push(Stray {
                place: seen.host.clone(),
                kind: "record".into(),
                number: vmid,
                app_id: app.to_owned(),
                message: format!(
                    "the ownership record of container {vmid} of app {app} is left on {}, without the container and without the app: \
                     `rm /etc/pve/priv/proximity/{vmid}` there",
                    seen.host
                ),
            });
        }
    }
    found
}

/// Whether an app has no use for a reservation any more, as far as the registry goes.
fn is_left(reservation: &Reservation, known: &Known, now: UnixMs) -> bool {
    let app = reservation.app_id.as_str();
    if let Reserved::Vmid { vmid, .. } = reservation.what
        && known.side.contains(&vmid)
    {
        return false;
    }
    if known.busy.contains(app) || now - reservation.created_at < GRACE_MS {
        return false;
    }
    match known.apps.get(app) {
        None => true,
        Some(_) if known.abandoned.contains(app) => true,
        Some(row) => match reservation.what {
            Reserved::Vmid { vmid, generation } => row.vmid != Some(vmid) && generation <= row.generation,
            Reserved::Port(port) => row.public_port != Some(port),
            Reserved::Address(address) => row.ip_address != Some(address),
        },
    }
}

/// Why something stands behind the reservation, or may; `None`: it is proven that nothing does.
fn stands_behind(reservation: &Reservation, seen: &HostSeen) -> Option<String> {
    if let Some(why) = seen.unproven.first() {
        return Some(why.clone());
    }
    let Some(records) = &seen.records else {
        return Some(format!(
            "no node of {} tells its ownership records; update an agent there",
            seen.host
        ));
    };
    let app = reservation.app_id.as_str();
    let inventories = || seen.told.iter().map(|(node, inventory)| (node, inventory));
    if let Some(record) = records.iter().find(|r| r.owner.app.as_str() == app) {
        return Some(format!("an ownership record of container {} names it", record.vmid));
    }
    for (node, inventory) in inventories() {
        if let Some(container) = inventory
            .containers
            .iter()
            .find(|c| c.owner.as_ref().is_some_and(|o| o.app.as_str() == app))
        {
            return Some(format!("container {} on {node} is its", container.vmid));
        }
        let stands = match reservation.what {
            Reserved::Vmid { vmid, .. } => {
                let here = inventory.containers.iter().any(|c| c.vmid.get() == vmid);
                let there = inventory.elsewhere.iter().any(|(v, _)| v.get() == vmid);
                (here || there).then(|| format!("a guest has the number {vmid}"))
            }
            Reserved::Port(port) => {
                let published = inventory.published.iter().any(|p| p.public_port == port);
                published.then(|| format!("port {port} of {node} leads to a container"))
            }
            Reserved::Address(address) => {
                let has = inventory.containers.iter().any(|c| c.addresses.contains(&address));
                has.then(|| format!("a container on {node} has the address {address}"))
            }
        };
        if stands.is_some() {
            return stands;
        }
    }
    None
}

/// What can be freed, and what seems to be left and cannot, with the reason.
pub fn freed(seen: &HostSeen, known: &Known, now: UnixMs) -> (Vec<Freed>, Vec<String>) {
    let mut by_app: BTreeMap<&str, Vec<&Reservation>> = BTreeMap::new();
    for reservation in known.reservations.iter().filter(|r| is_left(r, known, now)) {
        by_app.entry(&reservation.app_id).or_default().push(reservation);
    }
    let (mut freed, mut kept) = (Vec::new(), Vec::new());
    for (app, left) in by_app {
        let of_app = known.apps.contains_key(app) && known.abandoned.contains(app);
        let mut what = Vec::new();
        let mut behind = None;
        for reservation in &left {
            match stands_behind(reservation, seen) {
                None => what.push(reservation.what),
                Some(why) => {
                    kept.push(format!("{} of {app}: {why}", reservation.what));
                    behind = Some(why);
                }
            }
        }
        // An app that is there loses all or nothing: half of it would be no app.
        let whole = !of_app || behind.is_none();
        if whole && !what.is_empty() {
            freed.push(Freed {
                app_id: app.to_owned(),
                what,
                of_app,
            });
        }
    }
    (freed, kept)
}
