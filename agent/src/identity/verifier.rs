//! Judges the coordinator's certificate while there is nothing to trust but the pin in the join token.
//!
//! The chain that the peer shows must hold a CA whose public key is the pinned one, and the peer's own certificate must come from that CA, or from one whose
//! key that CA has signed (the root that follows it), be valid now and bear the coordinator's name. System roots are never asked. Only for the question what
//! time it is there are the dates left out, since it is those that a wrong clock gets wrong.

use super::{judge::Dates, public_key_fingerprint};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a peer was turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No certificate of its chain is a CA with the pinned key.
    WrongPin,
    /// The pinned CA is there, the peer's own certificate is not good.
    BadCertificate(String),
    /// It is good but for its dates: from when to when it is valid.
    Dates(Dates),
}

/// A verifier for one token. It remembers why it turned a peer away, since TLS tells only that it did.
#[derive(Debug)]
pub(crate) struct PinVerifier {
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
    any_date: bool,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    rejection: Option<Rejection>,
    dates: Option<Dates>,
}

impl PinVerifier {
    pub(crate) fn new(pin: [u8; 32], provider: Arc<CryptoProvider>) -> Self {
        Self {
            pins: vec![pin],
            provider,
            any_date: false,
            seen: Mutex::default(),
        }
    }

    /// One that takes any of several pins, and does not judge the dates: nothing secret may be said on such a connection.
    pub(crate) fn of_any_date(pins: Vec<[u8; 32]>, provider: Arc<CryptoProvider>) -> Self {
        Self {
            pins,
            provider,
            any_date: true,
            seen: Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no code panics while it holds this")
    }

    /// The dates of the last certificate that came from the pinned CA.
    pub(crate) fn dates(&self) -> Option<Dates> {
        self.seen().dates
    }

    /// Why the last peer was turned away, if one was.
    pub(crate) fn take_rejection(&self) -> Option<Rejection> {
        self.seen().rejection.take()
    }

    fn reject(&self, why: Rejection, error: Error) -> Error {
        self.seen().rejection = Some(why);
        error
    }

    fn is_pinned_ca(&self, certificate: &CertificateDer<'_>) -> bool {
        public_key_fingerprint(certificate).is_some_and(|print| self.pins.contains(&print))
            && X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| certificate.is_ca())
    }
}

/// `now`, or the nearest second at which the certificate is valid.
fn clamp(now: UnixTime, dates: Dates) -> UnixTime {
    let seconds = |at: OffsetDateTime| u64::try_from(at.unix_timestamp()).unwrap_or(0);
    let (from, until) = (seconds(dates.not_before), seconds(dates.not_after));
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().min(until).max(from)))
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(ca) = intermediates.iter().find(|certificate| self.is_pinned_ca(certificate)) else {
            return Err(self.reject(
                Rejection::WrongPin,
                Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
            ));
        };
        let bad = |error: Error| self.reject(Rejection::BadCertificate(error.to_string()), error);
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned()).map_err(bad)?;
        let dates = Dates::of(end_entity);
        self.seen().dates = dates;
        // The moment at which everything but the dates is judged.
        let within = dates.map_or(now, |dates| clamp(now, dates));
        let verify = |at| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .build()
                .map_err(|error| Error::General(error.to_string()))
                .and_then(|verifier| {
                    verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at)
                })
        };
        let verified = verify(within).map_err(bad)?;
        match dates {
            Some(dates) if within != now && !self.any_date => Err(self.reject(
                Rejection::Dates(dates),
                Error::InvalidCertificate(if within > now {
                    CertificateError::NotValidYet
                } else {
                    CertificateError::Expired
                }),
            )),
            _ => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::COORDINATOR_TLS_NAME;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    fn ca() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(ca: &CertifiedIssuer<'static, KeyPair>, name: &str, from_day: i64, to_day: i64) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = time::OffsetDateTime::now_utc() + time::Duration::days(from_day);
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(to_day);
        params
            .signed_by(&KeyPair::generate().unwrap(), ca)
            .unwrap()
            .der()
            .clone()
    }

    fn judge(
        pin_of: &CertificateDer<'_>,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
    ) -> Option<Rejection> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = PinVerifier::new(public_key_fingerprint(pin_of).unwrap(), provider);
        let name = ServerName::try_from(COORDINATOR_TLS_NAME).unwrap();
        let result = verifier.verify_server_cert(leaf, chain, &name, &[], UnixTime::now());
        let rejection = verifier.take_rejection();
        assert_eq!(result.is_ok(), rejection.is_none(), "{result:?} {rejection:?}");
        rejection
    }

    #[test]
    fn only_the_pinned_ca_and_a_good_certificate_below_it_pass() {
        let (ours, theirs) = (ca(), ca());
        let (our_ca, their_ca) = (ours.der().clone(), theirs.der().clone());
        let shown = [our_ca.clone()];
        let good = leaf(&ours, COORDINATOR_TLS_NAME, -1, 30);
        assert_eq!(judge(&our_ca, &good, &shown), None);
        assert_eq!(judge(&our_ca, &good, &[their_ca.clone(), our_ca.clone()]), None);

        assert_eq!(judge(&their_ca, &good, &shown), Some(Rejection::WrongPin));
        assert_eq!(
            judge(&our_ca, &good, &[]),
            Some(Rejection::WrongPin),
            "a chain without the CA"
        );
        let bad = |rejection| assert!(matches!(rejection, Some(Rejection::BadCertificate(_))), "{rejection:?}");
        // Whoever saw the CA's certificate can show it, but not sign with it.
        bad(judge(
            &our_ca,
            &leaf(&theirs, COORDINATOR_TLS_NAME, -1, 30),
            &[our_ca.clone(), their_ca],
        ));
        bad(judge(&our_ca, &leaf(&ours, "elsewhere.example", -1, 30), &shown));
        for (from_day, to_day) in [(-30, -1), (1, 30)] {
            let elsewhen = leaf(&ours, COORDINATOR_TLS_NAME, from_day, to_day);
            let rejection = judge(&our_ca, &elsewhen, &shown);
            assert!(matches!(rejection, Some(Rejection::Dates(..))), "{rejection:?}");
        }
        bad(judge(&our_ca, &leaf(&ours, "elsewhere.example", 1, 30), &shown));
    }

    #[test]
    fn of_any_date_is_good_in_all_but_its_dates() {
        let (ours, theirs) = (ca(), ca());
        let our_ca = ours.der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = PinVerifier::of_any_date(vec![public_key_fingerprint(&our_ca).unwrap()], provider);
        let verify = |leaf: &CertificateDer<'_>, name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(leaf, std::slice::from_ref(&our_ca), &name, &[], UnixTime::now())
        };
        for (from_day, to_day) in [(-30, -1), (-1, 30), (1, 30)] {
            let leaf = leaf(&ours, COORDINATOR_TLS_NAME, from_day, to_day);
            verify(&leaf, COORDINATOR_TLS_NAME).unwrap();
            assert!(verifier.dates().is_some());
            verify(&leaf, "elsewhere.example").unwrap_err();
        }
        verify(&leaf(&theirs, COORDINATOR_TLS_NAME, 1, 30), COORDINATOR_TLS_NAME).unwrap_err();
    }

    #[test]
    fn a_leaf_with_the_pinned_key_is_no_ca() {
        let issuer = ca();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![COORDINATOR_TLS_NAME.to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        assert_eq!(
            judge(&leaf, &leaf, std::slice::from_ref(&leaf)),
            Some(Rejection::WrongPin)
        );
    }
}
