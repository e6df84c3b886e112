//! Certificates for life: how a node gets its next certificate.
//!
//! Over the link, in time. The agent's Hello names [`CAPABILITY`]; a coordinator that renews answers with `Notice::MayRenew` among the notices of its Welcome.
//! Only then does the agent send `Event::Renew`, and only then may the coordinator send the other notices of renewal. Neither sends to a peer of an older
//! version what that peer does not know.
//!
//! After its certificate has expired, over a connection of enrolment: [`ReturnRequest`] in place of `EnrollRequest`. A coordinator that does not know it
//! hangs up with [`crate::close::PROTOCOL`].

use crate::{enroll::Grant, roots::Roots};
use serde::{Deserialize, Serialize};

/// What an agent that can renew names in its Hello.
pub const CAPABILITY: &str = "renew";
/// Label of the keying material (RFC 5705) that a [`ReturnRequest`] signs.
pub const RETURN_LABEL: &[u8] = b"EXPORTER-proximity-return";
/// Bytes of that keying material.
pub const RETURN_CHALLENGE_LEN: usize = 32;

/// Asks for a certificate for a key that is enrolled already and whose certificate has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnRequest {
    /// PKCS#10, DER, of the enrolled key; only its public key is taken.
    pub csr_der: Vec<u8>,
    /// Signature by the enrolled key over the keying material of this very connection, so that no request can be used on another.
    pub proof: Vec<u8>,
}

/// The coordinator's answer. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReturnReply {
    /// A certificate for the same key; the same again while it is fresh.
    Granted(Grant),
    /// None.
    Refused(RenewRefusal),
    /// The same as `Granted`, and the roots with the way to the one that has signed it; only over [`crate::ALPN_ENROLL_2`].
    Followed {
        /// The certificate.
        grant: Box<Grant>,
        /// What the node is to trust from now on.
        roots: Box<Roots>,
    },
}

/// Why there is no next certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct RenewRefusal {
    /// What the agent goes by.
    pub reason: RenewRefusalReason,
    /// One sentence that says what to do.
    pub message: String,
}

/// Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RenewRefusalReason {
    /// By the coordinator's clock more than half of the certificate's time is left.
    NotDue,
    /// The request itself is not valid, or does not prove its key.
    Malformed,
    /// The node is revoked, or the key has been superseded.
    Revoked,
    /// No node was ever given a certificate for that key.
    UnknownKey,
    /// Too many tries from this address; wait.
    RateLimited,
    /// A fault of the coordinator; its log says more.
    Internal,
}
