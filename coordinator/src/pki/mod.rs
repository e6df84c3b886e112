//! Keys and certificates: the coordinator's own certificate authority, the certificates that it gives to nodes, and the keys that it keeps.
//!
//! Everything lies below the state folder, each secret in a file of its own with mode 0600, made at first start and never overwritten:
//!
//! | file | what |
//! |---|---|
//! | `ca/ca.key`, `ca/ca.pem` | the first root; join tokens pin its public key |
//! | `ca/ca-2.key`, `ca/ca-2.pem`, `ca/ca-2.cross.pem`, … | the roots that followed it, each with its key signed by the one before |
//! | `ca/roots.json` | which root is good for what, and how far a rotation is ([`rotation`]); not there before the first |
//! | `ca/join.key` | keys the hashes of join secrets |
//! | `ca/reset.key` | stateless resets of QUIC: agents notice a restart at once |
//! | `ca/retry.key` | address tokens of QUIC |
//!
//! The coordinator's TLS key is not here: it is made anew at each start and lives in memory only. Nothing here knows the registry or a socket.
//!
//! The command line takes steps of a rotation on these files while `serve` runs; [`Pki::look_again`] notices, and [`Pki::changes`] tells who has to know: the
//! certificate that is shown, the roots that are taken ([`ClientRoots`]), the agents.

mod authority;
mod backup;
mod client_roots;
mod file;
mod folder;
mod request;
pub mod rotation;
mod server_certificate;

pub use authority::{Issued, NODE_VALIDITY_MS, Root};
pub use backup::{BackupError, Lock, Saved, restore};
pub use client_roots::ClientRoots;
pub use request::{NodeKey, RequestError};
pub use server_certificate::ServerCertificate;

use crate::clock::{SharedClock, UnixMs};
use aws_lc_rs::hmac;
use file::KeyFile;
use folder::{Authorities, Folder};
use proximity_protocol::{
    ids::NodeId,
    roots::{Pin, Roots},
    secret::Secret256,
};
use rotation::{Plan, Standing, StepError, Terms};
use rustls_pki_types::CertificateDer;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Why keys or certificates cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the state folder.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read`, `write`, `make`, …
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
    /// A root could not be used to judge certificates.
    #[error("cannot judge certificates by the authority's roots: {0}")]
    Judge(String),
    /// A step of a rotation that cannot be taken now.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

struct Inner {
    folder: Folder,
    current: RwLock<Arc<Authorities>>,
    /// The text of the plan that `current` was read with.
    seen: Mutex<Option<Vec<u8>>>,
    changed: watch::Sender<()>,
    join: hmac::Key,
    reset: Zeroizing<[u8; 32]>,
    retry: Zeroizing<[u8; 32]>,
}

/// A root as [`Pki::roots`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootView {
    /// Its certificate.
    pub root: Root,
    /// What it is good for.
    pub standing: Standing,
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
        let folder = Folder::new(state.join("ca"));
        file::ensure_folder(folder.path())?;
        folder.ensure_first(now)?;
        let text = folder.plan_text()?;
        let authorities = folder.read(text.as_deref())?;
        let key = |name: &str| KeyFile::new(folder.path().join(name)).random();
        Ok(Self(Arc::new(Inner {
            join: hmac::Key::new(hmac::HMAC_SHA256, key("join.key")?.as_slice()),
            reset: key("reset.key")?,
            retry: key("retry.key")?,
            current: RwLock::new(Arc::new(authorities)),
            seen: Mutex::new(text),
            changed: watch::Sender::new(()),
            folder,
        })))
    }

    /// Whether there is an authority below `state`; [`Pki::open`] would make one.
    pub fn is_there(state: &Path) -> bool {
        state.join("ca/ca.pem").exists() || state.join("ca/roots.json").exists()
    }

    fn current(&self) -> Arc<Authorities> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The certificate of the root that signs.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.current().signing().0.root.certificate.clone()
    }

    /// SHA-256 of that root's public key (SubjectPublicKeyInfo): what new join tokens pin.
    pub fn ca_pin(&self) -> Pin {
        self.current().signing().0.root.pin
    }

    /// Every root that has ever signed, oldest first, and the one that is to.
    pub fn roots(&self) -> Vec<RootView> {
        let view = |held: &folder::Held| RootView {
            root: held.root.clone(),
            standing: held.standing,
        };
        self.current().held.iter().map(view).collect()
    }

    /// How far a rotation is.
    pub fn plan(&self) -> Plan {
        self.current().plan.clone()
    }

    /// What agents are told of the roots.
    pub fn told(&self) -> Roots {
        self.current().told()
    }

    /// The root that has issued that certificate, and what it is good for.
    pub fn issuer(&self, certificate: &[u8]) -> Option<RootView> {
        self.current().issuer(certificate).map(|held| RootView {
            root: held.root.clone(),
            standing: held.standing,
        })
    }

    /// The certificate of the root with that pin.
    pub fn root_der(&self, pin: &Pin) -> Option<CertificateDer<'static>> {
        self.current().by_pin(pin).map(|held| held.root.certificate.clone())
    }

    /// A certificate for a node, valid from now for [`NODE_VALIDITY_MS`], by the root that signs. Name, usage, serial and dates are ours; from the request
    /// comes the key alone.
    pub fn issue(&self, node: NodeId, key: &NodeKey, now: UnixMs) -> Result<Issued, PkiError> {
        self.current().signing().1.issue(node, key, now)
    }

    /// The same by another root, for an agent that cannot follow to the newest; `None` if that one is not trusted or its key is gone.
    pub fn issue_under(
        &self,
        root: &Pin,
        node: NodeId,
        key: &NodeKey,
        now: UnixMs,
    ) -> Result<Option<Issued>, PkiError> {
        let current = self.current();
        let held = current.by_pin(root).filter(|held| held.standing != Standing::Past);
        let authority = held.and_then(|held| held.authority.as_ref());
        authority.map(|authority| authority.issue(node, key, now)).transpose()
    }

    /// The coordinator's own certificate, renewed in time and with the root that signs while it runs.
    pub fn server_certificate(&self, clock: SharedClock) -> Result<ServerCertificate, PkiError> {
        ServerCertificate::new(self.clone(), clock)
    }

    /// Judges the certificates of nodes, by the roots that are trusted at that moment.
    pub fn client_roots(&self) -> Result<ClientRoots, PkiError> {
        ClientRoots::new(self.clone())
    }

    /// Reads the folder again if a step was taken by another process; answers whether one was. What was read before stays in use if the folder cannot be read.
    pub fn look_again(&self) -> Result<bool, PkiError> {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let text = self.0.folder.plan_text()?;
        if *seen == text {
            return Ok(false);
        }
        let fresh = self.0.folder.read(text.as_deref())?;
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        *seen = text;
        drop(seen);
        self.0.changed.send_replace(());
        Ok(true)
    }

    /// Tells when the roots or what they are good for have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Makes the next root, whose key the present one signs, and announces it.
    pub fn announce(&self, now: UnixMs, terms: Terms) -> Result<(), PkiError> {
        self.0.folder.announce(now, terms)?;
        self.look_again().map(drop)
    }

    /// The new root signs from now on; the old one stays trusted.
    pub fn switch(&self, now: UnixMs) -> Result<(), PkiError> {
        self.0.folder.switch(now)?;
        self.look_again().map(drop)
    }

    /// The old root is trusted no more; its key is destroyed.
    pub fn retire(&self) -> Result<(), PkiError> {
        self.0.folder.retire()?;
        self.look_again().map(drop)
    }

    /// The new root, which has signed nothing yet, is forgotten.
    pub fn call_off(&self) -> Result<(), PkiError> {
        self.0.folder.call_off()?;
        self.look_again().map(drop)
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
