//! `/api/apps/{id}/previous`: containers that a restore has replaced and that are kept.

use super::{Backups, ServiceError, refuse_busy, requester};
use crate::{
    clock::rfc3339,
    domain::side_containers::SideRole,
    operations::discard,
    service::{Caller, apps::may_change},
    store::{
        StoreError, fleet,
        side_containers::{self, SideRow},
    },
};
use serde::Serialize;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviousView {
    /// Its number.
    pub lxc_id: u32,
    /// Its node.
    pub node: String,
    /// Which of the app's containers it was.
    pub generation: u32,
    /// Whether it was there before its app: then it is let go, never destroyed.
    pub adopted: bool,
    /// RFC 3339; when it goes if the app has been running for long enough by then. Null: when somebody asks.
    pub keep_until: Option<String>,
    /// Why it is kept so long, or could not be removed.
    pub note: Option<String>,
    /// Its latest operation.
    pub operation_id: String,
    /// RFC 3339; when it was replaced.
    pub replaced_at: String,
}

/// All of an app's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PreviousList {
    /// By number.
    pub previous: Vec<PreviousView>,
}

/// 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiscardStarted {
    /// In words.
    pub message: String,
    /// Where it can be followed.
    pub operation_id: String,
}

impl Backups {
    /// Containers that are kept beside an app's.
    pub async fn previous(&self, caller: &Caller, app_id: &str) -> Result<PreviousList, ServiceError> {
        let mut conn = self.deps().store.read().await?;
        self.app(&mut conn, caller, app_id).await?;
        let nodes = fleet::nodes(&mut conn).await?;
        let name = |side: &SideRow| {
            let node = nodes.iter().find(|node| node.id == side.node_id);
            node.map(|node| node.name.clone()).unwrap_or_default()
        };
        let all = side_containers::of_app(&mut conn, app_id).await?.into_iter();
        Ok(PreviousList {
            previous: all
                .filter(|side| side.role == SideRole::Previous)
                .map(|side| PreviousView {
                    lxc_id: side.vmid.get(),
                    node: name(&side),
                    generation: side.generation,
                    adopted: side.adopted,
                    keep_until: side.keep_until.map(rfc3339),
                    note: side.note,
                    operation_id: side.operation_id.to_string(),
                    replaced_at: rfc3339(side.created_at),
                })
                .collect(),
        })
    }

    /// Removes one of them now; one that was there before its app is let go.
    pub async fn discard(&self, caller: &Caller, app_id: &str, vmid: u32) -> Result<DiscardStarted, ServiceError> {
        may_change(caller)?;
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let listed = self.app(&mut tx, caller, app_id).await?;
        let all = side_containers::of_app(&mut tx, app_id).await?;
        let found = all
            .into_iter()
            .find(|side| side.vmid.get() == vmid && side.role == SideRole::Previous);
        let Some(side) = found else {
            return Err(ServiceError::NotFound(format!(
                "no container {vmid} is kept for {app_id}; GET /api/apps/{app_id}/previous lists them"
            )));
        };
        refuse_busy(&mut tx, &listed).await?;
        let adopted = side.adopted;
        let operation = discard::queue(&mut tx, now, &listed.app, side, false, &requester(caller)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().engine.wake();
        tracing::info!(app_id, operation_id = %operation, vmid, request_id = caller.request_id, "accepted the removal of a kept container");
        Ok(DiscardStarted {
            message: if adopted {
                format!("Letting go of container {vmid}; it stays as it is")
            } else {
                format!("Removing container {vmid}")
            },
            operation_id: operation.to_string(),
        })
    }
}
