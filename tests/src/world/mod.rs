//! What must hold whatever happened. It is read from the registry's file and from the nodes' own files, not from the product's answers.
//!
//! - here: reading a node's files and the registry.
//! - [`promises`]: one owner for each VMID, port and address, no container without app, no reservation without owner, nothing left, every operation ended.
//! - [`standing`]: what the registry says of an app is how it stands: it runs, is published and answers, or none of that; locks, tools and temporary files.

pub mod promises;
pub mod standing;

pub use promises::broken_promises;

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
    /// The generation that each record names.
    pub generations: BTreeMap<u32, i64>,
    /// Entries of `images/` of the directory storage and of shared ones, by VMID.
    pub volumes: BTreeSet<u32>,
    /// `lock:` lines of configurations.
    pub locks: BTreeMap<u32, String>,
    /// VMIDs that run, as the kernel's list of sockets says; empty where that is not a file of the node.
    pub running: BTreeSet<u32>,
    /// Ports that the agent keeps published.
    pub published: Vec<PublishedFile>,
}

/// An entry of the agent's list of published ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedFile {
    /// The node's port.
    pub port: u16,
    /// The container.
    pub vmid: u32,
    /// Its app.
    pub app: String,
    /// The container's address.
    pub address: String,
}

impl NodeFiles {
    /// The agent's state folder.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/proximity-agent")
    }

    /// Reads the node. What a cluster shares (ownership records, volumes of shared storages) counts for the node that has the container, and where no
    /// node has it for every one.
    pub fn read(&self) -> Result<Found> {
        let pve = self.root.join("etc/pve");
        let mut found = Found::default();
        let mut elsewhere = BTreeSet::new();
        for node in names(&pve.join("nodes"))? {
            let folder = pve.join("nodes").join(&node).join("lxc");
            for name in names(&folder)? {
                let Some(vmid) = name.strip_suffix(".conf").and_then(|n| n.parse().ok()) else {
                    continue;
                };
                if node != self.name {
                    elsewhere.insert(vmid);
                    continue;
                }
                found.containers.insert(vmid);
                // Sections of snapshots follow the current configuration.
                let text = std::fs::read_to_string(folder.join(&name))?;
                let mut current = text.lines().take_while(|line| !line.starts_with('['));
                if let Some(lock) = current.find_map(|line| line.strip_prefix("lock:")) {
                    found.locks.insert(vmid, lock.trim().to_owned());
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
                let app = record["app"].as_str().unwrap_or_default();
                found.records.insert(vmid, app.to_owned());
                let generation = record["generation"].as_i64().unwrap_or_default();
                found.generations.insert(vmid, generation);
            }
        }
        found.volumes.extend(volumes(&self.root.join("var/lib/vz/images"))?);
        for shared in names(&self.root.join("mnt/pve"))? {
            let images = self.root.join("mnt/pve").join(shared).join("images");
            found
                .volumes
                .extend(volumes(&images)?.into_iter().filter(|vmid| !elsewhere.contains(vmid)));
        }
        if let Some(text) = text(&self.root.join("proc/net/unix"))? {
            let sockets = text.lines().filter_map(|line| line.split_once("@/var/lib/lxc/"));
            found.running = sockets
                .filter_map(|(_, rest)| rest.strip_suffix("/command")?.parse().ok())
                .collect();
        }
        if let Some(text) = text(&self.state().join("published.json"))? {
            found.published = published(&text).with_context(|| format!("published ports: {text}"))?;
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

fn published(text: &str) -> Result<Vec<PublishedFile>> {
    let stored: serde_json::Value = serde_json::from_str(text)?;
    let ports = stored["ports"].as_array().context("no list of ports")?;
    ports
        .iter()
        .map(|port| {
            Ok(PublishedFile {
                port: u16::try_from(port["public_port"].as_u64().context("public_port")?)?,
                vmid: u32::try_from(port["vmid"].as_u64().context("vmid")?)?,
                app: port["owner"]["app"].as_str().context("owner")?.to_owned(),
                address: port["address"].as_str().context("address")?.to_owned(),
            })
        })
        .collect()
}

fn text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
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

    /// Every app.
    pub async fn apps(&mut self) -> Result<Vec<AppFile>> {
        let rows = self
            .rows(
                "SELECT a.id, a.status, a.generation, a.vmid, a.vmid_confirmed, a.public_port, a.ip_address, a.published, a.host_id, a.adopted, n.name AS node
                 FROM apps a JOIN nodes n ON n.id = a.node_id ORDER BY a.created_at, a.id",
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(AppFile {
                    id: row.try_get("id")?,
                    status: row.try_get("status")?,
                    generation: row.try_get("generation")?,
                    vmid: row.try_get::<Option<i64>, _>("vmid")?.map(u32::try_from).transpose()?,
                    confirmed: row.try_get("vmid_confirmed")?,
                    public_port: row
                        .try_get::<Option<i64>, _>("public_port")?
                        .map(u16::try_from)
                        .transpose()?,
                    address: row.try_get("ip_address")?,
                    published: row.try_get("published")?,
                    host_id: row.try_get("host_id")?,
                    adopted: row.try_get("adopted")?,
                    node: row.try_get("node")?,
                })
            })
            .collect()
    }
}

/// An app as the registry's file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppFile {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: String,
    /// Which container it is, counted up.
    pub generation: i64,
    /// The number that is reserved for it.
    pub vmid: Option<u32>,
    /// Its container exists.
    pub confirmed: bool,
    /// The port that is reserved for it.
    pub public_port: Option<u16>,
    /// Its address.
    pub address: Option<String>,
    /// Where its port answers.
    pub published: Option<String>,
    /// Its host.
    pub host_id: i64,
    /// Somebody else made its container.
    pub adopted: bool,
    /// Its node's name.
    pub node: String,
}
