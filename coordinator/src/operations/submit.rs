//! Puts an operation into the registry, in the transaction that accepts it.

use super::{
    params::{Data, Timeouts},
    step::Kind,
};
use crate::{
    clock::UnixMs,
    domain::{
        operation_state::OperationState,
        settings::{Group as _, OperationSettings},
    },
    store::{
        Connection, StoreError,
        apps::AppRow,
        operations::{self, OperationRow},
        settings,
    },
};
use proximity_protocol::ids::{NodeId, OperationId};
use serde_json::Value;

/// Who asked.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The user's name, or `coordinator`.
    pub name: String,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// Queues an operation on an app; wake the engine after the commit.
pub async fn queue(
    tx: &mut Connection,
    now: UnixMs,
    kind: &Kind,
    app: &AppRow,
    params: Value,
    requester: &Requester,
) -> Result<OperationId, StoreError> {
    queue_at(tx, now, kind, app, app.node_id, params, requester).await
}

/// The same on another node than the app's: where a backup of it lies.
pub async fn queue_at(
    tx: &mut Connection,
    now: UnixMs,
    kind: &Kind,
    app: &AppRow,
    node: NodeId,
    params: Value,
    requester: &Requester,
) -> Result<OperationId, StoreError> {
    let settings: OperationSettings = settings::get(&mut *tx, OperationSettings::NAME)
        .await?
        .unwrap_or_default();
    let data = Data {
        timeouts: Timeouts::of(&settings),
        ..Data::default()
    };
    let row = OperationRow {
        id: OperationId(uuid::Uuid::now_v7()),
        kind: kind.name.to_owned(),
        app_id: app.id.to_string(),
        hostname: app.hostname.clone(),
        node_id: Some(node),
        owner_id: app.owner_id,
        state: OperationState::Queued,
        reason: None,
        action: None,
        error: None,
        params,
        data: serde_json::to_value(&data)?,
        requested_by: requester.name.clone(),
        request_id: requester.request_id.clone(),
        cancel_requested: false,
        created_at: now,
        started_at: None,
        updated_at: now,
        finished_at: None,
        quiet_since: None,
        abandoned_at: None,
        abandoned_by: None,
    };
    let steps: Vec<(&str, &str)> = kind.steps.iter().map(|s| (s.name, s.title)).collect();
    operations::insert(tx, &row, &steps).await?;
    Ok(row.id)
}
