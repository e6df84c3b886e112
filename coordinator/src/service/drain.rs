//! Empties a node: it takes no new apps, and those that it has go to other nodes of its cluster, or stay and are told why.

use super::{
    Caller, ServiceError,
    apps::{Apps, DrainedApp},
    nodes::{NodeView, Nodes},
};
use serde::Serialize;

/// A node that is drained, and what becomes of its apps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DrainedNode {
    /// The node.
    #[serde(flatten)]
    pub node: NodeView,
    /// Each app on it.
    pub apps: Vec<DrainedApp>,
}

/// For operators. Asked again, the apps that stayed are looked at again.
pub async fn drain(nodes: &Nodes, apps: &Apps, caller: &Caller, id: &str) -> Result<DrainedNode, ServiceError> {
    let node = nodes.drain(caller, id).await?;
    let apps = apps.move_away(caller, &node.id).await?;
    Ok(DrainedNode { node, apps })
}
