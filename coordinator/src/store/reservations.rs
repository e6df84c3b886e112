//! VMIDs, ports and addresses with an owner. Whoever inserts the row owns it; the primary keys decide. Rows go only when the node has proven that nothing
//! is left.

use super::{
    Connection, StoreError,
    row::{get, number, parse},
};
use crate::clock::UnixMs;
use sqlx::sqlite::SqliteRow;
use std::{collections::BTreeSet, fmt, net::Ipv4Addr};

/// How long a choice that a node refused is not offered again, milliseconds.
pub const REFUSED_FOR_MS: i64 = 24 * 3600 * 1000;

/// What a node may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// A VMID.
    Vmid,
    /// A public port.
    Port,
    /// A static address.
    Address,
}

impl Choice {
    /// As stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Choice::Vmid => "vmid",
            Choice::Port => "port",
            Choice::Address => "address",
        }
    }
}

/// Takes a VMID of a host for a generation of an app; `Taken` if it has an owner.
pub async fn take_vmid(
    tx: &mut Connection,
    at: UnixMs,
    host_id: i64,
    vmid: u32,
    app_id: &str,
    generation: u32,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO vmid_reservations (host_id, vmid, app_id, generation, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(host_id)
    .bind(i64::from(vmid))
    .bind(app_id)
    .bind(i64::from(generation))
    .bind(at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes a public port of a host; `Taken` if it has an owner.
pub async fn take_port(
    tx: &mut Connection,
    at: UnixMs,
    host_id: i64,
    port: u16,
    app_id: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO port_reservations (host_id, port, app_id, created_at) VALUES ($1, $2, $3, $4)")
        .bind(host_id)
        .bind(i64::from(port))
        .bind(app_id)
        .bind(at)
        .execute(tx)
        .await?;
    Ok(())
}

/// Takes an address of a host; `Taken` if it has an owner.
pub async fn take_address(
    tx: &mut Connection,
    at: UnixMs,
    host_id: i64,
    address: Ipv4Addr,
    app_id: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO address_reservations (host_id, address, app_id, created_at) VALUES ($1, $2, $3, $4)")
        .bind(host_id)
        .bind(address.to_string())
        .bind(app_id)
        .bind(at)
        .execute(tx)
        .await?;
    Ok(())
}

/// Frees one VMID of an app, because the node said that a stranger has it.
pub async fn free_vmid(tx: &mut Connection, app_id: &str, vmid: u32) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM vmid_reservations WHERE app_id = $1 AND vmid = $2")
        .bind(app_id)
        .bind(i64::from(vmid))
        .execute(tx)
        .await?;
    Ok(())
}

/// Frees one port of an app, because the node said that a stranger has it.
pub async fn free_port(tx: &mut Connection, app_id: &str, port: u16) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM port_reservations WHERE app_id = $1 AND port = $2")
        .bind(app_id)
        .bind(i64::from(port))
        .execute(tx)
        .await?;
    Ok(())
}

/// Frees one address of an app, because the node said that a stranger has it.
pub async fn free_address(tx: &mut Connection, app_id: &str, address: Ipv4Addr) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM address_reservations WHERE app_id = $1 AND address = $2")
        .bind(app_id)
        .bind(address.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Frees everything of an app: nothing of it is left on any node.
pub async fn free_all(tx: &mut Connection, app_id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM vmid_reservations WHERE app_id = $1")
        .bind(app_id)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM port_reservations WHERE app_id = $1")
        .bind(app_id)
        .execute(&mut *tx)
        .await?;
    sqlx::query("DELETE FROM address_reservations WHERE app_id = $1")
        .bind(app_id)
        .execute(tx)
        .await?;
    Ok(())
}

/// VMIDs of a host that have an owner, of which there are backups (a container that were given one would take them for its own), or that were refused lately.
pub async fn taken_vmids(tx: &mut Connection, now: UnixMs, host_id: i64) -> Result<BTreeSet<u32>, StoreError> {
    sqlx::query(
        "SELECT vmid AS value FROM vmid_reservations WHERE host_id = $1
         UNION ALL SELECT vmid FROM backups WHERE host_id = $1 AND status NOT IN ('failed', 'gone')
         UNION ALL SELECT CAST(value AS BIGINT) FROM refused_choices WHERE host_id = $1 AND kind = 'vmid' AND at > $2",
    )
    .bind(host_id)
    .bind(now - REFUSED_FOR_MS)
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| number(row, "value"))
    .collect()
}

/// Ports of a host that have an owner or were refused lately.
pub async fn taken_ports(tx: &mut Connection, now: UnixMs, host_id: i64) -> Result<BTreeSet<u16>, StoreError> {
    sqlx::query(
        "SELECT port AS value FROM port_reservations WHERE host_id = $1
         UNION ALL SELECT CAST(value AS BIGINT) FROM refused_choices WHERE host_id = $1 AND kind = 'port' AND at > $2",
    )
    .bind(host_id)
    .bind(now - REFUSED_FOR_MS)
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| number(row, "value"))
    .collect()
}

/// Addresses of a host that have an owner or were refused lately.
pub async fn taken_addresses(tx: &mut Connection, now: UnixMs, host_id: i64) -> Result<BTreeSet<Ipv4Addr>, StoreError> {
    sqlx::query(
        "SELECT address AS value FROM address_reservations WHERE host_id = $1
         UNION ALL SELECT ip_address FROM apps WHERE host_id = $1 AND ip_address IS NOT NULL
         UNION ALL SELECT value FROM refused_choices WHERE host_id = $1 AND kind = 'address' AND at > $2",
    )
    .bind(host_id)
    .bind(now - REFUSED_FOR_MS)
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| parse(row, "value"))
    .collect()
}

/// Remembers that a node refused a choice.
pub async fn refuse(
    tx: &mut Connection,
    at: UnixMs,
    host_id: i64,
    kind: Choice,
    value: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO refused_choices (host_id, kind, value, at) VALUES ($1, $2, $3, $4) ON CONFLICT (host_id, kind, value) DO UPDATE SET at = excluded.at",
    )
    .bind(host_id)
    .bind(kind.as_str())
    .bind(value)
    .bind(at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Forgets choices that were refused before `before`; at most `limit`; how many.
pub async fn forget_refused(tx: &mut Connection, before: UnixMs, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM refused_choices WHERE rowid IN (SELECT rowid FROM refused_choices WHERE at < $1 LIMIT $2)",
    )
    .bind(before)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}

/// What is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// A VMID for a generation of the app.
    Vmid {
        /// The number.
        vmid: u32,
        /// The generation.
        generation: u32,
    },
    /// A public port.
    Port(u16),
    /// A static address.
    Address(Ipv4Addr),
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmid { vmid, .. } => write!(f, "VMID {vmid}"),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

/// One reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Whose.
    pub app_id: String,
    /// Of what.
    pub what: Reserved,
    /// Since when.
    pub created_at: UnixMs,
}

/// Every reservation of a host.
pub async fn of_host(tx: &mut Connection, host_id: i64) -> Result<Vec<Reservation>, StoreError> {
    let mut found = Vec::new();
    for row in sqlx::query(
        "SELECT vmid, generation, app_id, created_at FROM vmid_reservations WHERE host_id = $1 ORDER BY vmid",
    )
    .bind(host_id)
    .fetch_all(&mut *tx)
    .await?
    {
        let what = Reserved::Vmid {
            vmid: number(&row, "vmid")?,
            generation: number(&row, "generation")?,
        };
        found.push(reservation(&row, what)?);
    }
    for row in sqlx::query("SELECT port, app_id, created_at FROM port_reservations WHERE host_id = $1 ORDER BY port")
        .bind(host_id)
        .fetch_all(&mut *tx)
        .await?
    {
        found.push(reservation(&row, Reserved::Port(number(&row, "port")?))?);
    }
    for row in
        sqlx::query("SELECT address, app_id, created_at FROM address_reservations WHERE host_id = $1 ORDER BY address")
            .bind(host_id)
            .fetch_all(&mut *tx)
            .await?
    {
        found.push(reservation(&row, Reserved::Address(parse(&row, "address")?))?);
    }
    Ok(found)
}

fn reservation(row: &SqliteRow, what: Reserved) -> Result<Reservation, StoreError> {
    Ok(Reservation {
        app_id: get(row, "app_id")?,
        what,
        created_at: get(row, "created_at")?,
    })
}

/// Frees one reservation of an app.
pub async fn free(tx: &mut Connection, app_id: &str, what: Reserved) -> Result<(), StoreError> {
    match what {
        Reserved::Vmid { vmid, .. } => free_vmid(tx, app_id, vmid).await,
        Reserved::Port(port) => free_port(tx, app_id, port).await,
        Reserved::Address(address) => free_address(tx, app_id, address).await,
    }
}

/// The address that is reserved for an app, if its host has static ones.
pub async fn address_of(tx: &mut Connection, app_id: &str) -> Result<Option<Ipv4Addr>, StoreError> {
    sqlx::query("SELECT address FROM address_reservations WHERE app_id = $1 ORDER BY created_at DESC LIMIT 1")
        .bind(app_id)
        .fetch_optional(tx)
        .await?
        .map(|row| parse(&row, "address"))
        .transpose()
}
