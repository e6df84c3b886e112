//! Why there is no link.

use crate::identity::dial::DialError;
use proximity_protocol::{fault::Fault, session::Violation};
use quinn::ConnectionError;

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
            ConnectionError::Reset => Self::Broken("the coordinator has been restarted".into()),
            ConnectionError::TimedOut => Self::Broken("the coordinator fell silent".into()),
            other => Self::Broken(other.to_string()),
        }
    }

    /// Whether there was a connection at all.
    pub(crate) fn was_connected(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Broken(_) | Self::Violation(_))
    }
}
