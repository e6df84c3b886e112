//! Apps.

use super::{
    Connection, StoreError,
    row::{get, json, json_opt, number, number_opt, parse, parse_opt},
};
use crate::{clock::UnixMs, domain::app_state::Status};
use proximity_protocol::ids::{AppId, Generation, MacAddress, NodeId, Owner, StorageId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{QueryBuilder, Row, sqlite::SqliteRow};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What an app got, as resolved when it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Cores.
    pub cpu_cores: u32,
    /// MiB, without swap.
    pub memory_mb: u32,
    /// GiB, root volume.
    pub disk_gb: u32,
    /// MiB.
    pub swap_mb: u32,
    /// Where its volumes are.
    pub storage: StorageId,
}

/// A volume of an app besides its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppVolume {
    /// Where it is mounted.
    pub path: String,
    /// GiB.
    pub size_gb: u32,
    /// What is on it, in words.
    #[serde(default)]
    pub description: Option<String>,
}

/// A row of `apps`.
#[derive(Debug, Clone, PartialEq)]
pub struct AppRow {
    /// Its id.
    pub id: AppId,
    /// From which catalog entry.
    pub catalog_id: String,
    /// That entry's name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// In the owner's words.
    pub description: String,
    /// What it does.
    pub status: Status,
    /// Why `error`, in words.
    pub status_reason: Option<String>,
    /// On which Proxmox installation.
    pub host_id: i64,
    /// On which node.
    pub node_id: NodeId,
    /// Whose.
    pub owner_id: i64,
    /// Which container of it is the present one.
    pub generation: u32,
    /// As reserved.
    pub vmid: Option<u32>,
    /// Whether the container was made under it.
    pub vmid_confirmed: bool,
    /// As reserved.
    pub public_port: Option<u16>,
    /// On which port it listens inside.
    pub internal_port: u16,
    /// Its address: reserved, or seen.
    pub ip_address: Option<Ipv4Addr>,
    /// The node's address at which the public port answers.
    pub published: Option<Ipv4Addr>,
    /// Its interface's address.
    pub mac: Option<MacAddress>,
    /// Whether its container was there before it.
    pub adopted: bool,
    /// As asked.
    pub config: Value,
    /// As resolved.
    pub resources: Resources,
    /// Without secrets.
    pub environment: BTreeMap<String, String>,
    /// Named ports inside.
    pub ports: BTreeMap<String, u16>,
    /// Besides the root.
    pub volumes: Vec<AppVolume>,
    /// The owner's.
    pub labels: Vec<String>,
    /// Why this node.
    pub placement: Option<Value>,
    /// Keys of its container's configuration that wait for the next start.
    pub pending_restart: Vec<String>,
    /// When it was accepted.
    pub created_at: UnixMs,
    /// When it changed.
    pub updated_at: UnixMs,
    /// When its status changed.
    pub state_changed_at: UnixMs,
}

impl AppRow {
    /// Who the container belongs to, for commands.
    pub fn owner(&self) -> Owner {
        Owner {
            app: self.id.clone(),
            generation: Generation(self.generation),
        }
    }
}

/// An app with the names that answers show.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedApp {
    /// The row.
    pub app: AppRow,
    /// The node's name.
    pub node_name: String,
    /// The owner's user name.
    pub owner_name: String,
    /// Its latest operation.
    pub operation_id: Option<String>,
}

fn app(row: &SqliteRow) -> Result<AppRow, StoreError> {
    Ok(AppRow {
        id: parse(row, "id")?,
        catalog_id: get(row, "catalog_id")?,
        name: get(row, "name")?,
        hostname: get(row, "hostname")?,
        description: get(row, "description")?,
        status: parse(row, "status")?,
        status_reason: get(row, "status_reason")?,
        host_id: get(row, "host_id")?,
        node_id: parse(row, "node_id")?,
        owner_id: get(row, "owner_id")?,
        generation: number(row, "generation")?,
        vmid: number_opt(row, "vmid")?,
        vmid_confirmed: get(row, "vmid_confirmed")?,
        public_port: number_opt(row, "public_port")?,
        internal_port: number(row, "internal_port")?,
        ip_address: parse_opt(row, "ip_address")?,
        published: parse_opt(row, "published")?,
        mac: parse_opt(row, "mac")?,
        adopted: get(row, "adopted")?,
        config: json(row, "config")?,
        resources: json(row, "resources")?,
        environment: json(row, "environment")?,
        ports: json(row, "ports")?,
        volumes: json(row, "volumes")?,
        labels: json(row, "labels")?,
        placement: json_opt(row, "placement")?,
        pending_restart: json(row, "pending_restart")?,
        created_at: get(row, "created_at")?,
        updated_at: get(row, "updated_at")?,
        state_changed_at: get(row, "state_changed_at")?,
    })
}

fn listed(row: &SqliteRow) -> Result<ListedApp, StoreError> {
    Ok(ListedApp {
        app: app(row)?,
        node_name: get(row, "node_name")?,
        owner_name: get(row, "owner_name")?,
        operation_id: get(row, "operation_id")?,
    })
}

/// Inserts an app; `Taken("apps.hostname")` if the host name is in use.
pub async fn insert(tx: &mut Connection, a: &AppRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO apps (id, catalog_id, name, hostname, description, status, status_reason, host_id, node_id, owner_id, generation, vmid, vmid_confirmed,
         public_port, internal_port, ip_address, adopted, config, resources, environment, ports, volumes, labels, placement, created_at, updated_at,
         state_changed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $25, $25)",
    )
    .bind(a.id.as_str())
    .bind(&a.catalog_id)
    .bind(&a.name)
    .bind(&a.hostname)
    .bind(&a.description)
    .bind(a.status.as_str())
    .bind(&a.status_reason)
    .bind(a.host_id)
    .bind(a.node_id.to_string())
    .bind(a.owner_id)
    .bind(i64::from(a.generation))
    .bind(a.vmid.map(i64::from))
    .bind(a.vmid_confirmed)
    .bind(a.public_port.map(i64::from))
    .bind(i64::from(a.internal_port))
    .bind(a.ip_address.map(|i| i.to_string()))
    .bind(a.adopted)
    .bind(a.config.to_string())
    .bind(serde_json::to_string(&a.resources)?)
    .bind(serde_json::to_string(&a.environment)?)
    .bind(serde_json::to_string(&a.ports)?)
    .bind(serde_json::to_string(&a.volumes)?)
    .bind(serde_json::to_string(&a.labels)?)
    .bind(a.placement.as_ref().map(Value::to_string))
    .bind(a.created_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what operations and reconciliation change.
pub async fn update(tx: &mut Connection, now: UnixMs, a: &AppRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE apps SET state_changed_at = CASE WHEN status = $2 THEN state_changed_at ELSE $3 END, status = $2, updated_at = $3, status_reason = $4,
         node_id = $5, generation = $6, vmid = $7, vmid_confirmed = $8, public_port = $9, ip_address = $10, published = $11, mac = $12,
         pending_restart = $13 WHERE id = $1",
    )
    .bind(a.id.as_str())
    .bind(a.status.as_str())
    .bind(now)
    .bind(&a.status_reason)
    .bind(a.node_id.to_string())
    .bind(i64::from(a.generation))
    .bind(a.vmid.map(i64::from))
    .bind(a.vmid_confirmed)
    .bind(a.public_port.map(i64::from))
    .bind(a.ip_address.map(|i| i.to_string()))
    .bind(a.published.map(|i| i.to_string()))
    .bind(a.mac.as_ref().map(MacAddress::as_str))
    .bind(serde_json::to_string(&a.pending_restart)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what its owner changes.
pub async fn update_asked(tx: &mut Connection, now: UnixMs, a: &AppRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE apps SET updated_at = $2, config = $3, resources = $4, environment = $5, description = $6, labels = $7 WHERE id = $1",
    )
    .bind(a.id.as_str())
    .bind(now)
    .bind(a.config.to_string())
    .bind(serde_json::to_string(&a.resources)?)
    .bind(serde_json::to_string(&a.environment)?)
    .bind(&a.description)
    .bind(serde_json::to_string(&a.labels)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes the row.
pub async fn remove(tx: &mut Connection, id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM apps WHERE id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// One app.
pub async fn by_id(tx: &mut Connection, id: &str) -> Result<Option<AppRow>, StoreError> {
    sqlx::query("SELECT * FROM apps WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(app)
        .transpose()
}

/// Whether a host name is in use.
pub async fn hostname_taken(tx: &mut Connection, hostname: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query("SELECT 1 FROM apps WHERE hostname = $1")
        .bind(hostname)
        .fetch_optional(tx)
        .await?
        .is_some())
}

/// Whether an id is in use.
pub async fn id_taken(tx: &mut Connection, id: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query("SELECT 1 FROM apps WHERE id = $1")
        .bind(id)
        .fetch_optional(tx)
        .await?
        .is_some())
}

/// Every app on a node.
pub async fn on_node(tx: &mut Connection, node: NodeId) -> Result<Vec<AppRow>, StoreError> {
    sqlx::query("SELECT * FROM apps WHERE node_id = $1 ORDER BY created_at, id")
        .bind(node.to_string())
        .fetch_all(tx)
        .await?
        .iter()
        .map(app)
        .collect()
}

/// Every app of a host.
pub async fn on_host(tx: &mut Connection, host_id: i64) -> Result<Vec<AppRow>, StoreError> {
    sqlx::query("SELECT * FROM apps WHERE host_id = $1 ORDER BY created_at, id")
        .bind(host_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(app)
        .collect()
}

/// The apps of each host, by id.
pub async fn by_host(tx: &mut Connection) -> Result<BTreeMap<i64, BTreeSet<String>>, StoreError> {
    let mut by_host: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for row in sqlx::query("SELECT host_id, id FROM apps").fetch_all(tx).await? {
        by_host
            .entry(get(&row, "host_id")?)
            .or_default()
            .insert(get(&row, "id")?);
    }
    Ok(by_host)
}

/// What each node's apps were promised: node, status, resources.
pub async fn promised(tx: &mut Connection) -> Result<Vec<(NodeId, Status, Resources)>, StoreError> {
    sqlx::query("SELECT node_id, status, resources FROM apps")
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok((parse(row, "node_id")?, parse(row, "status")?, json(row, "resources")?)))
        .collect()
}

/// What the apps of an owner got: resources and volumes of each.
pub async fn of_owner(tx: &mut Connection, owner_id: i64) -> Result<Vec<(Resources, Vec<AppVolume>)>, StoreError> {
    sqlx::query("SELECT resources, volumes FROM apps WHERE owner_id = $1")
        .bind(owner_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok((json(row, "resources")?, json(row, "volumes")?)))
        .collect()
}

/// A user's limits; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// How many apps.
    pub max_apps: Option<u64>,
    /// Cores in all.
    pub max_cpu_cores: Option<u64>,
    /// MiB in all.
    pub max_memory_mb: Option<u64>,
    /// GiB in all.
    pub max_disk_gb: Option<u64>,
}

/// The limits of a user.
pub async fn quota(tx: &mut Connection, user_id: i64) -> Result<Quota, StoreError> {
    let row = sqlx::query("SELECT max_apps, max_cpu_cores, max_memory_mb, max_disk_gb FROM users WHERE id = $1")
        .bind(user_id)
        .fetch_optional(tx)
        .await?;
    let Some(row) = row else {
        return Ok(Quota::default());
    };
    Ok(Quota {
        max_apps: number_opt(&row, "max_apps")?,
        max_cpu_cores: number_opt(&row, "max_cpu_cores")?,
        max_memory_mb: number_opt(&row, "max_memory_mb")?,
        max_disk_gb: number_opt(&row, "max_disk_gb")?,
    })
}

/// In which order a list comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppOrder {
    /// Newest first.
    #[default]
    Newest,
    /// Oldest first.
    Oldest,
    /// By host name.
    Hostname,
    /// By host name, backwards.
    HostnameDescending,
    /// By name, then host name.
    Name,
    /// By status, then host name.
    Status,
    /// By time of the latest change, newest first.
    Updated,
}

/// What a list of apps shows.
#[derive(Debug, Clone, Default)]
pub struct AppFilter {
    /// Only this owner's.
    pub owner_id: Option<i64>,
    /// Only this one.
    pub id: Option<String>,
    /// Only in this status.
    pub status: Option<Status>,
    /// Host name, name, id or description holds it (letter case aside).
    pub search: Option<String>,
    /// Only on the node of this name.
    pub node: Option<String>,
    /// Only of this catalog entry.
    pub catalog_id: Option<String>,
    /// In which order.
    pub order: AppOrder,
}

fn narrow(query: &mut QueryBuilder<sqlx::Sqlite>, filter: &AppFilter) {
    query.push(" FROM apps a JOIN nodes n ON n.id = a.node_id JOIN users u ON u.id = a.owner_id WHERE TRUE");
    if let Some(owner) = filter.owner_id {
        query.push(" AND a.owner_id = ").push_bind(owner);
    }
    if let Some(id) = &filter.id {
        query.push(" AND a.id = ").push_bind(id.clone());
    }
    if let Some(status) = filter.status {
        query.push(" AND a.status = ").push_bind(status.as_str());
    }
    if let Some(node) = &filter.node {
        query.push(" AND n.name = ").push_bind(node.clone());
    }
    if let Some(catalog_id) = &filter.catalog_id {
        query.push(" AND a.catalog_id = ").push_bind(catalog_id.clone());
    }
    if let Some(search) = filter
        .search
        .as_ref()
        .map(|s| s.trim().to_lowercase())
        .filter(|s| !s.is_empty())
    {
        let pattern = format!(
            "%{}%",
            search.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
        );
        query.push(" AND (");
        for (n, column) in ["a.hostname", "a.name", "a.id", "a.description"]
            .into_iter()
            .enumerate()
        {
            if n > 0 {
                query.push(" OR ");
            }
            query
                .push("LOWER(")
                .push(column)
                .push(") LIKE ")
                .push_bind(pattern.clone())
                .push(" ESCAPE '\\'");
        }
        query.push(")");
    }
}

/// A page of apps, and how many there are in all.
pub async fn list(
    tx: &mut Connection,
    filter: &AppFilter,
    limit: i64,
    offset: i64,
) -> Result<(Vec<ListedApp>, i64), StoreError> {
    let mut count = QueryBuilder::new("SELECT COUNT(*)");
    narrow(&mut count, filter);
    let total: i64 = count.build().fetch_one(&mut *tx).await?.try_get(0)?;
    let mut page = QueryBuilder::new(
        "SELECT a.*, n.name AS node_name, u.username AS owner_name,
         (SELECT o.id FROM operations o WHERE o.app_id = a.id ORDER BY o.created_at DESC, o.id DESC LIMIT 1) AS operation_id",
    );
    narrow(&mut page, filter);
    page.push(match filter.order {
        AppOrder::Newest => " ORDER BY a.created_at DESC, a.id DESC",
        AppOrder::Oldest => " ORDER BY a.created_at, a.id",
        AppOrder::Hostname => " ORDER BY a.hostname",
        AppOrder::HostnameDescending => " ORDER BY a.hostname DESC",
        AppOrder::Name => " ORDER BY a.name, a.hostname",
        AppOrder::Status => " ORDER BY a.status, a.hostname",
        AppOrder::Updated => " ORDER BY a.updated_at DESC, a.id DESC",
    });
    page.push(" LIMIT ").push_bind(limit).push(" OFFSET ").push_bind(offset);
    let rows = page.build().fetch_all(tx).await?;
    Ok((rows.iter().map(listed).collect::<Result<_, _>>()?, total))
}

/// The node of a container, if this registry knows it as an app's: for inventories.
pub async fn by_vmid(tx: &mut Connection, host_id: i64, vmid: u32) -> Result<Option<AppRow>, StoreError> {
    sqlx::query("SELECT * FROM apps WHERE host_id = $1 AND vmid = $2")
        .bind(host_id)
        .bind(i64::from(vmid))
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(app)
        .transpose()
}

/// Host and VMID of every app that has a container, or is taking one over.
pub async fn containers(tx: &mut Connection) -> Result<BTreeSet<(i64, u32)>, StoreError> {
    sqlx::query("SELECT host_id, vmid FROM apps WHERE vmid IS NOT NULL AND (vmid_confirmed OR adopted)")
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| Ok((get(row, "host_id")?, number(row, "vmid")?)))
        .collect()
}
