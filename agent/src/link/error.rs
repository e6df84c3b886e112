//! Why there is no link.

use crate::identity::{come_back::ReturnError, dial::DialError, keyring::Keyring};
use proximity_protocol::{close, fault::Fault, session::Violation};
use quinn::{ConnectionError, TransportErrorCode};

/// TLS alert `certificate_expired`: rustls sends it for every certificate that its dates forbid.
const CERTIFICATE_EXPIRED: u8 = 45;
/// TLS alert `unknown_ca`.
const UNKNOWN_CA: u8 = 48;

/// Why a connection could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// It could not be made.
    #[error(transparent)]
    Dial(DialError),
    /// The peer hung up and said why.
    #[error("the coordinator hung up: {reason} (code {code})")]
    Closed {
        /// One of `proximity_protocol::close`.
        code: u32,
        /// Its words.
        reason: String,
    },
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
    /// The coordinator does not take our certificate for its dates.
    #[error("the coordinator says that this node's certificate has expired or is not valid yet: {0}")]
    OurDates(String),
    /// The coordinator does not take our certificate for the root that has issued it.
    #[error("the coordinator does not trust the root of this node's certificate any more")]
    OurRoot,
    /// We do not take the coordinator's certificate for its dates.
    #[error("the coordinator's certificate is not valid today: {0}")]
    TheirDates(String),
    /// The certificate is not taken, and there is no other.
    #[error("this node's certificate is not taken any more; {0}")]
    Return(ReturnError),
    /// The peer broke the order of messages.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The node's own facts cannot be read, so there is nothing to say Hello with.
    #[error("the node's facts cannot be read: {0}")]
    Facts(Fault),
    /// The agent's own disk.
    #[error("{0}")]
    Own(String),
}

impl From<DialError> for LinkError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Connection(error) => Self::from_connection(error),
            other => Self::Dial(other),
        }
    }
}

impl LinkError {
    /// From quinn's.
    pub(crate) fn from_connection(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Closed {
                code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
                reason: String::from_utf8_lossy(&close.reason).chars().take(300).collect(),
            },
            // The words follow in `dated`, by whoever knows the date.
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::crypto(CERTIFICATE_EXPIRED) =>
            {
                Self::OurDates(String::new())
            }
            ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::crypto(UNKNOWN_CA) => {
                Self::OurRoot
            }
            ConnectionError::TransportError(error) if error.code == TransportErrorCode::crypto(CERTIFICATE_EXPIRED) => {
                Self::TheirDates(String::new())
            }
            ConnectionError::Reset => Self::Broken("the coordinator has been restarted".into()),
            ConnectionError::TimedOut => Self::Broken("the coordinator fell silent".into()),
            other => Self::Broken(other.to_string()),
        }
    }

    /// With the dates that it is about.
    pub(crate) fn dated(self, keys: &Keyring) -> Self {
        match self {
            Self::OurDates(_) => Self::OurDates(keys.our_dates()),
            Self::TheirDates(_) => Self::TheirDates(keys.their_dates()),
            other => other,
        }
    }

    /// Whether it is our certificate that the coordinator does not take.
    pub(crate) fn rejects_certificate(&self) -> bool {
        match self {
            Self::Closed { code, .. } => *code == close::REVOKED,
            Self::Return(error) => error.is_final(),
            _ => false,
        }
    }

    /// Whether there was a connection at all.
    pub(crate) fn was_connected(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Broken(_) | Self::Violation(_))
    }
}
