//! Tells the coordinator that this node leaves: its key is proven on a connection of enrolment, as in a return, so that it works with an expired certificate
//! too.

use super::{
    JoinError,
    clock::SystemClock,
    dial::{self, DialError, Dialled},
    error::IdentityError,
    frames,
    keyring::Keyring,
};
use proximity_protocol::{
    VERSION_MIN, close,
    ids::NodeId,
    leave::{LEAVE_LABEL, LeaveRefusal, LeaveReply, LeaveRequest},
    renew::RETURN_CHALLENGE_LEN,
};
use quinn::{ConnectionError, VarInt};
use std::{path::Path, sync::Arc, time::Duration};

const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the coordinator does not know of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GoodbyeError {
    /// There is no identity, or it cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// This machine has not joined.
    #[error("this machine has no identity")]
    NotJoined,
    /// No connection.
    #[error(transparent)]
    Dial(DialError),
    /// The connection broke before the answer.
    #[error("it did not answer: {0}")]
    Lost(String),
    /// A coordinator of before.
    #[error("it is older than this message, and takes no goodbye")]
    TooOld,
    /// It says no.
    #[error("it refuses: {0}")]
    Refused(LeaveRefusal),
    /// Our own key.
    #[error(transparent)]
    Key(JoinError),
}

/// What the coordinator says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// Which node this was.
    pub(crate) node: NodeId,
    /// Apps that it counts on the node still.
    pub(crate) apps: u32,
}

/// Says goodbye at each address in turn, until one has taken it.
pub(crate) async fn say(state_dir: &Path) -> Result<Left, GoodbyeError> {
    let keyring = Keyring::open(state_dir, Arc::new(SystemClock))?.ok_or(GoodbyeError::NotJoined)?;
    let config = keyring.return_config().map_err(GoodbyeError::Dial)?;
    let mut last = GoodbyeError::Lost("the identity holds no address".into());
    for address in keyring.addresses() {
        let dialled = match dial::connect_seeing(&address, &config).await {
            Ok(dialled) => dialled,
            Err(error) => {
                last = GoodbyeError::Dial(error);
                continue;
            }
        };
        let asked = tokio::time::timeout(REPLY_TIMEOUT, ask(&keyring, &dialled))
            .await
            .unwrap_or_else(|_| Err(GoodbyeError::Lost("no answer in time".into())));
        dialled.close(VarInt::from_u32(close::BYE), b"").await;
        match asked {
            Ok(LeaveReply::Left { node, apps }) => return Ok(Left { node, apps }),
            Ok(LeaveReply::Refused(refusal)) => return Err(GoodbyeError::Refused(refusal)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(keyring: &Keyring, dialled: &Dialled) -> Result<LeaveReply, GoodbyeError> {
    let connection = &dialled.connection;
    let lost = |error: &dyn std::fmt::Display| match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(closed)) if closed.error_code == VarInt::from_u32(close::PROTOCOL) => {
            GoodbyeError::TooOld
        }
        Some(reason) => GoodbyeError::Lost(reason.to_string()),
        None => GoodbyeError::Lost(error.to_string()),
    };
    let mut challenge = [0; RETURN_CHALLENGE_LEN];
    connection
        .export_keying_material(&mut challenge, LEAVE_LABEL, b"")
        .map_err(|_| GoodbyeError::Lost("TLS gives no keying material".into()))?;
    let (csr_der, proof) = keyring.prove(&challenge).map_err(GoodbyeError::Key)?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    frames::write(&mut send, VERSION_MIN, &LeaveRequest { csr_der, proof })
        .await
        .map_err(|error| lost(&error))?;
    send.finish().map_err(|error| lost(&error))?;
    match frames::read::<LeaveReply>(&mut recv).await {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(lost(&"it closed the stream without an answer")),
        Err(error) => Err(lost(&error)),
    }
}
