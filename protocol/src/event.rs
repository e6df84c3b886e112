//! What is said on the control stream after Welcome.

use crate::{
    ids::{OperationId, StepKey, Vmid},
    observed::{Inventory, NodeFacts},
};
use serde::{Deserialize, Serialize};

/// From the agent. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The node's facts changed.
    Facts(Box<NodeFacts>),
    /// What is on the node; after Welcome and when it changed.
    Inventory(Box<Inventory>),
    /// Published ports had been removed by another tool and were set again.
    PublishedRepaired {
        /// How many entries.
        count: u32,
    },
    /// A container of ours changed its state without us.
    ContainerChanged {
        /// Which.
        vmid: Vmid,
    },
    /// The agent stops in good order.
    Stopping,
}

/// From the coordinator. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The result is committed: the agent may drop it from its journal.
    Committed {
        /// The operation.
        operation: OperationId,
        /// The act; `None` means every act of the operation.
        step: Option<StepKey>,
    },
    /// Send fresh facts and an inventory now.
    Refresh,
    /// Stop the job when that is safe.
    Cancel {
        /// The operation.
        operation: OperationId,
    },
}
