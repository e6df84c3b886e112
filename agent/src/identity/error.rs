//! Why joining or loading the identity failed: each cause a case of its own, since each has another remedy (and another exit code).

use super::{ClocksDiffer, Sight};
use proximity_protocol::{enroll::EnrollRefusal, ids::NodeId};
use std::{io, net::SocketAddr, path::PathBuf};

/// The identity on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Input or output failed.
    #[error("cannot {attempt} {path}: {source}{}", hint(.source))]
    Io {
        /// What was tried.
        attempt: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there but cannot be used.
    #[error("{path} is damaged ({message}): restore it, or join again with a new token and --take-over")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A newer agent has been here.
    #[error(
        "{path} was written by a newer agent (format {format}): install that version again, or a later one; nothing was changed"
    )]
    Newer {
        /// The folder or file.
        path: PathBuf,
        /// What it says.
        format: u32,
    },
    /// Another agent process uses the state folder.
    #[error("another agent is running on {0}: stop it first (systemctl stop proximity-agent)")]
    InUse(PathBuf),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (the agent's state belongs to root: run this as root)",
        _ => "",
    }
}

impl IdentityError {
    /// Whether the cause is missing permission.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Why this machine has not joined.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The state folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It has an identity already.
    #[error(
        "this machine has joined already, as node {0}: say --replace to replace that identity, or --take-over if it is also to take the record of its old one over"
    )]
    AlreadyJoined(NodeId),
    /// The name of an address.
    #[error(
        "the coordinator's name in {address} cannot be resolved ({why}). Look whether a DNS server answers and knows it (`getent hosts NAME`, /etc/resolv.conf), or make a token with an address of numbers (`advertise` in the coordinator's configuration)"
    )]
    NoName {
        /// `host:port`.
        address: String,
        /// Why.
        why: String,
    },
    /// Nobody answers, and something can be seen of why.
    #[error("the coordinator does not answer at {socket}: {sight}. {}", .sight.advice(.socket))]
    Unseen {
        /// Where.
        socket: SocketAddr,
        /// What was seen.
        sight: Sight,
    },
    /// It could not be reached otherwise.
    #[error(
        "the coordinator cannot be reached at {address}: {why}; check the address, that UDP may pass, and that the coordinator is running"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// The clocks of the two machines.
    #[error(
        "{clocks}. Certificates go by dates, so the link would break. The token's secret was not sent. Set the wrong clock and let chrony keep it (`timedatectl`, `chronyc makestep`), then join again"
    )]
    Clocks {
        /// Where the coordinator answered.
        address: String,
        /// Both of them.
        clocks: ClocksDiffer,
    },
    /// Whoever answered does not have the key that the token pins.
    #[error(
        "whoever answers at {address} is not the coordinator that made this token: its CA has another key than the token pins. Nothing was sent. Check the address, or make a new token if the coordinator was set up anew"
    )]
    WrongPin {
        /// Where.
        address: String,
    },
    /// The pinned CA is there, but the certificate below it is not good.
    #[error(
        "the coordinator at {address} shows a certificate that is not valid ({why}). Nothing was sent. Restart the coordinator, which makes a new one; if that does not help, look at its log"
    )]
    BadCertificate {
        /// Where.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The coordinator said no.
    #[error("the coordinator refuses: {0}")]
    Refused(EnrollRefusal),
    /// The request went out and no answer came.
    #[error(
        "the connection broke before the coordinator answered ({0}): run the same command with the same token again, which is safe"
    )]
    ReplyLost(String),
    /// The coordinator granted something that cannot be right.
    #[error(
        "the coordinator's answer is not valid ({0}); nothing was stored. This is a fault of the coordinator, or somebody tampers"
    )]
    BadGrant(String),
    /// The key could not be made.
    #[error("cannot make a key: {0}")]
    Key(String),
}

impl JoinError {
    /// Whether the same command may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        use proximity_protocol::enroll::RefusalReason::{Internal, RateLimited};
        match self {
            Self::NoName { .. } | Self::Unseen { .. } | Self::Unreachable { .. } | Self::ReplyLost(_) => true,
            Self::Refused(refusal) => matches!(refusal.reason, Internal | RateLimited),
            _ => false,
        }
    }
}
