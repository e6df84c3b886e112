//! What must hold whatever happened. It is read from the registry's file and from the nodes' own files, not from the product's answers.

use anyhow::{Context, Result};
use sqlx::{
    Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// A node as its files tell.
#[derive(Debug, Clone)]
pub struct NodeFiles {
    /// Name in Proxmox.
    pub name: String,
    /// Root of its files.
    pub root: PathBuf,
}

/// Containers, ownership records and published ports on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// VMIDs with a configuration file.
    pub containers: BTreeSet<u32>,
    /// VMIDs with an ownership record, and the app that it names.
    pub records: BTreeMap<u32, String>,
    /// Entries of `images/` of the directory storage and of shared ones, by VMID.
    pub volumes: BTreeSet<u32>,
}

impl NodeFiles {
    /// Reads the node. What a cluster shares (ownership records, volumes of shared storages) counts for the node that has the container, and where no
    /// node has it for every one.
    pub fn read(&self) -> Result<Found> {
        let pve = self.root.join("etc/pve");
        let mut found = Found::default();
        let mut elsewhere = BTreeSet::new();
        for node in names(&pve.join("nodes"))? {
            for name in names(&pve.join("nodes").join(&node).join("lxc"))? {
                if let Some(vmid) = name.strip_suffix(".conf").and_then(|n| n.parse().ok()) {
                    let list = if node == self.name {
                        &mut found.containers
                    } else {
                        &mut elsewhere
                    };
                    list.insert(vmid);
                }
            }
        }
        for name in names(&pve.join("priv/proximity"))? {
            if let Ok(vmid) = name.parse::<u32>()
                && !elsewhere.contains(&vmid)
            {
                let text = std::fs::read_to_string(pve.join("priv/proximity").join(&name))?;
                let record: serde_json::Value =
                    serde_json::from_str(&text).with_context(|| format!("record {name}: {text}"))?;
                let app = record["owner"]["app"]
                    .as_str()
                    .or(record["app"].as_str())
                    .unwrap_or_default();
                found.records.insert(vmid, app.to_owned());
            }
        }
        found.volumes.extend(volumes(&self.root.join("var/lib/vz/images"))?);
        for shared in names(&self.root.join("mnt/pve"))? {
            let images = self.root.join("mnt/pve").join(shared).join("images");
            found
                .volumes
                .extend(volumes(&images)?.into_iter().filter(|vmid| !elsewhere.contains(vmid)));
        }
        Ok(found)
    }
}

/// Whose volumes are in a storage's folder of images.
fn volumes(images: &Path) -> Result<Vec<u32>> {
    let mut owners = Vec::new();
    for name in names(images)? {
        if let Ok(vmid) = name.parse::<u32>()
            && !names(&images.join(&name))?.is_empty()
        {
            owners.push(vmid);
        }
    }
    Ok(owners)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| folder.display().to_string()),
    }
}

/// The registry, read from its file.
#[derive(Debug)]
pub struct Registry(SqliteConnection);

impl Registry {
    /// Opens the file read-only; a coordinator may run on it.
    pub async fn open(path: &Path) -> Result<Self> {
        use sqlx::Connection;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(std::time::Duration::from_secs(10));
        Ok(Self(SqliteConnection::connect_with(&options).await?))
    }

    /// Runs a query of a test.
    pub async fn rows(&mut self, sql: &'static str) -> Result<Vec<SqliteRow>> {
        Ok(sqlx::query(sql).fetch_all(&mut self.0).await?)
    }

    /// One number.
    pub async fn count(&mut self, sql: &'static str) -> Result<i64> {
        Ok(self.rows(sql).await?.first().context("no row")?.try_get(0)?)
    }
}

/// Every broken promise, in words; empty is good. Call it when no operation is under way.
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
    let apps = registry
        .rows("SELECT a.id, a.status, a.vmid, a.public_port, a.ip_address, a.host_id, n.name AS node FROM apps a JOIN nodes n ON n.id = a.node_id")
        .await?;
    let mut owned: BTreeMap<String, BTreeMap<u32, String>> = BTreeMap::new();
    let mut seen: BTreeMap<(&str, i64, String), String> = BTreeMap::new();
    for app in &apps {
        let (id, status, node): (String, String, String) =
            (app.try_get("id")?, app.try_get("status")?, app.try_get("node")?);
        let host: i64 = app.try_get("host_id")?;
        let vmid = app.try_get::<Option<i64>, _>("vmid")?.map(u32::try_from).transpose()?;
        let port = app.try_get::<Option<i64>, _>("public_port")?;
        let address = app.try_get::<Option<String>, _>("ip_address")?;
        for (kind, value) in [
            ("VMID", vmid.map(|v| v.to_string())),
            ("port", port.map(|p| p.to_string())),
            ("address", address),
        ] {
            if let Some(value) = value
                && let Some(other) = seen.insert((kind, host, value.clone()), id.clone())
            {
                broken.push(format!(
                    "{kind} {value} of host {host} has two owners: {other} and {id}"
                ));
            }
        }
        let there = vmid.is_some_and(|vmid| found.get(&node).is_some_and(|f| f.containers.contains(&vmid)));
        match status.as_str() {
            "running" | "stopped" if !there => {
                broken.push(format!("app {id} is {status}, but {node} has no container {vmid:?}"))
            }
            "error" if !there => {}
            "running" | "stopped" | "error" => {
                if let Some(vmid) = vmid {
                    owned.entry(node).or_default().insert(vmid, id);
                }
            }
            other => broken.push(format!("app {id} is still {other}")),
        }
    }
    let beside = registry
        .rows("SELECT s.app_id, s.vmid, s.adopted, n.name AS node FROM side_containers s JOIN nodes n ON n.id = s.node_id")
        .await?;
    for side in &beside {
        let (app, node): (String, String) = (side.try_get("app_id")?, side.try_get("node")?);
        let vmid = u32::try_from(side.try_get::<i64, _>("vmid")?)?;
        if !found.get(&node).is_some_and(|f| f.containers.contains(&vmid)) {
            broken.push(format!(
                "container {vmid} of {app} is said to be kept, but {node} has none"
            ));
        }
        owned.entry(node).or_default().insert(vmid, app);
    }
    for (node, found) in &found {
        let none = BTreeMap::new();
        let owned = owned.get(node).unwrap_or(&none);
        for vmid in found.containers.iter().filter(|v| !test_containers.contains(v)) {
            if !owned.contains_key(vmid) {
                broken.push(format!("{node} has container {vmid} that no app owns"));
            }
        }
        for (vmid, app) in &found.records {
            if owned.get(vmid) != Some(app) {
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
    let orphans = registry
        .rows(
            "SELECT 'VMID ' || vmid AS what, app_id FROM vmid_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.status <> 'error')
             UNION ALL SELECT 'port ' || port, app_id FROM port_reservations r WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.status <> 'error')
             UNION ALL SELECT 'address ' || address, app_id FROM address_reservations r
                WHERE NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = r.app_id AND a.status <> 'error')",
        )
        .await?;
    for row in orphans {
        let (what, app): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        broken.push(format!(
            "{what} is reserved for {app}, which does not exist or has failed"
        ));
    }
    for row in registry
        .rows("SELECT id, kind, state FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing')")
        .await?
    {
        let (id, kind, state): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        broken.push(format!("operation {id} ({kind}) is still {state}"));
    }
    Ok(broken)
}
