//! Keys and certificates: the coordinator's own certificate authority, the certificates that it gives to nodes, and the keys that it keeps.
//!
//! Everything lies below the state folder, each secret in a file of its own with mode 0600, made at first start and never overwritten:
//!
//! | file | what |
//! |---|---|
//! | `ca/ca.key`, `ca/ca.pem` | the authority; join tokens pin its public key |
//! | `ca/join.key` | keys the hashes of join secrets |
//! | `ca/reset.key` | stateless resets of QUIC: agents notice a restart at once |
//! | `ca/retry.key` | address tokens of QUIC |
//!
//! The coordinator's TLS key is not here: it is made anew at each start and lives in memory only. Nothing here knows the registry or a socket.

mod authority;
mod file;
mod request;
mod server_certificate;

pub use authority::{Issued, NODE_VALIDITY_MS};
pub use request::{NodeKey, RequestError};
pub use server_certificate::ServerCertificate;

use crate::clock::{SharedClock, UnixMs};
use authority::Authority;
use aws_lc_rs::hmac;
use file::KeyFile;
use proximity_protocol::{ids::NodeId, secret::Secret256};
use rustls_pki_types::CertificateDer;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// Why keys or certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the state folder.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read`, `write`, `make`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key that others can read is not a secret.
    #[error("{0} can be read by others: run `chmod 600` on it, and make new keys if somebody may have read it")]
    Exposed(PathBuf),
    /// A file holds something else.
    #[error("{path} is damaged ({detail}): restore it from your backup; the coordinator does not overwrite it")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// One of two files that belong together.
    #[error(
        "{missing} is missing beside {present}: restore it from your backup; a new one would lock out every enrolled node"
    )]
    Incomplete {
        /// Which is there.
        present: PathBuf,
        /// Which is not.
        missing: PathBuf,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The time is outside what a certificate can say.
    #[error("the coordinator's clock says {0} ms since 1970, which no certificate can hold: set the clock")]
    Clock(UnixMs),
    /// A signing key could not be loaded.
    #[error("cannot use the coordinator's TLS key: {0}")]
    Tls(#[from] rustls::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

struct Inner {
    authority: Authority,
    join: hmac::Key,
    reset: Zeroizing<[u8; 32]>,
    retry: Zeroizing<[u8; 32]>,
}

/// The coordinator's keys. Cheap to clone.
#[derive(Clone)]
pub struct Pki(Arc<Inner>);

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pki(…)")
    }
}

impl Pki {
    /// Reads the keys below `state`, and makes those that have never been there. Two processes that start at once end with the same keys.
    pub fn open(state: &Path, now: UnixMs) -> Result<Self, PkiError> {
        let folder = state.join("ca");
        file::ensure_folder(&folder)?;
        let authority = Authority::open(&folder, now)?;
        let key = |name: &str| KeyFile::new(folder.join(name)).random();
        Ok(Self(Arc::new(Inner {
            authority,
            join: hmac::Key::new(hmac::HMAC_SHA256, key("join.key")?.as_slice()),
            reset: key("reset.key")?,
            retry: key("retry.key")?,
        })))
    }

    /// The authority's certificate.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        self.0.authority.certificate()
    }

    /// SHA-256 of the authority's public key (SubjectPublicKeyInfo): what join tokens pin.
    pub fn ca_pin(&self) -> [u8; 32] {
        self.0.authority.pin()
    }

    /// A certificate for a node, valid from now for [`NODE_VALIDITY_MS`]. Name, usage, serial and dates are ours; from the request comes the key alone.
    pub fn issue(&self, node: NodeId, key: &NodeKey, now: UnixMs) -> Result<Issued, PkiError> {
        self.0.authority.issue(node, key, now)
    }

    /// The coordinator's own certificate, renewed in time while it runs.
    pub fn server_certificate(&self, clock: SharedClock) -> Result<ServerCertificate, PkiError> {
        ServerCertificate::new(self.clone(), clock)
    }

    /// What the registry keeps of a join secret.
    pub fn hash_join_secret(&self, secret: &Secret256) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.0.join, secret.expose()).as_ref());
        hash
    }

    /// Compares in a time that does not depend on where they differ.
    pub fn join_secret_matches(&self, secret: &Secret256, hash: &[u8]) -> bool {
        hmac::verify(&self.0.join, secret.expose(), hash).is_ok()
    }

    /// Key of QUIC's stateless resets.
    pub fn reset_key(&self) -> &[u8; 32] {
        &self.0.reset
    }

    /// Key of QUIC's address tokens.
    pub fn retry_key(&self) -> &[u8; 32] {
        &self.0.retry
    }
}

/// Bytes from the system's cryptographic source.
pub fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
