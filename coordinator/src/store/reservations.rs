//! VMIDs, ports and addresses with an owner. Whoever inserts the row owns it; the primary keys decide. Rows go only when the node has proven that nothing
//! is left.

use super::{
    Connection, StoreError,
    row::{number, parse},
};
use crate::clock::UnixMs;
use std::{collections::BTreeSet, net::Ipv4Addr};

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

/// The address that is reserved for an app, if its host has static ones.
pub async fn address_of(tx: &mut Connection, app_id: &str) -> Result<Option<Ipv4Addr>, StoreError> {
    sqlx::query("SELECT address FROM address_reservations WHERE app_id = $1 ORDER BY created_at DESC LIMIT 1")
        .bind(app_id)
        .fetch_optional(tx)
        .await?
        .map(|row| parse(&row, "address"))
        .transpose()
}
