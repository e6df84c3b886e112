//! What ends the program without success: a sentence and a code for each error of the rooms.

use super::exit::{
    ALREADY_JOINED, BAD_CERTIFICATE, BAD_GRANT, CLOCKS_DIFFER, CONFIG, FAILED, IDENTITY_DAMAGED, IN_USE, JOURNAL,
    NO_NAME, NO_PROXMOX, NODE, NOT_JOINED, NOT_ROOT, STATE, TOKEN_UNREADABLE, UNREACHABLE, WRONG_PIN, refusal_code,
    sight_code,
};
use crate::{
    assemble::RunError,
    config::ConfigError,
    host::HostError,
    identity::{IdentityError, JoinError},
    worker::WorkerError,
};
use proximity_protocol::token::TokenError;
use std::{io::ErrorKind, process::ExitCode};

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

    /// Says it, and is the program's end.
    pub(super) fn told(self) -> ExitCode {
        eprintln!("proximity-agent: {}", self.message);
        ExitCode::from(self.code)
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
        error if error.is_permission() => NOT_ROOT,
        IdentityError::Io { .. } | IdentityError::Newer { .. } => STATE,
        IdentityError::Damaged { .. } => IDENTITY_DAMAGED,
        IdentityError::InUse(_) => IN_USE,
    }
}

fn host_code(error: &HostError) -> u8 {
    match error {
        HostError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => NOT_ROOT,
        HostError::NoProxmox { .. } => NO_PROXMOX,
        _ => NODE,
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let code = host_code(&error);
        let hint = if code == NOT_ROOT {
            " (the agent needs root: repeat it as root)"
        } else {
            ""
        };
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
            JoinError::NoName { .. } => NO_NAME,
            JoinError::Unseen { sight, .. } => sight_code(sight),
            JoinError::Unreachable { .. } | JoinError::ReplyLost(_) => UNREACHABLE,
            JoinError::Clocks { .. } => CLOCKS_DIFFER,
            JoinError::WrongPin { .. } => WRONG_PIN,
            JoinError::BadCertificate { .. } => BAD_CERTIFICATE,
            JoinError::Refused(refusal) => refusal_code(refusal.reason),
            JoinError::BadGrant(_) => BAD_GRANT,
            JoinError::Key(_) => FAILED,
        };
        Self::new(code, error.to_string())
    }
}
