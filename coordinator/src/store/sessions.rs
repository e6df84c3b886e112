//! Sessions of users: one for each login, until logout, the end of its refresh token, or a reused refresh token.

use super::{Connection, StoreError, row::get, users};
use crate::clock::UnixMs;
use sqlx::{Row, sqlite::SqliteRow};

/// A row of `sessions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Claim `sid`.
    pub id: String,
    /// Whose.
    pub user_id: i64,
    /// When it ends unless it is refreshed.
    pub expires_at: UnixMs,
    /// When it was ended.
    pub ended_at: Option<UnixMs>,
    /// The only refresh token that is good.
    pub refresh_jti: String,
    /// The one before it.
    pub previous_refresh_jti: Option<String>,
    /// When the one before was spent.
    pub rotated_at: Option<UnixMs>,
}

fn session(row: &SqliteRow) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        id: get(row, "sid")?,
        user_id: get(row, "user_id")?,
        expires_at: get(row, "expires_at")?,
        ended_at: get(row, "ended_at")?,
        refresh_jti: get(row, "refresh_jti")?,
        previous_refresh_jti: get(row, "previous_refresh_jti")?,
        rotated_at: get(row, "rotated_at")?,
    })
}

/// Begins a session. Those of the user that ended by themselves are forgotten.
pub async fn insert(tx: &mut Connection, at: UnixMs, s: &SessionRow) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND expires_at < $2")
        .bind(s.user_id)
        .bind(at)
        .execute(&mut *tx)
        .await?;
    sqlx::query("INSERT INTO sessions (id, user_id, created_at, expires_at, refresh_jti) VALUES ($1, $2, $3, $4, $5)")
        .bind(&s.id)
        .bind(s.user_id)
        .bind(at)
        .bind(s.expires_at)
        .bind(&s.refresh_jti)
        .execute(tx)
        .await?;
    Ok(())
}

/// A session and its user.
pub async fn with_user(tx: &mut Connection, id: &str) -> Result<Option<(SessionRow, users::UserRow)>, StoreError> {
    sqlx::query(
        "SELECT s.id AS sid, s.user_id, s.expires_at, s.ended_at, s.refresh_jti, s.previous_refresh_jti, s.rotated_at, u.*
         FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.id = $1",
    )
    .bind(id)
    .fetch_optional(tx)
    .await?
    .map(|row| Ok((session(&row)?, users::user(&row)?)))
    .transpose()
}

/// The refresh token was spent: another is the good one from now on.
pub async fn rotate(
    tx: &mut Connection,
    at: UnixMs,
    id: &str,
    refresh_jti: &str,
    expires_at: UnixMs,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE sessions SET previous_refresh_jti = refresh_jti, refresh_jti = $2, rotated_at = $3, expires_at = $4 WHERE id = $1",
    )
    .bind(id)
    .bind(refresh_jti)
    .bind(at)
    .bind(expires_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends a session.
pub async fn end(tx: &mut Connection, at: UnixMs, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE sessions SET ended_at = $2 WHERE id = $1 AND ended_at IS NULL")
        .bind(id)
        .bind(at)
        .execute(tx)
        .await?;
    Ok(())
}

/// Ends every session of a user except, perhaps, one; answers how many.
pub async fn end_all(tx: &mut Connection, at: UnixMs, user_id: i64, except: Option<&str>) -> Result<u64, StoreError> {
    let ended = sqlx::query(
        "UPDATE sessions SET ended_at = $2 WHERE user_id = $1 AND ended_at IS NULL AND ($3 IS NULL OR id <> $3)",
    )
    .bind(user_id)
    .bind(at)
    .bind(except)
    .execute(tx)
    .await?;
    Ok(ended.rows_affected())
}

/// How many sessions of a user are alive.
pub async fn alive(tx: &mut Connection, at: UnixMs, user_id: i64) -> Result<i64, StoreError> {
    Ok(
        sqlx::query("SELECT COUNT(*) FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $2")
            .bind(user_id)
            .bind(at)
            .fetch_one(tx)
            .await?
            .try_get(0)?,
    )
}

/// Forgets sessions that ended, or whose time was over, before `before`; at most `limit`; how many.
pub async fn forget_ended(tx: &mut Connection, before: UnixMs, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 OR ended_at < $1 LIMIT $2)",
    )
    .bind(before)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}
