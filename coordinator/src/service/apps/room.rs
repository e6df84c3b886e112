//! Whether a node's queue has room. Without a bound a node that is away would gather operations until nobody could say what happens when it comes back.

use super::{Apps, AppsDeps, ServiceError};
use crate::store::{Connection, fleet::FleetNode, operations};
use proximity_protocol::ids::NodeId;

/// When to try again, seconds.
const AGAIN_S: u64 = 60;

fn full(node: &str, queued: i64) -> ServiceError {
    ServiceError::Unavailable {
        message: format!(
            "{node} has {queued} operations queued, as many as it may have; try again when some of them have ended"
        ),
        retry_after_s: AGAIN_S,
    }
}

fn bound(deps: &AppsDeps) -> i64 {
    i64::try_from(deps.engine.settings().queue_per_node).unwrap_or(i64::MAX)
}

/// Refuses an operation on a node whose queue is full: 503. Deletions, cleaning up and moves away from a node that is drained are not asked: they make room, and
/// there is one for each app at most.
pub(crate) async fn check_room(
    deps: &AppsDeps,
    conn: &mut Connection,
    node: NodeId,
    name: &str,
) -> Result<(), ServiceError> {
    let queued = operations::open_on(conn, node).await?;
    if queued < bound(deps) {
        Ok(())
    } else {
        Err(full(name, queued))
    }
}

impl Apps {
    /// [`check_room`] over these ports.
    pub(super) async fn check_room(&self, conn: &mut Connection, node: NodeId, name: &str) -> Result<(), ServiceError> {
        check_room(self.deps(), conn, node, name).await
    }

    /// Of the nodes that are meant, those with room; 503 if there is none.
    pub(super) async fn with_room<'f>(
        &self,
        conn: &mut Connection,
        meant: Vec<&'f FleetNode>,
    ) -> Result<Vec<&'f FleetNode>, ServiceError> {
        let queued = operations::open_by_node(conn).await?;
        let of = |node: &FleetNode| queued.get(&node.id).copied().unwrap_or(0);
        let bound = bound(self.deps());
        let refusal = meant.first().map(|node| full(&node.name, of(node)));
        let roomy: Vec<&FleetNode> = meant.into_iter().filter(|node| of(node) < bound).collect();
        match refusal {
            Some(refusal) if roomy.is_empty() => Err(refusal),
            _ => Ok(roomy),
        }
    }
}
