//! A node's goodbye, over a connection of enrolment: its operator has told it to leave. It proves its key as in a return, so that it works with an expired
//! certificate too. A coordinator that does not know it hangs up with [`crate::close::PROTOCOL`].

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};

/// Label of the keying material (RFC 5705) that a [`LeaveRequest`] signs; of another label than a return, so that neither can be taken for the other.
pub const LEAVE_LABEL: &[u8] = b"EXPORTER-proximity-leave";

/// Says that the node leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// PKCS#10, DER, of the enrolled key; only its public key is taken.
    pub csr_der: Vec<u8>,
    /// Signature by the enrolled key over the keying material of this very connection.
    pub proof: Vec<u8>,
}

/// The coordinator's answer. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaveReply {
    /// The node's certificates are worth nothing from now on; the same if they were not before.
    Left {
        /// Which node it was.
        node: NodeId,
        /// Apps that the registry counts on it still.
        apps: u32,
    },
    /// It could not be written down.
    Refused(LeaveRefusal),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct LeaveRefusal {
    /// What the agent goes by.
    pub reason: LeaveRefusalReason,
    /// One sentence that says what to do.
    pub message: String,
}

/// Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LeaveRefusalReason {
    /// The request itself is not valid, or does not prove its key.
    Malformed,
    /// No node was ever given a certificate for that key.
    UnknownKey,
    /// Too many tries from this address; wait.
    RateLimited,
    /// A fault of the coordinator; its log says more.
    Internal,
}
