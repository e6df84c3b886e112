//! What reconciliation and janitor looked at, found and did: one report for each run. A run that is asked for stands here first, so that it is made even if the
//! coordinator is killed before it begins.

use super::{
    Connection, StoreError,
    row::{get, json, parse},
};
use crate::{
    clock::UnixMs,
    domain::upkeep::{Cause, Round, RoundState},
};
use serde_json::Value;
use sqlx::{Row, sqlite::SqliteRow};

/// A row of `reports`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportRow {
    /// Grows.
    pub id: i64,
    /// Of what.
    pub round: Round,
    /// Why it ran.
    pub cause: Cause,
    /// Who asked.
    pub requested_by: Option<String>,
    /// How far it is.
    pub state: RoundState,
    /// When it was asked for, or was due.
    pub asked_at: UnixMs,
    /// When it began.
    pub started_at: Option<UnixMs>,
    /// When it ended.
    pub finished_at: Option<UnixMs>,
    /// What it says.
    pub report: Value,
}

fn report(row: &SqliteRow) -> Result<ReportRow, StoreError> {
    Ok(ReportRow {
        id: get(row, "id")?,
        round: parse(row, "kind")?,
        cause: parse(row, "cause")?,
        requested_by: get(row, "requested_by")?,
        state: parse(row, "state")?,
        asked_at: get(row, "asked_at")?,
        started_at: get(row, "started_at")?,
        finished_at: get(row, "finished_at")?,
        report: json(row, "report")?,
    })
}

/// Asks for a run.
pub async fn ask(
    tx: &mut Connection,
    at: UnixMs,
    round: Round,
    cause: Cause,
    requested_by: Option<&str>,
) -> Result<i64, StoreError> {
    let row = sqlx::query(
        "INSERT INTO reports (kind, cause, requested_by, state, asked_at) VALUES ($1, $2, $3, 'asked', $4) RETURNING id",
    )
    .bind(round.as_str())
    .bind(cause.as_str())
    .bind(requested_by)
    .bind(at)
    .fetch_one(tx)
    .await?;
    Ok(row.try_get(0)?)
}

/// What is asked for and has not begun, oldest first.
pub async fn asked(tx: &mut Connection, round: Round) -> Result<Vec<i64>, StoreError> {
    sqlx::query("SELECT id FROM reports WHERE kind = $1 AND state = 'asked' ORDER BY id")
        .bind(round.as_str())
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| get(row, "id"))
        .collect()
}

/// These begin: one run serves all that have asked.
pub async fn begin(tx: &mut Connection, at: UnixMs, ids: &[i64]) -> Result<(), StoreError> {
    for id in ids {
        sqlx::query("UPDATE reports SET state = 'running', started_at = $2 WHERE id = $1")
            .bind(id)
            .bind(at)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// The run has ended.
pub async fn finish(tx: &mut Connection, at: UnixMs, ids: &[i64], said: &Value) -> Result<(), StoreError> {
    for id in ids {
        sqlx::query("UPDATE reports SET state = 'done', finished_at = $2, report = $3 WHERE id = $1")
            .bind(id)
            .bind(at)
            .bind(said.to_string())
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// What an earlier run of the coordinator began and did not end is broken off.
pub async fn break_off(tx: &mut Connection, round: Round) -> Result<(), StoreError> {
    sqlx::query("UPDATE reports SET state = 'broken' WHERE kind = $1 AND state = 'running'")
        .bind(round.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// A page, newest first, and how many there are.
pub async fn page(
    tx: &mut Connection,
    round: Round,
    limit: i64,
    offset: i64,
) -> Result<(Vec<ReportRow>, i64), StoreError> {
    let total: i64 = sqlx::query("SELECT COUNT(*) FROM reports WHERE kind = $1")
        .bind(round.as_str())
        .fetch_one(&mut *tx)
        .await?
        .try_get(0)?;
    let rows = sqlx::query("SELECT * FROM reports WHERE kind = $1 ORDER BY id DESC LIMIT $2 OFFSET $3")
        .bind(round.as_str())
        .bind(limit)
        .bind(offset)
        .fetch_all(tx)
        .await?
        .iter()
        .map(report)
        .collect::<Result<_, _>>()?;
    Ok((rows, total))
}

/// One report.
pub async fn by_id(tx: &mut Connection, round: Round, id: i64) -> Result<Option<ReportRow>, StoreError> {
    sqlx::query("SELECT * FROM reports WHERE kind = $1 AND id = $2")
        .bind(round.as_str())
        .bind(id)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(report)
        .transpose()
}

/// Forgets what is older than the newest `keep` of a kind, at most `limit`; how many.
pub async fn prune(tx: &mut Connection, round: Round, keep: i64, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM reports WHERE id IN (SELECT id FROM reports WHERE kind = $1 AND state <> 'asked' AND id NOT IN
         (SELECT id FROM reports WHERE kind = $1 ORDER BY id DESC LIMIT $2) ORDER BY id LIMIT $3)",
    )
    .bind(round.as_str())
    .bind(keep)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}
