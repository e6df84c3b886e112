//! Who is there, written down: at once when a node comes or goes, else now and then for all together.

use super::{Connections, Deps};
use crate::{
    events::NewEvent,
    nodes::NodeQueries as _,
    store::{self, MOST_STARTS_AHEAD, StoreError, nodes},
};
use proximity_protocol::ids::{Epoch, NodeId};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Writes `last_seen` of the connected nodes every `interval` until `stop`.
pub(super) async fn keep(deps: Deps, connections: Arc<Connections>, interval: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = deps.clock.wait(interval) => {}
        }
        if let Err(error) = seen(&deps, &connections.online()).await {
            tracing::warn!(%error, "it was not written down which nodes are connected; the next time comes soon");
        }
    }
}

pub(super) async fn seen(deps: &Deps, online: &[NodeId]) -> Result<(), StoreError> {
    if online.is_empty() {
        return Ok(());
    }
    let now = deps.clock.now_ms();
    let mut tx = deps.store.begin().await?;
    for node in online {
        nodes::seen(&mut tx, now, *node).await?;
    }
    Ok(tx.commit().await?)
}

/// What became of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is connected.
    Online,
    /// It is not.
    Offline,
}

/// A node came or went.
pub(super) async fn changed(
    deps: &Deps,
    connections: &Connections,
    node: NodeId,
    change: Change,
) -> Result<(), StoreError> {
    let mut tx = deps.store.begin().await?;
    // It is back already: its coming is told after this, or has been, and must be the last word.
    if change == Change::Offline && connections.link(node).is_some() {
        return Ok(());
    }
    let now = deps.clock.now_ms();
    nodes::seen(&mut tx, now, node).await?;
    let name = nodes::get(&mut tx, node).await?.map(|row| row.name);
    let word = match change {
        Change::Online => "online",
        Change::Offline => "offline",
    };
    let event = NewEvent {
        kind: "node",
        app_id: None,
        operation_id: None,
        owner_id: None,
        data: serde_json::json!({"node_id": node, "name": name, "change": word}),
    };
    let event = store::insert_event(&mut tx, now, event).await?;
    tx.commit().await?;
    deps.bus.publish(event);
    Ok(())
}

/// The agent has obeyed a newer run of the coordinator than this one, and refuses its commands.
pub(super) async fn is_older(deps: &Deps, node: NodeId, theirs: Epoch) -> Result<(), StoreError> {
    let learnt = deps.store.learn_epoch(theirs.0).await?;
    let now = deps.clock.now_ms();
    let mut tx = deps.store.begin().await?;
    let name = nodes::get(&mut tx, node).await?.map(|row| row.name).unwrap_or_default();
    let what_to_do = if learnt {
        "stop every other coordinator on this registry, then restart this one: its next run is newer than any that the agent has obeyed"
    } else if theirs.0 > deps.epoch.0.saturating_add(MOST_STARTS_AHEAD.unsigned_abs()) {
        "no number of starts explains that: look who has had this node's agent"
    } else {
        "restart the coordinator"
    };
    let message = format!(
        "{name} refuses what this coordinator wants: it has obeyed run {theirs}, and this is run {}. An older copy of the registry was put back without \
         `proximity-coordinator restore`, or another coordinator runs. {what_to_do}",
        deps.epoch
    );
    tracing::error!(node_id = %node, %theirs, ours = %deps.epoch, "{message}");
    let event = NewEvent {
        kind: "alarm",
        app_id: None,
        operation_id: None,
        owner_id: None,
        data: serde_json::json!({"message": message, "node_id": node}),
    };
    let event = store::insert_event(&mut tx, now, event).await?;
    tx.commit().await?;
    deps.bus.publish(event);
    Ok(())
}
