//! The latest inventory of each connected node: the link writes, reservations and reconciliation read. In memory only: an agent sends it after each Welcome.

use crate::clock::UnixMs;
use proximity_protocol::{ids::NodeId, observed::Inventory};
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::sync::broadcast;

type Latest = HashMap<NodeId, (UnixMs, Arc<Inventory>)>;

/// Shared by the link and the rooms that read.
#[derive(Debug, Clone)]
pub struct Inventories {
    latest: Arc<RwLock<Latest>>,
    arrived: broadcast::Sender<NodeId>,
}

impl Default for Inventories {
    fn default() -> Self {
        Self {
            latest: Arc::default(),
            arrived: broadcast::channel(1024).0,
        }
    }
}

impl Inventories {
    /// An inventory arrived at `at` (coordinator's time).
    pub fn put(&self, node: NodeId, at: UnixMs, inventory: Inventory) {
        self.latest
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node, (at, Arc::new(inventory)));
        // Nobody listening is no error.
        let _ = self.arrived.send(node);
    }

    /// The node is revoked: what it told is worth nothing. A node that is only offline keeps its last one.
    pub fn forget(&self, node: NodeId) {
        self.latest
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&node);
    }

    /// The latest of a node, and when it came.
    pub fn get(&self, node: NodeId) -> Option<(UnixMs, Arc<Inventory>)> {
        self.latest
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&node)
            .cloned()
    }

    /// Which node sent one, from now on.
    pub fn arrivals(&self) -> broadcast::Receiver<NodeId> {
        self.arrived.subscribe()
    }
}
