//! What the coordinator grants, judged before it is stored.

use super::{JoinError, clock::unix_time, dial::provider, key, public_key_fingerprint};
use proximity_protocol::{enroll::Grant, roots::Pin};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Believes nothing of a grant that can be checked. `trusted`: the roots of which it may be. `now`: by which clock its dates are judged; a node that has an identity already judges them not, since
/// it is the coordinator's clock that a certificate of a node has to please.
pub(super) fn check(grant: &Grant, trusted: &[Pin], key: &[u8], now: Option<OffsetDateTime>) -> Result<(), JoinError> {
    let bad = |what: &str| JoinError::BadGrant(what.to_owned());
    if public_key_fingerprint(&grant.ca_der).is_none_or(|pin| !trusted.contains(&pin)) {
        return Err(bad("its CA is not the one that this node trusts"));
    }
    let (_, certificate) =
        X509Certificate::from_der(&grant.certificate_der).map_err(|_| bad("the certificate cannot be read"))?;
    if certificate.public_key().raw != key::public_half(key)? {
        return Err(bad("the certificate is for another key"));
    }
    let name = grant.node.to_string();
    let mut names = certificate.subject().iter_common_name();
    if names.next().and_then(|cn| cn.as_str().ok()) != Some(name.as_str()) || names.next().is_some() {
        return Err(bad("the certificate names another node"));
    }
    let judged_at = now.unwrap_or_else(|| certificate.validity().not_before.to_datetime());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(grant.ca_der.clone()))
        .map_err(|error| JoinError::BadGrant(error.to_string()))?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| JoinError::BadGrant(error.to_string()))?
        .verify_client_cert(
            &CertificateDer::from(grant.certificate_der.as_slice()),
            &[],
            unix_time(judged_at),
        )
        .map_err(|error| JoinError::BadGrant(error.to_string()))?;
    Ok(())
}
