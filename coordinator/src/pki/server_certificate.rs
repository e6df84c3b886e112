//! The coordinator's own certificate. Its key is made at each start and stays in memory: what is not stored cannot be stolen from a backup.

use super::{Pki, PkiError, rotation::Standing};
use crate::clock::{SharedClock, UnixMs};
use proximity_protocol::roots::Pin;
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
    /// The root that has signed it.
    pin: Pin,
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

    /// The chain that the next handshake shows.
    #[cfg(test)]
    pub(super) fn shown(&self) -> Vec<CertificateDer<'static>> {
        self.current().cert.clone()
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let now = self.clock.now_ms();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.renew_at || now < current.not_before || current.pin != self.pki.ca_pin() {
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
    let authorities = pki.current();
    let (held, authority) = authorities.signing();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let issued = authority.issue_server(&key, now)?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private)?;
    let mut chain = vec![CertificateDer::from(issued.der)];
    // For a node that knows an older root only: the way from there to the one that signs, newest first.
    chain.extend(authorities.held.iter().rev().filter_map(|held| held.cross.clone()));
    // For one that has nothing but the pin in its join token: the roots that a token may pin.
    let pinned = [Standing::Signing, Standing::Outgoing];
    let pinned = authorities.held.iter().filter(|held| pinned.contains(&held.standing));
    chain.extend(pinned.map(|held| held.root.certificate.clone()));
    Ok(Current {
        key: Arc::new(CertifiedKey::new(chain, signer)),
        pin: held.root.pin,
        not_before: issued.not_before,
        renew_at: now.saturating_add((issued.not_after - now) / 3 * 2),
    })
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}
