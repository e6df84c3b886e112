//! Operations: how far they are, and what happened.

use super::{
    Caller, Role, ServiceError,
    apps::{check_page, may_change, sees},
};
use crate::{
    clock::rfc3339,
    domain::operation_state::{OperationState, StepState},
    events::Event,
    operations::{Engine, kind},
    service::FieldError,
    store::{
        Store, StoreError,
        operations::{self as rows, OperationFilter, OperationRow, StepRow},
    },
};
use proximity_protocol::ids::OperationId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An operation as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationView {
    /// Its id.
    pub id: String,
    /// `deploy`, `start`….
    pub kind: String,
    /// On which app.
    pub app_id: String,
    /// That app's host name.
    pub hostname: String,
    /// `queued, running, waiting, undoing, done, undone, stuck`.
    pub state: OperationState,
    /// Of waiting, undoing, undone, stuck: why. Of done: what it left as it is, because it is not the app's.
    pub reason: Option<String>,
    /// Of stuck: what the operator does.
    pub action: Option<String>,
    /// The fault that turned it around: `{kind, message, detail, step}`.
    pub error: Option<Value>,
    /// The user who asked.
    pub requested_by: String,
    /// Whether somebody has asked it to turn around.
    pub cancel_requested: bool,
    /// In order.
    pub steps: Vec<StepView>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// Since when its step has told nothing, if that is longer than the setting allows; RFC 3339.
    pub no_progress_since: Option<String>,
    /// When an operator gave it up, RFC 3339.
    pub abandoned_at: Option<String>,
    /// Who.
    pub abandoned_by: Option<String>,
}

/// A step as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepView {
    /// One word.
    pub name: String,
    /// In words.
    pub title: String,
    /// `pending, running, waiting, done, failed, undoing, undone, skipped`.
    pub state: StepState,
    /// How often it was tried.
    pub attempt: u32,
    /// Why it waits or failed.
    pub reason: Option<String>,
    /// When the next try is due, RFC 3339.
    pub retry_at: Option<String>,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
}

/// Query of `GET /api/operations`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListOperations {
    /// From 1.
    pub page: i64,
    /// 1 to 200.
    pub per_page: i64,
    /// Only in this state.
    pub state: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this app.
    pub app_id: Option<String>,
}

impl Default for ListOperations {
    fn default() -> Self {
        Self {
            page: 1,
            per_page: 20,
            state: None,
            kind: None,
            app_id: None,
        }
    }
}

/// A page of operations, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationPage {
    /// The page.
    pub operations: Vec<OperationView>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}

pub(super) fn view(row: OperationRow, steps: Vec<StepRow>) -> OperationView {
    OperationView {
        id: row.id.to_string(),
        kind: row.kind,
        app_id: row.app_id,
        hostname: row.hostname,
        state: row.state,
        reason: row.reason,
        action: row.action,
        error: row.error,
        requested_by: row.requested_by,
        cancel_requested: row.cancel_requested,
        steps: steps
            .into_iter()
            .map(|s| StepView {
                name: s.name,
                title: s.title,
                state: s.state,
                attempt: s.attempt,
                reason: s.reason,
                retry_at: s.retry_at.map(rfc3339),
                started_at: s.started_at.map(rfc3339),
                finished_at: s.finished_at.map(rfc3339),
            })
            .collect(),
        created_at: rfc3339(row.created_at),
        started_at: row.started_at.map(rfc3339),
        updated_at: rfc3339(row.updated_at),
        finished_at: row.finished_at.map(rfc3339),
        no_progress_since: row.quiet_since.map(rfc3339),
        abandoned_at: row.abandoned_at.map(rfc3339),
        abandoned_by: row.abandoned_by,
    }
}

pub(super) fn no_such_operation(id: &str) -> ServiceError {
    let id: String = id.chars().take(80).collect();
    ServiceError::NotFound(format!("there is no operation {id:?}; GET /api/operations lists yours"))
}

/// Why an operation cannot be cancelled: 409.
fn refuse_cancelling(row: &OperationRow) -> Result<(), ServiceError> {
    let what = format!("the {} of {}", row.kind, row.hostname);
    let why = match row.state {
        OperationState::Done => format!("{what} is done already; nothing is left to cancel"),
        OperationState::Undone => format!("{what} was taken back already; nothing is left to cancel"),
        OperationState::Stuck => format!("{what} is stuck and does nothing more; its action says what frees it"),
        OperationState::Undoing => format!("{what} is being taken back already; wait until that has ended"),
        OperationState::Queued | OperationState::Running | OperationState::Waiting => {
            match kind(&row.kind).filter(|kind| kind.forward_only) {
                Some(_) => format!("{what} has no way back, so it cannot be cancelled; wait until it has ended"),
                None => return Ok(()),
            }
        }
    };
    Err(ServiceError::Conflict(why))
}

/// The use cases of operations.
#[derive(Clone)]
pub struct Operations {
    store: Store,
    engine: Engine,
}

impl Operations {
    /// Over this registry.
    pub fn new(store: Store, engine: Engine) -> Self {
        Self { store, engine }
    }

    /// Asks an operation to turn around: what it has done is taken back, and a command that acts on a node is waited for first. Asking again is no mistake.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<OperationView, ServiceError> {
        may_change(caller)?;
        let parsed: OperationId = id.parse().map_err(|_| no_such_operation(id))?;
        let mut tx = self.store.begin().await?;
        let row = rows::by_id(&mut tx, parsed)
            .await?
            .filter(|row| sees(caller, row.owner_id))
            .ok_or_else(|| no_such_operation(id))?;
        refuse_cancelling(&row)?;
        rows::request_cancel(&mut tx, parsed).await?;
        let row = OperationRow {
            cancel_requested: true,
            ..row
        };
        let steps = rows::steps(&mut tx, parsed).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.engine.kick(parsed);
        self.engine.wake();
        tracing::info!(operation_id = %parsed, app_id = row.app_id, kind = row.kind, request_id = caller.request_id, "asked to turn around");
        Ok(view(row, steps))
    }

    /// One operation with its steps.
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<OperationView, ServiceError> {
        let parsed: OperationId = id.parse().map_err(|_| no_such_operation(id))?;
        let mut conn = self.store.read().await?;
        let row = rows::by_id(&mut conn, parsed)
            .await?
            .filter(|row| sees(caller, row.owner_id))
            .ok_or_else(|| no_such_operation(id))?;
        let steps = rows::steps(&mut conn, parsed).await?;
        Ok(view(row, steps))
    }

    /// The operations that the caller sees, newest first.
    pub async fn list(&self, caller: &Caller, query: &ListOperations) -> Result<OperationPage, ServiceError> {
        check_page(query.page, query.per_page)?;
        let state = match query.state.as_deref().map(str::parse::<OperationState>).transpose() {
            Ok(state) => state,
            Err(e) => {
                return Err(ServiceError::Invalid(vec![FieldError {
                    loc: vec!["query".into(), "state".into()],
                    msg: e.to_string(),
                }]));
            }
        };
        let filter = OperationFilter {
            owner_id: (caller.role < Role::Operator).then_some(caller.user_id),
            app_id: query.app_id.clone(),
            state,
            kind: query.kind.clone(),
            open: false,
        };
        let mut conn = self.store.read().await?;
        let (found, total) = rows::list(&mut conn, &filter, query.per_page, (query.page - 1) * query.per_page).await?;
        let mut operations = Vec::with_capacity(found.len());
        for row in found {
            let steps = rows::steps(&mut conn, row.id).await?;
            operations.push(view(row, steps));
        }
        Ok(OperationPage {
            operations,
            total,
            page: query.page,
            per_page: query.per_page,
        })
    }

    /// Stored events of one operation after the event `after` (0: from the beginning), oldest first, at most `limit`. Whether more can follow stands in the
    /// operation's state. Subscribe to the bus before asking, and drop what comes twice by id.
    pub async fn events(&self, caller: &Caller, id: &str, after: i64, limit: i64) -> Result<Vec<Event>, ServiceError> {
        let parsed: OperationId = id.parse().map_err(|_| no_such_operation(id))?;
        let mut conn = self.store.read().await?;
        rows::by_id(&mut conn, parsed)
            .await?
            .filter(|row| sees(caller, row.owner_id))
            .ok_or_else(|| no_such_operation(id))?;
        Ok(rows::events_after(&mut conn, Some(parsed), None, after, limit).await?)
    }

    /// Stored events that the caller may see after the event `after`, oldest first, at most `limit`.
    pub async fn all_events(&self, caller: &Caller, after: i64, limit: i64) -> Result<Vec<Event>, ServiceError> {
        let owner = (caller.role < Role::Operator).then_some(caller.user_id);
        let mut conn = self.store.read().await?;
        Ok(rows::events_after(&mut conn, None, owner, after, limit).await?)
    }

    /// Whether the caller may see an event from the bus.
    pub fn may_see(caller: &Caller, event: &Event) -> bool {
        caller.role >= Role::Operator || event.owner_id == Some(caller.user_id)
    }
}
