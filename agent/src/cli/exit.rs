//! Exit codes: one for each failure that has a remedy of its own, never renumbered.

use crate::{
    assemble::RunError,
    config::ConfigError,
    host::HostError,
    identity::{IdentityError, JoinError},
    worker::WorkerError,
};
use proximity_protocol::{enroll::RefusalReason, token::TokenError};
use std::io::ErrorKind;

/// Anything without a code of its own.
pub const FAILED: u8 = 1;
/// Wrong use of the command line (also clap's).
pub const USAGE: u8 = 2;
/// The configuration file.
pub const CONFIG: u8 = 3;
/// The state folder cannot be read or written.
pub const STATE: u8 = 4;
/// The stored identity is damaged.
pub const IDENTITY_DAMAGED: u8 = 5;
/// Another agent runs on the same state folder.
pub const IN_USE: u8 = 6;
/// The journal cannot be used.
pub const JOURNAL: u8 = 7;
/// The node's facts cannot be read: not a Proxmox VE node, or not ready.
pub const NODE: u8 = 8;
/// The token is none, is damaged, or is of a newer format.
pub const TOKEN_UNREADABLE: u8 = 10;
/// The coordinator cannot be reached, or its answer was lost: the same command may be repeated.
pub const UNREACHABLE: u8 = 11;
/// Whoever answers is not the coordinator of the token.
pub const WRONG_PIN: u8 = 12;
/// The coordinator's certificate is not valid.
pub const BAD_CERTIFICATE: u8 = 13;
/// The coordinator does not know the token, or its secret is wrong.
pub const TOKEN_UNKNOWN: u8 = 14;
/// The token's time is over.
pub const TOKEN_EXPIRED: u8 = 15;
/// The token is spent.
pub const TOKEN_SPENT: u8 = 16;
/// The token was revoked.
pub const TOKEN_REVOKED: u8 = 17;
/// The token is for another node name.
pub const WRONG_NODE_NAME: u8 = 18;
/// The token is for another host (cluster).
pub const WRONG_HOST: u8 = 19;
/// The token may not be used from this address.
pub const WRONG_ADDRESS: u8 = 20;
/// A node of this name is enrolled.
pub const NAME_TAKEN: u8 = 21;
/// The coordinator does not accept the request as such.
pub const REQUEST_REFUSED: u8 = 22;
/// Too many tries.
pub const RATE_LIMITED: u8 = 23;
/// A fault of the coordinator.
pub const COORDINATOR_FAULT: u8 = 24;
/// This machine has an identity already.
pub const ALREADY_JOINED: u8 = 25;
/// The coordinator granted something that cannot be right.
pub const BAD_GRANT: u8 = 26;
/// This machine has no identity yet.
pub const NOT_JOINED: u8 = 30;
/// A check of `doctor` failed.
pub const DOCTOR: u8 = 31;
/// The policy file is not valid, or cannot be read.
pub const POLICY: u8 = 32;
/// Apps are on this node.
pub const HAS_APPS: u8 = 33;
/// Tools that the agent started still run.
pub const TOOLS_RUNNING: u8 = 34;

/// For `--help`.
pub(super) const TABLE: &str = "\
Exit codes:
   0  done
   1  another failure
   2  wrong use of the command line
   3  configuration file
   4  state folder cannot be read or written
   5  stored identity damaged
   6  another agent is running
   7  journal cannot be used
   8  node cannot be read: no Proxmox VE node, or not ready
  10  token cannot be read
  11  coordinator not reached, or its answer lost: may be repeated
  12  not the coordinator of the token
  13  coordinator's certificate not valid
  14  token unknown
  15  token expired
  16  token spent
  17  token revoked
  18  token for another node name
  19  token for another host
  20  token not for this address
  21  node name taken
  22  request refused
  23  too many tries
  24  fault of the coordinator
  25  joined already
  26  coordinator's answer not valid
  30  not joined yet
  31  a check of doctor failed
  32  policy file not valid
  33  apps are on this node
  34  tools of the agent still run";

/// What ends the program: a sentence for stderr and a code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(CONFIG, error.to_string())
    }
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::new(TOKEN_UNREADABLE, error.to_string())
    }
}

fn identity_code(error: &IdentityError) -> u8 {
    match error {
        IdentityError::Io { .. } | IdentityError::Newer { .. } => STATE,
        IdentityError::Damaged { .. } => IDENTITY_DAMAGED,
        IdentityError::InUse(_) => IN_USE,
    }
}

fn host_code(error: &HostError) -> u8 {
    match error {
        HostError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => STATE,
        _ => NODE,
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let code = host_code(&error);
        let hint = if code == STATE { " (the agent needs root)" } else { "" };
        Self::new(code, format!("{error}{hint}"))
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new(identity_code(&error), error.to_string())
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let code = match &error {
            RunError::NotJoined => NOT_JOINED,
            RunError::Identity(error) => identity_code(error),
            RunError::Host(error) => host_code(error),
            RunError::BootId { .. } => NODE,
            RunError::Worker(WorkerError::Journal(_)) => JOURNAL,
            RunError::Worker(WorkerError::Thread(_)) => FAILED,
            RunError::Link(_) => IDENTITY_DAMAGED,
        };
        Self::new(code, error.to_string())
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let code = match &error {
            JoinError::Identity(error) => identity_code(error),
            JoinError::AlreadyJoined(_) => ALREADY_JOINED,
            JoinError::Unreachable { .. } | JoinError::ReplyLost(_) => UNREACHABLE,
            JoinError::WrongPin { .. } => WRONG_PIN,
            JoinError::BadCertificate { .. } => BAD_CERTIFICATE,
            JoinError::Refused(refusal) => refusal_code(refusal.reason),
            JoinError::BadGrant(_) => BAD_GRANT,
            JoinError::Key(_) => FAILED,
        };
        Self::new(code, error.to_string())
    }
}

/// The code for a refusal of the coordinator.
pub fn refusal_code(reason: RefusalReason) -> u8 {
    match reason {
        RefusalReason::UnknownToken => TOKEN_UNKNOWN,
        RefusalReason::Expired => TOKEN_EXPIRED,
        RefusalReason::Spent => TOKEN_SPENT,
        RefusalReason::Revoked => TOKEN_REVOKED,
        RefusalReason::WrongNodeName => WRONG_NODE_NAME,
        RefusalReason::WrongHost => WRONG_HOST,
        RefusalReason::WrongAddress => WRONG_ADDRESS,
        RefusalReason::NameTaken => NAME_TAKEN,
        RefusalReason::Malformed => REQUEST_REFUSED,
        RefusalReason::RateLimited => RATE_LIMITED,
        RefusalReason::Internal => COORDINATOR_FAULT,
    }
}
