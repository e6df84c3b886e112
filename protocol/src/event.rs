//! What is said on the control stream after Welcome.

use crate::{
    enroll::Grant,
    ids::{OperationId, StepKey, Vmid},
    observed::{Inventory, NodeFacts},
    renew::RenewRefusal,
    roots::{Pin, Roots},
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
    /// Asks for the next certificate of this node; only after [`Notice::MayRenew`].
    Renew {
        /// PKCS#10, DER, of a key that the node has just made; only its public key is taken.
        csr_der: Vec<u8>,
    },
    /// These roots are trusted here and on the disk; the answer to [`Notice::Roots`].
    RootsStored {
        /// Each of them.
        pins: Vec<Pin>,
    },
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
    /// This coordinator takes [`Event::Renew`]; among the notices of Welcome, to agents that name [`crate::renew::CAPABILITY`].
    MayRenew,
    /// The answer to [`Event::Renew`]; the same again if it was lost and the key is the same.
    Renewed(Box<Grant>),
    /// There is no new certificate; the one that is in use stays good.
    NotRenewed(RenewRefusal),
    /// The coordinator's roots; to agents that name [`crate::roots::CAPABILITY`].
    Roots(Box<Roots>),
    /// Ask for the next certificate now, whatever the dates say: the key is known to somebody else. To the same agents.
    RenewNow,
}
