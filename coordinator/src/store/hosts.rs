//! Hosts: Proxmox installations.

use super::{Connection, StoreError};
use crate::clock::UnixMs;

/// A host as stored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct HostRow {
    /// Its id.
    pub id: i64,
    /// Unique.
    pub name: String,
    /// Address or name, for operators.
    pub host: String,
    /// Of Proxmox's own web page.
    pub port: i64,
    /// SHA-256 of the public key of `pve-root-ca.pem`; `None` until its first node enrols.
    pub fingerprint: Option<Vec<u8>>,
    /// Whether it takes new apps.
    pub is_active: bool,
    /// Whether it is preferred; one at most.
    pub is_default: bool,
    /// When a node of it was last connected.
    pub last_seen: Option<UnixMs>,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it was last changed.
    pub updated_at: UnixMs,
    /// The user who made it; `None`: it appeared with its first node.
    pub created_by: Option<i64>,
}

const COLUMNS: &str =
    "id, name, host, port, fingerprint, is_active, is_default, last_seen, created_at, updated_at, created_by";

/// What can be set of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFields {
    /// See [`HostRow::name`].
    pub name: String,
    /// See [`HostRow::host`].
    pub host: String,
    /// See [`HostRow::port`].
    pub port: u16,
    /// See [`HostRow::is_active`].
    pub is_active: bool,
    /// See [`HostRow::is_default`].
    pub is_default: bool,
}

fn select(tail: &str) -> sqlx::AssertSqlSafe<String> {
    // Only constants of this file come together here.
    sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM hosts {tail}"))
}

/// Every host, by id.
pub async fn list(tx: &mut Connection) -> Result<Vec<HostRow>, StoreError> {
    Ok(sqlx::query_as(select("ORDER BY id")).fetch_all(tx).await?)
}

/// One host.
pub async fn get(tx: &mut Connection, id: i64) -> Result<Option<HostRow>, StoreError> {
    Ok(sqlx::query_as(select("WHERE id = $1"))
        .bind(id)
        .fetch_optional(tx)
        .await?)
}

/// The host with that key.
pub async fn by_fingerprint(tx: &mut Connection, fingerprint: &[u8; 32]) -> Result<Option<HostRow>, StoreError> {
    Ok(sqlx::query_as(select("WHERE fingerprint = $1"))
        .bind(fingerprint.as_slice())
        .fetch_optional(tx)
        .await?)
}

/// `base`, or `base-2`, `base-3`…: a name that no host has.
pub async fn free_name(tx: &mut Connection, base: &str) -> Result<String, StoreError> {
    let names: Vec<(String,)> = sqlx::query_as("SELECT name FROM hosts").fetch_all(tx).await?;
    let taken = |name: &str| names.iter().any(|(n,)| n == name);
    let mut name = base.to_owned();
    let mut number = 2_u32;
    while taken(&name) {
        name = format!("{base}-{number}");
        number += 1;
    }
    Ok(name)
}

/// Adds a host. A name that is there already is [`StoreError::Taken`].
pub async fn insert(
    tx: &mut Connection,
    at: UnixMs,
    by: Option<i64>,
    fields: &HostFields,
    fingerprint: Option<&[u8; 32]>,
) -> Result<i64, StoreError> {
    if fields.is_default {
        clear_default(&mut *tx).await?;
    }
    let (id,): (i64,) = sqlx::query_as(
        "INSERT INTO hosts (name, host, port, fingerprint, is_active, is_default, created_at, updated_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8) RETURNING id",
    )
    .bind(&fields.name)
    .bind(&fields.host)
    .bind(i64::from(fields.port))
    .bind(fingerprint.map(|f| f.as_slice()))
    .bind(fields.is_active)
    .bind(fields.is_default)
    .bind(at)
    .bind(by)
    .fetch_one(tx)
    .await?;
    Ok(id)
}

/// Sets what can be set.
pub async fn update(tx: &mut Connection, at: UnixMs, id: i64, fields: &HostFields) -> Result<(), StoreError> {
    if fields.is_default {
        clear_default(&mut *tx).await?;
    }
    sqlx::query(
        "UPDATE hosts SET name = $1, host = $2, port = $3, is_active = $4, is_default = $5, updated_at = $6 WHERE id = $7",
    )
    .bind(&fields.name)
    .bind(&fields.host)
    .bind(i64::from(fields.port))
    .bind(fields.is_active)
    .bind(fields.is_default)
    .bind(at)
    .bind(id)
    .execute(tx)
    .await?;
    Ok(())
}

async fn clear_default(tx: &mut Connection) -> Result<(), StoreError> {
    sqlx::query("UPDATE hosts SET is_default = FALSE WHERE is_default")
        .execute(tx)
        .await?;
    Ok(())
}

/// Takes a host out, with its nodes, their certificates, and the join tokens that were for it. The caller has made sure that no app is left.
pub async fn remove(tx: &mut Connection, id: i64) -> Result<(), StoreError> {
    for sql in [
        "DELETE FROM certificates WHERE node_id IN (SELECT id FROM nodes WHERE host_id = $1)",
        "DELETE FROM nodes WHERE host_id = $1",
        "DELETE FROM join_tokens WHERE host_id = $1",
        "DELETE FROM refused_choices WHERE host_id = $1",
        "DELETE FROM hosts WHERE id = $1",
    ] {
        sqlx::query(sql).bind(id).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Host names of the apps on a host, of those that are being removed too.
pub async fn apps_on(tx: &mut Connection, id: i64) -> Result<Vec<String>, StoreError> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT hostname FROM apps WHERE host_id = $1 ORDER BY hostname")
        .bind(id)
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

/// Whether VMIDs, ports or addresses of the host are still reserved.
pub async fn has_reservations(tx: &mut Connection, id: i64) -> Result<bool, StoreError> {
    let (count,): (i64,) = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM vmid_reservations WHERE host_id = $1) + (SELECT COUNT(*) FROM port_reservations WHERE host_id = $1)
              + (SELECT COUNT(*) FROM address_reservations WHERE host_id = $1)",
    )
    .bind(id)
    .fetch_one(tx)
    .await?;
    Ok(count > 0)
}

/// Which Proxmox installation it is.
pub async fn set_fingerprint(
    tx: &mut Connection,
    at: UnixMs,
    id: i64,
    fingerprint: &[u8; 32],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE hosts SET fingerprint = $1, updated_at = $2 WHERE id = $3")
        .bind(fingerprint.as_slice())
        .bind(at)
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// The network of a host's apps, as the columns hold it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct NetworkRow {
    /// `None`: the settings'.
    pub bridge: Option<String>,
    /// Tag.
    pub vlan: Option<i64>,
    /// `dhcp` or `static`.
    pub address_mode: String,
    /// CIDR.
    pub subnet: Option<String>,
    /// First of the pool.
    pub pool_first: Option<String>,
    /// Last of the pool.
    pub pool_last: Option<String>,
    /// JSON list of addresses.
    pub exclusions: String,
    /// The way out.
    pub gateway: Option<String>,
    /// JSON list of addresses.
    pub dns: String,
}

/// A host's network.
pub async fn network(tx: &mut Connection, id: i64) -> Result<Option<NetworkRow>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT bridge, vlan, address_mode, subnet, pool_first, pool_last, exclusions, gateway, dns FROM hosts WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(tx)
    .await?)
}

/// Sets a host's network whole.
pub async fn set_network(tx: &mut Connection, at: UnixMs, id: i64, network: &NetworkRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE hosts SET bridge = $1, vlan = $2, address_mode = $3, subnet = $4, pool_first = $5, pool_last = $6, exclusions = $7,
         gateway = $8, dns = $9, updated_at = $10 WHERE id = $11",
    )
    .bind(&network.bridge)
    .bind(network.vlan)
    .bind(&network.address_mode)
    .bind(&network.subnet)
    .bind(&network.pool_first)
    .bind(&network.pool_last)
    .bind(&network.exclusions)
    .bind(&network.gateway)
    .bind(&network.dns)
    .bind(at)
    .bind(id)
    .execute(tx)
    .await?;
    Ok(())
}
