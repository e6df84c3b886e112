//! Judges the certificates of nodes by whichever roots are trusted at that moment: a rotation changes them while the listener runs.

use super::{Pki, PkiError, folder::Authorities};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

struct Judge {
    /// Whose roots it has.
    of: Arc<Authorities>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// A certificate is asked for and not demanded; one that comes must be of a root that is trusted.
pub struct ClientRoots {
    pki: Pki,
    provider: Arc<CryptoProvider>,
    judge: Mutex<Judge>,
}

impl fmt::Debug for ClientRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientRoots(…)")
    }
}

fn judge(of: Arc<Authorities>, provider: &Arc<CryptoProvider>) -> Result<Judge, PkiError> {
    let mut roots = RootCertStore::empty();
    for held in of.trusted() {
        roots.add(held.root.certificate.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| PkiError::Judge(error.to_string()))?;
    Ok(Judge { of, verifier })
}

impl ClientRoots {
    pub(super) fn new(pki: Pki) -> Result<Self, PkiError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let judge = Mutex::new(judge(pki.current(), &provider)?);
        Ok(Self { pki, provider, judge })
    }

    fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, Error> {
        let current = self.pki.current();
        let mut held = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&held.of, &current) {
            // With the roots of before a root that is trusted no more would still let nodes in.
            *held = judge(current, &self.provider).map_err(|error| {
                tracing::error!(%error, "no agent is let in");
                Error::General(error.to_string())
            })?;
        }
        Ok(Arc::clone(&held.verifier))
    }
}

impl ClientCertVerifier for ClientRoots {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Without a hint a client shows what it has.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verifier()?.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier()?.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
