//! The latest figures of nodes and containers. In memory only: they are measured again every second.

use proximity_protocol::{
    ids::NodeId,
    metrics::{ContainerFigures, NodeFigures, Sample},
};
use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

/// Shared by the link (which writes) and the services (which read).
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<RwLock<HashMap<NodeId, Sample>>>);

impl Live {
    fn with<T>(&self, read: impl FnOnce(&HashMap<NodeId, Sample>) -> T) -> T {
        read(&self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
    /// A sample arrived.
    pub fn put(&self, node: NodeId, sample: Sample) {
        self.0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(node, sample);
    }
    /// The node is offline: its figures are no longer live.
    pub fn forget(&self, node: NodeId) {
        self.0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&node);
    }
    /// Figures of a node, while there are any.
    pub fn node(&self, node: NodeId) -> Option<NodeFigures> {
        self.with(|all| all.get(&node).map(|s| s.node.clone()))
    }
    /// How many containers run there, while it is known.
    pub fn running_containers(&self, node: NodeId) -> Option<usize> {
        self.with(|all| all.get(&node).map(|s| s.containers.len()))
    }
    /// Figures of a container, while there are any.
    pub fn container(&self, node: NodeId, vmid: u32) -> Option<ContainerFigures> {
        self.with(|all| all.get(&node).and_then(|s| s.containers.get(&vmid).cloned()))
    }
}
