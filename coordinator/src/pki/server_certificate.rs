//! The coordinator's own certificate. Its key is made at each start and stays in memory: what is not stored cannot be stolen from a backup.

use super::{Pki, PkiError};
use crate::clock::{SharedClock, UnixMs};
use rcgen::KeyPair;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

struct Current {
    key: Arc<CertifiedKey>,
    /// Before it the clock has been set back, and nodes would take the certificate for one of the future.
    not_before: UnixMs,
    renew_at: UnixMs,
}

/// Gives the certificate to each handshake, and makes a new one when a third of its time is left.
pub struct ServerCertificate {
    pki: Pki,
    clock: SharedClock,
    current: Mutex<Current>,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerCertificate(…)")
    }
}

impl ServerCertificate {
    pub(super) fn new(pki: Pki, clock: SharedClock) -> Result<Self, PkiError> {
        let current = Mutex::new(make(&pki, clock.now_ms())?);
        Ok(Self { pki, clock, current })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let now = self.clock.now_ms();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.renew_at || now < current.not_before {
            match make(&self.pki, now) {
                Ok(next) => *current = next,
                // The old one is usually good for another month: keep serving, and say it at each handshake.
                Err(error) => tracing::error!(%error, "the coordinator's certificate could not be renewed"),
            }
        }
        Arc::clone(&current.key)
    }
}

fn make(pki: &Pki, now: UnixMs) -> Result<Current, PkiError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let issued = pki.0.authority.issue_server(&key, now)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private)?;
    // The authority's certificate goes along: a node that enrols has only its pin.
    let chain = vec![CertificateDer::from(issued.der), pki.ca_der().clone()];
    Ok(Current {
        key: Arc::new(CertifiedKey::new(chain, signer)),
        not_before: issued.not_before,
        renew_at: now.saturating_add((issued.not_after - now) / 3 * 2),
    })
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}
