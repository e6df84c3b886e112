//! Joining, from a token to a stored identity.

use super::{
    Identity, JoinError, enroll,
    files::{self, Pending, Stored},
    grant, key,
};
use data_encoding::HEXLOWER;
use proximity_protocol::{
    enroll::{EnrollRequest, RefusalReason},
    observed::NodeFacts,
    token::JoinToken,
};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
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

/// What was granted, checked and not stored yet.
#[derive(Debug)]
pub struct Granted {
    state_dir: PathBuf,
    stored: Stored,
}

impl Granted {
    /// Stores it. From here on this machine is who the coordinator says.
    pub fn keep(self) -> Result<Identity, JoinError> {
        let Self { state_dir, stored } = self;
        files::store(&state_dir, &stored)?;
        files::remove_pending(&state_dir)?;
        // It followed the identity that has just been replaced.
        files::remove_renewal(&state_dir)?;
        Identity::of(stored).map_err(JoinError::BadGrant)
    }
}

/// Joins: [`enrol`], and the identity is stored.
pub async fn join(request: JoinRequest<'_>) -> Result<Identity, JoinError> {
    enrol(request).await?.keep()
}

/// Makes a key and asks for a certificate. The identity that was there before is untouched. If the answer was lost, the same token may be used again: the
/// key is kept for that.
pub async fn enrol(request: JoinRequest<'_>) -> Result<Granted, JoinError> {
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
    let now = Some(OffsetDateTime::now_utc());
    grant::check(&grant, &[token.ca_pin], &key, now)?;
    Ok(Granted {
        state_dir: state_dir.into(),
        stored: Stored {
            node: grant.node,
            addresses: token.addresses.clone(),
            certificate: grant.certificate_der,
            roots: vec![grant.ca_der.clone()],
            ca: grant.ca_der,
            coordinator: HEXLOWER.encode(&token.ca_pin),
            key,
        },
    })
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
