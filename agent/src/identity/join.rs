//! Joining, from a token to a stored identity.

use super::{
    Identity, JoinError, enroll,
    files::{self, Pending, Stored},
    key, public_key_fingerprint,
};
use proximity_protocol::{
    enroll::{EnrollRequest, Grant, RefusalReason},
    observed::NodeFacts,
    token::JoinToken,
};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{path::Path, sync::Arc};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// What joining needs.
#[derive(Debug)]
pub struct JoinRequest<'a> {
    /// The agent's state folder; made if it is missing.
    pub state_dir: &'a Path,
    /// The operator's token.
    pub token: &'a JoinToken,
    /// What the node is.
    pub facts: NodeFacts,
    /// This machine takes the record of the node of the same name over; also replaces an identity that is stored here.
    pub take_over: bool,
    /// Replace an identity that is stored here.
    pub replace: bool,
}

/// Joins: makes a key, asks for a certificate, stores the identity. On an error the identity that was there before is untouched. If the answer was lost,
/// the same token may be used again: the key is kept for that.
pub async fn join(request: JoinRequest<'_>) -> Result<Identity, JoinError> {
    let JoinRequest {
        state_dir,
        token,
        facts,
        take_over,
        replace,
    } = request;
    if !take_over
        && !replace
        && let Some(stored) = files::load(state_dir)?
    {
        return Err(JoinError::AlreadyJoined(stored.node));
    }
    files::prepare_state_dir(state_dir)?;
    let key = key_for(state_dir, token)?;
    let ask = EnrollRequest {
        token: token.id,
        secret: token.secret.clone(),
        csr_der: key::request(&key)?,
        facts,
        take_over,
    };
    let grant = match enroll::ask(token, &ask).await {
        Ok(grant) => grant,
        Err(error) => {
            if !may_be_granted_yet(&error) {
                files::remove_pending(state_dir)?;
            }
            return Err(error);
        }
    };
    let stored = check(grant, token, key)?;
    files::store(state_dir, &stored)?;
    files::remove_pending(state_dir)?;
    Identity::of(stored).map_err(JoinError::BadGrant)
}

/// The key of an earlier try with the same token, or a new one, on disk before it is used.
fn key_for(state_dir: &Path, token: &JoinToken) -> Result<Zeroizing<Vec<u8>>, JoinError> {
    if let Some(pending) = files::load_pending(state_dir)?
        && pending.token == token.id
    {
        return Ok(pending.key);
    }
    let key = key::generate()?;
    files::store_pending(
        state_dir,
        &Pending {
            token: token.id,
            key: key.clone(),
        },
    )?;
    Ok(key)
}

/// Whether a certificate for our key may exist, or may still be had with it.
fn may_be_granted_yet(error: &JoinError) -> bool {
    match error {
        JoinError::Refused(refusal) => {
            matches!(
                refusal.reason,
                RefusalReason::RateLimited | RefusalReason::Internal | RefusalReason::NameTaken
            )
        }
        _ => true,
    }
}

/// Believes nothing of a grant that can be checked.
fn check(grant: Grant, token: &JoinToken, key: Zeroizing<Vec<u8>>) -> Result<Stored, JoinError> {
    let bad = |what: &str| JoinError::BadGrant(what.to_owned());
    if public_key_fingerprint(&grant.ca_der) != Some(token.ca_pin) {
        return Err(bad("its CA is not the one that the token pins"));
    }
    let der = grant.certificate_der.clone();
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| bad("the certificate cannot be read"))?;
    if certificate.public_key().raw != key::public_half(&key)? {
        return Err(bad("the certificate is for another key"));
    }
    let name = grant.node.to_string();
    let mut names = certificate.subject().iter_common_name();
    if names.next().and_then(|cn| cn.as_str().ok()) != Some(name.as_str()) || names.next().is_some() {
        return Err(bad("the certificate names another node"));
    }
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(grant.ca_der.clone()))
        .map_err(|error| JoinError::BadGrant(error.to_string()))?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), enroll::provider())
        .build()
        .map_err(|error| JoinError::BadGrant(error.to_string()))?
        .verify_client_cert(
            &CertificateDer::from(grant.certificate_der.as_slice()),
            &[],
            UnixTime::now(),
        )
        .map_err(|error| JoinError::BadGrant(error.to_string()))?;
    Ok(Stored {
        node: grant.node,
        addresses: token.addresses.clone(),
        certificate: grant.certificate_der,
        ca: grant.ca_der,
        key,
    })
}
