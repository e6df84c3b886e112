//! Certificates that nodes were given. What stands here, and not the signature alone, lets a node in.

use super::{
    Connection, StoreError,
    row::{get as column, parse},
};
use crate::clock::UnixMs;
use proximity_protocol::ids::NodeId;
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;

/// A certificate as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// Hexadecimal, lower case.
    pub serial: String,
    /// Whose.
    pub node_id: NodeId,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: Vec<u8>,
    /// The whole.
    pub der: Vec<u8>,
    /// From when.
    pub not_before: UnixMs,
    /// Until when.
    pub not_after: UnixMs,
    /// Since when it is worth nothing.
    pub revoked_at: Option<UnixMs>,
}

fn certificate(row: &SqliteRow) -> Result<CertificateRow, StoreError> {
    Ok(CertificateRow {
        serial: column(row, "serial")?,
        node_id: parse(row, "node_id")?,
        spki_sha256: column(row, "spki_sha256")?,
        der: column(row, "der")?,
        not_before: column(row, "not_before")?,
        not_after: column(row, "not_after")?,
        revoked_at: column(row, "revoked_at")?,
    })
}

/// Adds one.
pub async fn insert(tx: &mut Connection, at: UnixMs, row: &CertificateRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO certificates (serial, node_id, spki_sha256, der, not_before, not_after, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&row.serial)
    .bind(row.node_id.to_string())
    .bind(&row.spki_sha256)
    .bind(&row.der)
    .bind(row.not_before)
    .bind(row.not_after)
    .bind(at)
    .execute(tx)
    .await?;
    Ok(())
}

/// The one with that serial.
pub async fn get(tx: &mut Connection, serial: &str) -> Result<Option<CertificateRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM certificates WHERE serial = $1")
        .bind(serial)
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(certificate).transpose()
}

/// The node that was last given a certificate for that key, if it is not revoked.
pub async fn node_of_key(tx: &mut Connection, spki_sha256: &[u8; 32]) -> Result<Option<NodeId>, StoreError> {
    let row = sqlx::query(
        "SELECT c.node_id AS node_id FROM certificates c JOIN nodes n ON n.id = c.node_id
         WHERE c.spki_sha256 = $1 AND n.admission <> 'revoked' AND c.revoked_at IS NULL ORDER BY c.created_at DESC LIMIT 1",
    )
    .bind(spki_sha256.as_slice())
    .fetch_optional(tx)
    .await?;
    row.as_ref().map(|row| parse(row, "node_id")).transpose()
}

/// The newest that was ever given for that key, whatever became of it. Newest is what was written last: the clock may have been set back in between.
pub async fn newest_of_key(tx: &mut Connection, spki_sha256: &[u8; 32]) -> Result<Option<CertificateRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM certificates WHERE spki_sha256 = $1 ORDER BY rowid DESC LIMIT 1")
        .bind(spki_sha256.as_slice())
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(certificate).transpose()
}

/// The certificate is in use: those that its node was given before are worth nothing from now on. Answers how many that were.
pub async fn supersede_older(
    tx: &mut Connection,
    at: UnixMs,
    node: NodeId,
    used_serial: &str,
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "UPDATE certificates SET revoked_at = $1, revoked_why = 'superseded' WHERE node_id = $2 AND revoked_at IS NULL
         AND rowid < (SELECT rowid FROM certificates WHERE serial = $3)",
    )
    .bind(at)
    .bind(node.to_string())
    .bind(used_serial)
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Takes back what the node was given after the certificate that it still uses, so that no more than one unused certificate is out there.
pub async fn take_back_newer(
    tx: &mut Connection,
    at: UnixMs,
    node: NodeId,
    used_serial: &str,
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "UPDATE certificates SET revoked_at = $1, revoked_why = 'asked for another before its use' WHERE node_id = $2
         AND revoked_at IS NULL AND rowid > (SELECT rowid FROM certificates WHERE serial = $3)",
    )
    .bind(at)
    .bind(node.to_string())
    .bind(used_serial)
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Makes all certificates of a node worthless; answers how many that were.
pub async fn revoke_all(tx: &mut Connection, at: UnixMs, node: NodeId, why: &str) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "UPDATE certificates SET revoked_at = $1, revoked_why = $2 WHERE node_id = $3 AND revoked_at IS NULL",
    )
    .bind(at)
    .bind(why)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// Until when each node's certificate is valid; of nodes that have one.
pub async fn expiries(tx: &mut Connection) -> Result<HashMap<NodeId, UnixMs>, StoreError> {
    let rows = sqlx::query(
        "SELECT node_id, MAX(not_after) AS not_after FROM certificates WHERE revoked_at IS NULL GROUP BY node_id",
    )
    .fetch_all(tx)
    .await?;
    rows.iter()
        .map(|row| Ok((parse(row, "node_id")?, column(row, "not_after")?)))
        .collect()
}

/// The newest certificate of each node that is not revoked; of nodes that have one.
pub async fn newest_of_nodes(tx: &mut Connection) -> Result<HashMap<NodeId, CertificateRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT c.* FROM certificates c JOIN (SELECT MAX(rowid) AS newest FROM certificates WHERE revoked_at IS NULL GROUP BY node_id) n ON c.rowid = n.newest",
    )
    .fetch_all(tx)
    .await?;
    rows.iter()
        .map(|row| certificate(row).map(|row| (row.node_id, row)))
        .collect()
}
