//! Operations and their steps.

use super::{
    Connection, StoreError,
    apps::Resources,
    row::{get, json, json_opt, number, parse, parse_opt},
};
use crate::{
    clock::UnixMs,
    domain::operation_state::{OperationState, StepState},
};
use proximity_protocol::ids::{NodeId, OperationId};
use serde_json::Value;
use sqlx::{QueryBuilder, Row, sqlite::SqliteRow};
use std::collections::{BTreeSet, HashMap};

/// A row of `operations`.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationRow {
    /// Its id.
    pub id: OperationId,
    /// `deploy`, `start`….
    pub kind: String,
    /// On which app.
    pub app_id: String,
    /// That app's host name, kept because an operation outlives its app.
    pub hostname: String,
    /// On which node.
    pub node_id: Option<NodeId>,
    /// The app's owner.
    pub owner_id: i64,
    /// Where it stands.
    pub state: OperationState,
    /// Of waiting, undoing, undone, stuck: why.
    pub reason: Option<String>,
    /// Of stuck: what the operator does.
    pub action: Option<String>,
    /// The fault that turned it around.
    pub error: Option<Value>,
    /// What it was asked to do; no secrets.
    pub params: Value,
    /// What steps hand to later ones.
    pub data: Value,
    /// The user's name.
    pub requested_by: String,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
    /// Whether it is to turn around at the next step.
    pub cancel_requested: bool,
    /// When it was accepted.
    pub created_at: UnixMs,
    /// When its first step began.
    pub started_at: Option<UnixMs>,
    /// When it changed.
    pub updated_at: UnixMs,
    /// When it ended.
    pub finished_at: Option<UnixMs>,
    /// Since when its step has told nothing, if that is longer than the setting allows.
    pub quiet_since: Option<UnixMs>,
    /// When an operator gave it up.
    pub abandoned_at: Option<UnixMs>,
    /// Who.
    pub abandoned_by: Option<String>,
}

/// A row of `operation_steps`.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    /// Place in the order, from 0.
    pub position: i64,
    /// One word.
    pub name: String,
    /// In words.
    pub title: String,
    /// Where it stands.
    pub state: StepState,
    /// The latest try; 0 before the first.
    pub attempt: u32,
    /// The latest try to take it back.
    pub undo_attempt: u32,
    /// Tries that count against the limit, in the present direction.
    pub tries: u32,
    /// When the next try is due.
    pub retry_at: Option<UnixMs>,
    /// Why it waits or failed.
    pub reason: Option<String>,
    /// The latest fault.
    pub error: Option<Value>,
    /// When it first began.
    pub started_at: Option<UnixMs>,
    /// When it ended.
    pub finished_at: Option<UnixMs>,
}

fn operation(row: &SqliteRow) -> Result<OperationRow, StoreError> {
    Ok(OperationRow {
        id: parse(row, "id")?,
        kind: get(row, "kind")?,
        app_id: get(row, "app_id")?,
        hostname: get(row, "hostname")?,
        node_id: parse_opt(row, "node_id")?,
        owner_id: get(row, "owner_id")?,
        state: parse(row, "state")?,
        reason: get(row, "reason")?,
        action: get(row, "action")?,
        error: json_opt(row, "error")?,
        params: json(row, "params")?,
        data: json(row, "data")?,
        requested_by: get(row, "requested_by")?,
        request_id: get(row, "request_id")?,
        cancel_requested: get(row, "cancel_requested")?,
        created_at: get(row, "created_at")?,
        started_at: get(row, "started_at")?,
        updated_at: get(row, "updated_at")?,
        finished_at: get(row, "finished_at")?,
        quiet_since: get(row, "quiet_since")?,
        abandoned_at: get(row, "abandoned_at")?,
        abandoned_by: get(row, "abandoned_by")?,
    })
}

fn step(row: &SqliteRow) -> Result<StepRow, StoreError> {
    Ok(StepRow {
        position: get(row, "position")?,
        name: get(row, "name")?,
        title: get(row, "title")?,
        state: parse(row, "state")?,
        attempt: number(row, "attempt")?,
        undo_attempt: number(row, "undo_attempt")?,
        tries: number(row, "tries")?,
        retry_at: get(row, "retry_at")?,
        reason: get(row, "reason")?,
        error: json_opt(row, "error")?,
        started_at: get(row, "started_at")?,
        finished_at: get(row, "finished_at")?,
    })
}

/// Inserts an operation with its steps (name, title), all pending.
pub async fn insert(tx: &mut Connection, operation: &OperationRow, steps: &[(&str, &str)]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO operations (id, kind, app_id, hostname, node_id, owner_id, state, params, data, requested_by, request_id, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
    )
    .bind(operation.id.to_string())
    .bind(&operation.kind)
    .bind(&operation.app_id)
    .bind(&operation.hostname)
    .bind(operation.node_id.map(|n| n.to_string()))
    .bind(operation.owner_id)
    .bind(operation.state.as_str())
    .bind(operation.params.to_string())
    .bind(operation.data.to_string())
    .bind(&operation.requested_by)
    .bind(&operation.request_id)
    .bind(operation.created_at)
    .execute(&mut *tx)
    .await?;
    for (position, (name, title)) in (0_i64..).zip(steps) {
        sqlx::query("INSERT INTO operation_steps (operation_id, position, name, title, state) VALUES ($1, $2, $3, $4, 'pending')")
            .bind(operation.id.to_string())
            .bind(position)
            .bind(*name)
            .bind(*title)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// One operation.
pub async fn by_id(tx: &mut Connection, id: OperationId) -> Result<Option<OperationRow>, StoreError> {
    sqlx::query("SELECT * FROM operations WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(operation)
        .transpose()
}

/// Its steps in order.
pub async fn steps(tx: &mut Connection, id: OperationId) -> Result<Vec<StepRow>, StoreError> {
    sqlx::query("SELECT * FROM operation_steps WHERE operation_id = $1 ORDER BY position")
        .bind(id.to_string())
        .fetch_all(tx)
        .await?
        .iter()
        .map(step)
        .collect()
}

/// Every operation that has not ended, oldest first.
pub async fn unfinished(tx: &mut Connection) -> Result<Vec<OperationId>, StoreError> {
    sqlx::query(
        "SELECT id FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing') ORDER BY created_at, id",
    )
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| parse(row, "id"))
    .collect()
}

/// The operations of an app that have not ended, oldest first.
pub async fn unfinished_of(tx: &mut Connection, app_id: &str) -> Result<Vec<OperationRow>, StoreError> {
    sqlx::query(
        "SELECT * FROM operations WHERE app_id = $1 AND state IN ('queued', 'running', 'waiting', 'undoing') ORDER BY created_at, id",
    )
    .bind(app_id)
    .fetch_all(tx)
    .await?
    .iter()
    .map(operation)
    .collect()
}

/// The operations of a kind on a user's apps that have not ended: the parameters of each, and what its app has.
pub async fn under_way_of_owner(
    tx: &mut Connection,
    owner_id: i64,
    kind: &str,
) -> Result<Vec<(Value, Resources)>, StoreError> {
    sqlx::query(
        "SELECT o.params, a.resources FROM operations o JOIN apps a ON a.id = o.app_id
         WHERE a.owner_id = $1 AND o.kind = $2 AND o.state IN ('queued', 'running', 'waiting', 'undoing')",
    )
    .bind(owner_id)
    .bind(kind)
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| Ok((json(row, "params")?, json(row, "resources")?)))
    .collect()
}

/// The operations of a kind that have not ended: the node of each, its parameters, and what its app was promised.
pub async fn under_way(tx: &mut Connection, kind: &str) -> Result<Vec<(Option<NodeId>, Value, Resources)>, StoreError> {
    sqlx::query(
        "SELECT o.node_id, o.params, a.resources FROM operations o JOIN apps a ON a.id = o.app_id
         WHERE o.kind = $1 AND o.state IN ('queued', 'running', 'waiting', 'undoing')",
    )
    .bind(kind)
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| {
        Ok((
            parse_opt(row, "node_id")?,
            json(row, "params")?,
            json(row, "resources")?,
        ))
    })
    .collect()
}

/// Whether nothing is queued or under way for an app. In a write transaction this is the app's lease until its end: there is one writer, and whoever begins an
/// operation writes that first.
pub async fn lease_is_free(tx: &mut Connection, app_id: &str) -> Result<bool, StoreError> {
    let under_way = sqlx::query(
        "SELECT 1 FROM operations WHERE app_id = $1 AND state IN ('queued', 'running', 'waiting', 'undoing') LIMIT 1",
    )
    .bind(app_id)
    .fetch_optional(tx)
    .await?;
    Ok(under_way.is_none())
}

/// Apps with an operation that has not ended.
pub async fn busy(tx: &mut Connection) -> Result<BTreeSet<String>, StoreError> {
    sqlx::query("SELECT DISTINCT app_id FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing')")
        .fetch_all(tx)
        .await?
        .iter()
        .map(|row| get(row, "app_id"))
        .collect()
}

/// Apps whose latest operation an operator has abandoned.
pub async fn abandoned(tx: &mut Connection) -> Result<BTreeSet<String>, StoreError> {
    sqlx::query(
        "SELECT app_id FROM operations o WHERE abandoned_at IS NOT NULL AND NOT EXISTS
         (SELECT 1 FROM operations l WHERE l.app_id = o.app_id AND (l.created_at, l.id) > (o.created_at, o.id))",
    )
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| get(row, "app_id"))
    .collect()
}

/// How many operations of a node have not ended.
pub async fn open_on(tx: &mut Connection, node: NodeId) -> Result<i64, StoreError> {
    Ok(sqlx::query(
        "SELECT COUNT(*) FROM operations WHERE node_id = $1 AND state IN ('queued', 'running', 'waiting', 'undoing')",
    )
    .bind(node.to_string())
    .fetch_one(tx)
    .await?
    .try_get(0)?)
}

/// How many operations of each node have not ended.
pub async fn open_by_node(tx: &mut Connection) -> Result<HashMap<NodeId, i64>, StoreError> {
    sqlx::query(
        "SELECT node_id, COUNT(*) AS n FROM operations WHERE node_id IS NOT NULL AND state IN ('queued', 'running', 'waiting', 'undoing') GROUP BY node_id",
    )
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| Ok((parse(row, "node_id")?, get(row, "n")?)))
    .collect()
}

/// Operations that were begun before `before` (for what waits its turn: accepted), and have not ended, oldest first.
pub async fn begun_before(tx: &mut Connection, before: UnixMs) -> Result<Vec<OperationRow>, StoreError> {
    sqlx::query(
        "SELECT * FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing') AND COALESCE(started_at, created_at) < $1 ORDER BY created_at, id",
    )
    .bind(before)
    .fetch_all(tx)
    .await?
    .iter()
    .map(operation)
    .collect()
}

/// Operations that are stuck, and that nobody has abandoned or dealt with since, oldest first.
pub async fn stuck(tx: &mut Connection) -> Result<Vec<OperationRow>, StoreError> {
    sqlx::query(
        "SELECT * FROM operations o WHERE state = 'stuck' AND abandoned_at IS NULL AND NOT EXISTS
         (SELECT 1 FROM operations l WHERE l.app_id = o.app_id AND (l.created_at, l.id) > (o.created_at, o.id)) ORDER BY created_at, id",
    )
    .fetch_all(tx)
    .await?
    .iter()
    .map(operation)
    .collect()
}

/// Forgets operations that ended before `before`, but not the latest of an app that is there; at most `limit`; how many.
pub async fn forget_ended(tx: &mut Connection, before: UnixMs, limit: i64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM operations WHERE id IN (SELECT id FROM operations o WHERE state IN ('done', 'undone', 'stuck') AND finished_at < $1 AND NOT
         (EXISTS (SELECT 1 FROM apps a WHERE a.id = o.app_id) AND NOT EXISTS
         (SELECT 1 FROM operations l WHERE l.app_id = o.app_id AND (l.created_at, l.id) > (o.created_at, o.id))) LIMIT $2)",
    )
    .bind(before)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}

/// The latest operation of an app.
pub async fn latest_of(tx: &mut Connection, app_id: &str) -> Result<Option<OperationId>, StoreError> {
    sqlx::query("SELECT id FROM operations WHERE app_id = $1 ORDER BY created_at DESC, id DESC LIMIT 1")
        .bind(app_id)
        .fetch_optional(tx)
        .await?
        .map(|row| parse(&row, "id"))
        .transpose()
}

/// Writes what changes over an operation's life, unless it has ended; whether it had not. Fails with `Taken` if it becomes active while another of the same
/// app is.
pub async fn update(tx: &mut Connection, o: &OperationRow) -> Result<bool, StoreError> {
    let changed = sqlx::query(
        "UPDATE operations SET state = $2, reason = $3, action = $4, error = $5, data = $6, started_at = $7, updated_at = $8, finished_at = $9, node_id = $10,
         quiet_since = $11 WHERE id = $1 AND state NOT IN ('done', 'undone', 'stuck')",
    )
    .bind(o.id.to_string())
    .bind(o.state.as_str())
    .bind(&o.reason)
    .bind(&o.action)
    .bind(o.error.as_ref().map(Value::to_string))
    .bind(o.data.to_string())
    .bind(o.started_at)
    .bind(o.updated_at)
    .bind(o.finished_at)
    .bind(o.node_id.map(|n| n.to_string()))
    .bind(o.quiet_since)
    .execute(tx)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// Writes what an operator makes of an operation that is stuck, or that waits: it goes on again, or is given up.
pub async fn step_in(tx: &mut Connection, o: &OperationRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE operations SET state = $2, reason = $3, action = $4, error = $5, updated_at = $6, finished_at = $7, quiet_since = $8, abandoned_at = $9,
         abandoned_by = $10, started_at = $11 WHERE id = $1 AND state IN ('stuck', 'waiting', 'undoing')",
    )
    .bind(o.id.to_string())
    .bind(o.state.as_str())
    .bind(&o.reason)
    .bind(&o.action)
    .bind(o.error.as_ref().map(Value::to_string))
    .bind(o.updated_at)
    .bind(o.finished_at)
    .bind(o.quiet_since)
    .bind(o.abandoned_at)
    .bind(&o.abandoned_by)
    .bind(o.started_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// The app is on another node: what waits its turn begins there, except what is about an archive, which has not moved.
pub async fn move_queued(tx: &mut Connection, app_id: &str, node: NodeId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE operations SET node_id = $2 WHERE app_id = $1 AND state = 'queued' AND kind <> 'backup_delete'",
    )
    .bind(app_id)
    .bind(node.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what changes over a step's life.
pub async fn update_step(tx: &mut Connection, id: OperationId, s: &StepRow) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE operation_steps SET state = $3, attempt = $4, undo_attempt = $5, tries = $6, retry_at = $7, reason = $8, error = $9, started_at = $10,
         finished_at = $11 WHERE operation_id = $1 AND position = $2",
    )
    .bind(id.to_string())
    .bind(s.position)
    .bind(s.state.as_str())
    .bind(i64::from(s.attempt))
    .bind(i64::from(s.undo_attempt))
    .bind(i64::from(s.tries))
    .bind(s.retry_at)
    .bind(&s.reason)
    .bind(s.error.as_ref().map(Value::to_string))
    .bind(s.started_at)
    .bind(s.finished_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// Asks an unfinished operation to turn around at its next step; whether there was one.
pub async fn request_cancel(tx: &mut Connection, id: OperationId) -> Result<bool, StoreError> {
    let changed = sqlx::query(
        "UPDATE operations SET cancel_requested = TRUE WHERE id = $1 AND state IN ('queued', 'running', 'waiting')",
    )
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// What a list of operations shows.
#[derive(Debug, Clone, Default)]
pub struct OperationFilter {
    /// Only this owner's.
    pub owner_id: Option<i64>,
    /// Only this app's.
    pub app_id: Option<String>,
    /// Only in this state.
    pub state: Option<OperationState>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only those that go on, and those that are stuck and not abandoned.
    pub open: bool,
}

/// A page of operations, newest first, and how many there are in all.
pub async fn list(
    tx: &mut Connection,
    filter: &OperationFilter,
    limit: i64,
    offset: i64,
) -> Result<(Vec<OperationRow>, i64), StoreError> {
    fn narrow(query: &mut QueryBuilder<sqlx::Sqlite>, filter: &OperationFilter) {
        query.push(" FROM operations WHERE TRUE");
        if let Some(owner) = filter.owner_id {
            query.push(" AND owner_id = ").push_bind(owner);
        }
        if let Some(app) = &filter.app_id {
            query.push(" AND app_id = ").push_bind(app.clone());
        }
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(kind) = &filter.kind {
            query.push(" AND kind = ").push_bind(kind.clone());
        }
        if filter.open {
            query.push(" AND state NOT IN ('done', 'undone') AND abandoned_at IS NULL");
        }
    }
    let mut count = QueryBuilder::new("SELECT COUNT(*)");
    narrow(&mut count, filter);
    let total: i64 = count.build().fetch_one(&mut *tx).await?.try_get(0)?;
    let mut page = QueryBuilder::new("SELECT *");
    narrow(&mut page, filter);
    page.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(limit);
    page.push(" OFFSET ").push_bind(offset);
    let rows = page.build().fetch_all(tx).await?;
    Ok((rows.iter().map(operation).collect::<Result<_, _>>()?, total))
}

/// Stored events after `after`, oldest first: of one operation, or of everything that `owner_id` may see (`None`: all).
pub async fn events_after(
    tx: &mut Connection,
    operation_id: Option<OperationId>,
    owner_id: Option<i64>,
    after: i64,
    limit: i64,
) -> Result<Vec<crate::events::Event>, StoreError> {
    sqlx::query(
        "SELECT * FROM events WHERE id > $1 AND ($2 IS NULL OR operation_id = $2) AND ($3 IS NULL OR owner_id = $3) ORDER BY id LIMIT $4",
    )
    .bind(after)
    .bind(operation_id.map(|o| o.to_string()))
    .bind(owner_id)
    .bind(limit)
    .fetch_all(tx)
    .await?
    .iter()
    .map(|row| {
        Ok(crate::events::Event {
            id: get(row, "id")?,
            at: get(row, "at")?,
            kind: get(row, "kind")?,
            app_id: get(row, "app_id")?,
            operation_id: get(row, "operation_id")?,
            owner_id: get(row, "owner_id")?,
            data: json(row, "data")?,
        })
    })
    .collect()
}
