//! The latest figures of nodes and containers, and how far each node's clock is ahead of ours. In memory only: they are measured again every second.

use proximity_protocol::{
    ids::NodeId,
    metrics::{ContainerFigures, NodeFigures, Sample},
};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

/// A sample as it arrived.
#[derive(Debug)]
struct Latest {
    sample: Sample,
    /// By how much the node's clock was ahead of ours, milliseconds.
    ahead_ms: i64,
}

/// Shared by the link (which writes) and the services (which read).
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<RwLock<HashMap<NodeId, Latest>>>);

impl Live {
    fn with<T>(&self, read: impl FnOnce(&HashMap<NodeId, Latest>) -> T) -> T {
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
    /// A sample arrived at that time by our clock, milliseconds since 1970.
    pub fn put(&self, node: NodeId, at: i64, sample: Sample) {
        let ahead_ms = sample.at_unix_ms.saturating_sub(at);
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, Latest { sample, ahead_ms });
    }
    /// The node is offline: its figures are no longer live.
    pub fn forget(&self, node: NodeId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }
    /// Figures of a node, while there are any.
    pub fn node(&self, node: NodeId) -> Option<NodeFigures> {
        self.with(|all| all.get(&node).map(|s| s.sample.node.clone()))
    }
    /// How many containers run there, while it is known.
    pub fn running_containers(&self, node: NodeId) -> Option<usize> {
        self.with(|all| all.get(&node).map(|s| s.sample.containers.len()))
    }
    /// Figures of a container, while there are any.
    pub fn container(&self, node: NodeId, vmid: u32) -> Option<ContainerFigures> {
        self.with(|all| all.get(&node).and_then(|s| s.sample.containers.get(&vmid).cloned()))
    }
    /// By how much each node's clock is ahead of ours, milliseconds, while there are figures.
    pub fn clocks(&self) -> Vec<(NodeId, i64)> {
        self.with(|all| all.iter().map(|(node, latest)| (*node, latest.ahead_ms)).collect())
    }
}
