//! The one exchange open to a peer without a certificate. The agent speaks first, and only after it has checked the pin of the join token.

use crate::{
    ids::{JoinTokenId, NodeId},
    observed::NodeFacts,
    secret::Secret256,
};
use serde::{Deserialize, Serialize};

/// Asks for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// Which token.
    pub token: JoinTokenId,
    /// Its secret.
    pub secret: Secret256,
    /// PKCS#10, DER; only its public key is taken.
    pub csr_der: Vec<u8>,
    /// What the node is.
    pub facts: NodeFacts,
    /// The operator says that this machine takes the record of the node of the same name over.
    pub take_over: bool,
}

/// The coordinator's answer. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrollReply {
    /// A certificate; the same again if the reply was lost and the key is the same.
    Granted(Grant),
    /// None, and nothing was written but the audit.
    Refused(EnrollRefusal),
}

/// What the agent keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its identity.
    pub node: NodeId,
    /// Its certificate, DER.
    pub certificate_der: Vec<u8>,
    /// The CA's certificate, DER; its public key is the one that the token pins.
    pub ca_der: Vec<u8>,
    /// Until when it is valid, seconds since 1970.
    pub not_after_unix_s: i64,
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct EnrollRefusal {
    /// For the exit code.
    pub reason: RefusalReason,
    /// One sentence that says what to do.
    pub message: String,
}

/// Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RefusalReason {
    /// No such token, or its secret is wrong.
    UnknownToken,
    /// Its time is over.
    Expired,
    /// Another key has redeemed it.
    Spent,
    /// It was taken back.
    Revoked,
    /// It is for another node name.
    WrongNodeName,
    /// It is for another host (cluster).
    WrongHost,
    /// It may not be used from this address.
    WrongAddress,
    /// A node of this name is enrolled; say `--take-over` if this machine replaces it.
    NameTaken,
    /// The request itself is not valid.
    Malformed,
    /// Too many tries from this address; wait.
    RateLimited,
    /// A fault of the coordinator; its log says more.
    Internal,
}
