//! One owner for everything, nothing without an owner, and every operation ended. Call it when no operation is under way.

use super::{AppFile, Found, NodeFiles, Registry};
use anyhow::Result;
use sqlx::Row;
use std::collections::{BTreeMap, BTreeSet};

/// Every broken promise, in words; empty is good. `test_containers` are strangers'.
pub async fn broken_promises(
    registry: &mut Registry,
    nodes: &[NodeFiles],
    test_containers: &BTreeSet<u32>,
) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let mut found = BTreeMap::new();
    for node in nodes {
        found.insert(node.name.clone(), node.read()?);
    }
    let apps = registry.apps().await?;
    one_owner(&apps, &mut broken);
    let owned = containers(&apps, &found, &mut broken);
    let beside = beside(registry, &found, &mut broken).await?;
    for (node, found) in &found {
        let (none, no_others) = (BTreeMap::new(), BTreeMap::new());
        let owned = owned.get(node).unwrap_or(&none);
        let beside = beside.get(node).unwrap_or(&no_others);
        for vmid in found.containers.iter().filter(|v| !test_containers.contains(v)) {
            if !owned.contains_key(vmid) && !beside.contains_key(vmid) {
                broken.push(format!("{node} has container {vmid} that no app owns"));
            }
        }
        for (vmid, app) in &found.records {
            if beside.get(vmid) == Some(app) {
                continue;
            }
            let own = owned.get(vmid).filter(|own| own.id == *app);
            if own.is_none_or(|own| Some(&own.generation) != found.generations.get(vmid)) {
                broken.push(format!(
                    "{node} has an ownership record {vmid} of {app}, which the registry does not know there"
                ));
            }
        }
        for vmid in &found.volumes {
            if !found.containers.contains(vmid) {
                broken.push(format!("{node} has volumes of container {vmid}, which does not exist"));
            }
        }
    }
    reservations(registry, &mut broken).await?;
    operations(registry, &mut broken).await?;
    Ok(broken)
}

fn one_owner(apps: &[AppFile], broken: &mut Vec<String>) {
    let mut seen: BTreeMap<(&str, i64, String), &str> = BTreeMap::new();
    for app in apps {
        for (kind, value) in [
            ("VMID", app.vmid.map(|v| v.to_string())),
            ("port", app.public_port.map(|p| p.to_string())),
            ("address", app.address.clone()),
        ] {
            if let Some(value) = value
                && let Some(other) = seen.insert((kind, app.host_id, value.clone()), &app.id)
            {
                broken.push(format!(
                    "{kind} {value} of host {} has two owners: {other} and {}",
                    app.host_id, app.id
                ));
            }
        }
    }
}

/// Which container of which node is whose.
fn containers<'a>(
    apps: &'a [AppFile],
    found: &BTreeMap<String, Found>,
    broken: &mut Vec<String>,
) -> BTreeMap<String, BTreeMap<u32, &'a AppFile>> {
    let mut owned: BTreeMap<String, BTreeMap<u32, &AppFile>> = BTreeMap::new();
    for app in apps {
        let there = app
            .vmid
            .is_some_and(|vmid| found.get(&app.node).is_some_and(|f| f.containers.contains(&vmid)));
        match app.status.as_str() {
            "running" | "stopped" if !there => broken.push(format!(
                "app {} is {}, but {} has no container {:?}",
                app.id, app.status, app.node, app.vmid
            )),
            "running" | "stopped" | "error" => {
                if let Some(vmid) = app.vmid {
                    owned.entry(app.node.clone()).or_default().insert(vmid, app);
                }
            }
            other => broken.push(format!("app {} is still {other}", app.id)),
        }
    }
    owned
}

/// Containers that are kept or tried beside an app's own, by node.
async fn beside(
    registry: &mut Registry,
    found: &BTreeMap<String, Found>,
    broken: &mut Vec<String>,
) -> Result<BTreeMap<String, BTreeMap<u32, String>>> {
    let mut beside: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    for row in registry
        .rows("SELECT s.app_id, s.vmid, n.name AS node FROM side_containers s JOIN nodes n ON n.id = s.node_id")
        .await?
    {
        let (app, node): (String, String) = (row.try_get("app_id")?, row.try_get("node")?);
        let vmid = u32::try_from(row.try_get::<i64, _>("vmid")?)?;
        if !found.get(&node).is_some_and(|found| found.containers.contains(&vmid)) {
            broken.push(format!(
                "container {vmid} of {app} is said to be kept, but {node} has none"
            ));
        }
        beside.entry(node).or_default().insert(vmid, app);
    }
    Ok(beside)
}

/// Whoever holds a reservation is an app that knows of it, and the other way round.
async fn reservations(registry: &mut Registry, broken: &mut Vec<String>) -> Result<()> {
    let orphans = registry
        .rows(
            "SELECT 'VMID ' || vmid AS what, app_id FROM vmid_reservations r
                WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.host_id = r.host_id AND a.vmid = r.vmid)
                AND NOT EXISTS (SELECT 1 FROM side_containers s WHERE s.app_id = r.app_id AND s.vmid = r.vmid)
             UNION ALL SELECT 'port ' || port, app_id FROM port_reservations r
                WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.host_id = r.host_id AND a.public_port = r.port)
             UNION ALL SELECT 'address ' || address, app_id FROM address_reservations r
                WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.host_id = r.host_id AND a.ip_address = r.address)",
        )
        .await?;
    for row in orphans {
        let (what, app): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        broken.push(format!(
            "{what} is reserved for {app}, which does not exist or has no use for it"
        ));
    }
    let without = registry
        .rows(
            "SELECT 'VMID ' || vmid AS what, id FROM apps a WHERE vmid IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM vmid_reservations r WHERE r.app_id = a.id AND r.host_id = a.host_id AND r.vmid = a.vmid)
             UNION ALL SELECT 'port ' || public_port, id FROM apps a WHERE public_port IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM port_reservations r WHERE r.app_id = a.id AND r.host_id = a.host_id AND r.port = a.public_port)",
        )
        .await?;
    for row in without {
        let (what, app): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        broken.push(format!("app {app} uses {what}, which is not reserved for it"));
    }
    // What has failed and was taken back holds nothing: its latest operation says that nothing is left.
    let held = registry
        .rows(
            "SELECT a.id FROM apps a WHERE a.status = 'error' AND (a.vmid IS NOT NULL OR a.public_port IS NOT NULL)
                AND (SELECT o.kind || ' ' || o.state FROM operations o WHERE o.app_id = a.id ORDER BY o.created_at DESC, o.id DESC LIMIT 1) = 'deploy undone'",
        )
        .await?;
    for row in held {
        let app: String = row.try_get(0)?;
        broken.push(format!("app {app} was taken back and still holds a VMID or a port"));
    }
    Ok(())
}

async fn operations(registry: &mut Registry, broken: &mut Vec<String>) -> Result<()> {
    for row in registry
        .rows("SELECT id, kind, state, action, reason FROM operations")
        .await?
    {
        let (id, kind, state): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let text =
            |at: usize| -> Result<bool> { Ok(row.try_get::<Option<String>, _>(at)?.is_some_and(|t| !t.is_empty())) };
        match state.as_str() {
            "done" => {}
            "undone" if text(4)? => {}
            "undone" => broken.push(format!("operation {id} ({kind}) was undone without a reason")),
            "stuck" if text(3)? && text(4)? => {}
            "stuck" => broken.push(format!(
                "operation {id} ({kind}) is stuck without a reason, or without what to do"
            )),
            other => broken.push(format!("operation {id} ({kind}) is still {other}")),
        }
    }
    Ok(())
}
