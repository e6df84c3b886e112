//! Join tokens. The secret is not here: only its keyed hash.

use super::{
    Connection, StoreError,
    row::{get as column, parse},
};
use crate::clock::UnixMs;
use proximity_protocol::ids::JoinTokenId;
use sqlx::sqlite::SqliteRow;

/// A join token as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenRow {
    /// The public part.
    pub id: JoinTokenId,
    /// Keyed hash of the secret part.
    pub secret_hash: Vec<u8>,
    /// The host that it is for; `None`: any, a new one too.
    pub host_id: Option<i64>,
    /// The node that it is for.
    pub node_name: Option<String>,
    /// From where it may be used.
    pub allowed_cidr: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: UnixMs,
    /// Until when it works.
    pub expires_at: UnixMs,
    /// Since when it does not.
    pub revoked_at: Option<UnixMs>,
    /// When it was used.
    pub spent_at: Option<UnixMs>,
    /// SHA-256 of the key that used it.
    pub spent_spki: Option<Vec<u8>>,
    /// The certificate that it brought.
    pub spent_serial: Option<String>,
    /// The root that it pins; `None`: made before there could be another than the first.
    pub ca_pin: Option<Vec<u8>>,
}

fn token(row: &SqliteRow) -> Result<JoinTokenRow, StoreError> {
    Ok(JoinTokenRow {
        id: parse(row, "id")?,
        secret_hash: column(row, "secret_hash")?,
        host_id: column(row, "host_id")?,
        node_name: column(row, "node_name")?,
        allowed_cidr: column(row, "allowed_cidr")?,
        created_by: column(row, "created_by")?,
        created_at: column(row, "created_at")?,
        expires_at: column(row, "expires_at")?,
        revoked_at: column(row, "revoked_at")?,
        spent_at: column(row, "spent_at")?,
        spent_spki: column(row, "spent_spki")?,
        spent_serial: column(row, "spent_serial")?,
        ca_pin: column(row, "ca_pin")?,
    })
}

/// Adds one that is neither spent nor revoked.
pub async fn insert(tx: &mut Connection, row: &JoinTokenRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO join_tokens (id, secret_hash, host_id, node_name, allowed_cidr, created_by, created_at, expires_at, ca_pin)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id.to_string())
    .bind(&row.secret_hash)
    .bind(row.host_id)
    .bind(&row.node_name)
    .bind(&row.allowed_cidr)
    .bind(&row.created_by)
    .bind(row.created_at)
    .bind(row.expires_at)
    .bind(&row.ca_pin)
    .execute(tx)
    .await?;
    Ok(())
}

/// One token.
pub async fn get(tx: &mut Connection, id: JoinTokenId) -> Result<Option<JoinTokenRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM join_tokens WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(token).transpose()
}

/// A page of them, newest first, and how many there are.
pub async fn list(tx: &mut Connection, limit: i64, offset: i64) -> Result<(Vec<JoinTokenRow>, i64), StoreError> {
    let (total,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM join_tokens")
        .fetch_one(&mut *tx)
        .await?;
    let rows = sqlx::query("SELECT * FROM join_tokens ORDER BY created_at DESC, id LIMIT $1 OFFSET $2")
        .bind(limit)
        .bind(offset)
        .fetch_all(tx)
        .await?;
    Ok((rows.iter().map(token).collect::<Result<_, _>>()?, total))
}

/// Uses it up. Of any number of callers one gets `true`; it does so in the transaction that issues the certificate.
pub async fn spend(
    tx: &mut Connection,
    at: UnixMs,
    id: JoinTokenId,
    spki_sha256: &[u8; 32],
    serial: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE join_tokens SET spent_at = $1, spent_spki = $2, spent_serial = $3
         WHERE id = $4 AND spent_at IS NULL AND revoked_at IS NULL AND expires_at > $1",
    )
    .bind(at)
    .bind(spki_sha256.as_slice())
    .bind(serial)
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes it back; `false` if there is none.
pub async fn revoke(tx: &mut Connection, at: UnixMs, id: JoinTokenId) -> Result<bool, StoreError> {
    let done = sqlx::query("UPDATE join_tokens SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2")
        .bind(at)
        .bind(id.to_string())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets tokens whose time was over before `before`; at most `limit`; how many. Until then one that is spent answers its own key again.
pub async fn forget_old(tx: &mut Connection, before: UnixMs, limit: i64) -> Result<u64, StoreError> {
    let deleted =
        sqlx::query("DELETE FROM join_tokens WHERE id IN (SELECT id FROM join_tokens WHERE expires_at < $1 LIMIT $2)")
            .bind(before)
            .bind(limit)
            .execute(tx)
            .await?;
    Ok(deleted.rows_affected())
}
