//! The return of a node whose certificate is not taken any more, because it has expired or its root is gone: it proves its key on a connection of enrolment
//! and gets another certificate for it, with the way to the root that has signed it if that is a new one.

use super::{
    JoinError,
    dial::{self, DialError, Dialled},
    frames,
    keyring::{KeepError, Keyring},
};
use proximity_protocol::{
    VERSION_MIN, close,
    renew::{RETURN_CHALLENGE_LEN, RETURN_LABEL, RenewRefusal, RenewRefusalReason, ReturnReply, ReturnRequest},
};
use quinn::{ConnectionError, VarInt};
use std::time::Duration;

const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReturnError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke before the answer.
    #[error("the coordinator did not answer this node's return: {0}")]
    Lost(String),
    /// A coordinator of before.
    #[error(
        "the coordinator is too old to take back a node whose certificate has expired: update it, or join again with a new token and --take-over"
    )]
    CoordinatorTooOld,
    /// It says no.
    #[error("the coordinator does not take this node back: {0}")]
    Refused(RenewRefusal),
    /// The answer, or our own disk.
    #[error(transparent)]
    Own(#[from] JoinError),
    /// The roots in the answer.
    #[error("the coordinator's roots cannot be followed: {0}")]
    Roots(#[from] KeepError),
}

impl ReturnError {
    /// Whether the coordinator does not take this key any more.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Refused(refusal) => matches!(
                refusal.reason,
                RenewRefusalReason::Revoked | RenewRefusalReason::UnknownKey
            ),
            _ => false,
        }
    }
}

/// Asks at each address in turn. On success the next link uses the new certificate.
pub(crate) async fn come_back(keyring: &Keyring) -> Result<(), ReturnError> {
    let config = keyring.return_config()?;
    let mut last = ReturnError::Lost("the identity holds no address".into());
    for address in keyring.addresses() {
        let dialled = match dial::connect(&address, &config).await {
            Ok(dialled) => dialled,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        let asked = tokio::time::timeout(REPLY_TIMEOUT, ask(keyring, &dialled))
            .await
            .unwrap_or_else(|_| Err(ReturnError::Lost("no answer in time".into())));
        dialled.close(VarInt::from_u32(close::BYE), b"").await;
        match asked {
            Ok(ReturnReply::Granted(grant)) => return Ok(keyring.returned(grant)?),
            Ok(ReturnReply::Followed { grant, roots }) => {
                // The roots first: the certificate may be of one that is new here.
                keyring.follow(&roots)?;
                return Ok(keyring.returned(*grant)?);
            }
            Ok(ReturnReply::Refused(refusal)) => return Err(ReturnError::Refused(refusal)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(keyring: &Keyring, dialled: &Dialled) -> Result<ReturnReply, ReturnError> {
    let connection = &dialled.connection;
    let lost = |error: &dyn std::fmt::Display| match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(closed)) if closed.error_code == VarInt::from_u32(close::PROTOCOL) => {
            ReturnError::CoordinatorTooOld
        }
        Some(reason) => ReturnError::Lost(reason.to_string()),
        None => ReturnError::Lost(error.to_string()),
    };
    let mut challenge = [0; RETURN_CHALLENGE_LEN];
    connection
        .export_keying_material(&mut challenge, RETURN_LABEL, b"")
        .map_err(|_| ReturnError::Lost("TLS gives no keying material".into()))?;
    let (csr_der, proof) = keyring.prove(&challenge)?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    frames::write(&mut send, VERSION_MIN, &ReturnRequest { csr_der, proof })
        .await
        .map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    match frames::read::<ReturnReply>(&mut recv).await {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(lost(&"it closed the stream without an answer")),
        Err(frames::ReadError::Codec(error)) => Err(JoinError::BadGrant(error.to_string()).into()),
        Err(error) => Err(lost(&error)),
    }
}
