//! Who this agent is: its key, its certificate, the CA that it trusts, and where the coordinator answers.
//!
//! [`join()`] makes the key on the node, checks the pin of the join token before a secret leaves, and stores what it was granted in one file that
//! replaces the one before in a single rename. The key never leaves the node; only a request signed by it does.
//!
//! `dial` and `frames` are the ground that enrolment and the link share: a connection that proves who is at both ends, and messages on its streams.
//!
//! `keyring` holds the certificate of a running agent and the one that follows it, which the link asks for in time; `come_back` gets another one for a node
//! that was off for longer than its certificate. `clock` is the date that certificates go by, `their_clock` the coordinator's; `suspect` says which of two
//! clocks is wrong when dates do not fit. `scout` sees why nobody answers. `goodbye` tells the coordinator that this node leaves; what goes
//! and stays on the node then is decided elsewhere.
//!
//! `roots` decides which roots of the coordinator are trusted: a new one only if one that is trusted already has signed it.

pub mod clock;
pub(crate) mod come_back;
pub(crate) mod dial;
mod due;
mod enroll;
mod error;
mod files;
pub(crate) mod frames;
pub(crate) mod goodbye;
mod grant;
mod join;
mod judge;
mod key;
pub(crate) mod keyring;
pub(crate) mod probe;
pub(crate) mod roots;
mod scout;
mod suspect;
#[cfg(test)]
mod tests;
pub(crate) mod their_clock;
mod verifier;

pub use error::{IdentityError, JoinError};
pub use join::{Granted, JoinRequest, enrol, join};
pub use scout::Sight;
pub use their_clock::{ClocksDiffer, TheirTime};

pub(crate) use files::{lock_state_dir, prepare_state_dir, replace_private};

use files::Stored;
use proximity_protocol::{ids::NodeId, token::JoinToken};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use std::path::Path;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Looks whether the coordinator of the token answers at one of its addresses, and whether its clock and ours agree. No secret is sent.
pub async fn reach(token: &JoinToken) -> Result<(), JoinError> {
    enroll::reach(token).await
}

/// What an enrolled agent has.
pub struct Identity {
    /// Who it is.
    pub node: NodeId,
    /// Where the coordinator answers, `host:port`.
    pub addresses: Vec<String>,
    /// From when its certificate is valid.
    pub not_before: OffsetDateTime,
    /// Until when.
    pub not_after: OffsetDateTime,
    /// SHA-256 of the public key of the root that has issued its certificate.
    pub ca_fingerprint: [u8; 32],
    /// Which coordinator it has joined, whatever root that one has now: the fingerprint of the root that the join token pinned, hexadecimal.
    pub coordinator: String,
    certificate: CertificateDer<'static>,
    roots: Vec<CertificateDer<'static>>,
    key: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// Reads the identity below `state_dir`; `None` if this machine has not joined.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(stored) = files::load(state_dir)? else {
            return Ok(None);
        };
        let damaged = |message: String| IdentityError::Damaged {
            path: files::identity_path(state_dir),
            message,
        };
        Self::of(stored).map(Some).map_err(damaged)
    }

    fn of(stored: Stored) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(&stored.certificate).map_err(|error| format!("the certificate: {error}"))?;
        let validity = certificate.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Ok(Self {
            node: stored.node,
            addresses: stored.addresses,
            not_before,
            not_after,
            ca_fingerprint: public_key_fingerprint(&stored.ca).ok_or("the CA's certificate cannot be read")?,
            coordinator: stored.coordinator,
            certificate: CertificateDer::from(stored.certificate),
            roots: stored.roots.into_iter().map(CertificateDer::from).collect(),
            key: stored.key,
        })
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// Every root that it trusts.
    pub(crate) fn roots(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        self.roots.iter().cloned()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
pub(crate) fn public_key_fingerprint(certificate: &[u8]) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(certificate.public_key().raw).into())
}
