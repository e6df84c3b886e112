//! The order of messages as state machines without IO: each side feeds in what arrived and does what comes back. Neither knows a socket, so both are
//! tested against each other and against any order of frames.

use crate::{
    close,
    codec::CodecError,
    event::{Event, Notice},
    fault::{Fault, FaultKind},
    hello::{Hello, HelloReply, VersionRange, Welcome},
};

/// The peer broke the order of messages; hang up with `code`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Violation {
    /// QUIC application close code, of [`close`].
    pub code: u32,
    /// What was wrong.
    pub message: String,
}

impl Violation {
    fn order(message: impl Into<String>) -> Self {
        Self {
            code: close::PROTOCOL,
            message: message.into(),
        }
    }
}

impl From<CodecError> for Violation {
    fn from(error: CodecError) -> Self {
        let code = if matches!(error, CodecError::Version(_)) {
            close::VERSION
        } else {
            close::PROTOCOL
        };
        Self {
            code,
            message: error.to_string(),
        }
    }
}

/// The agent's side of the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentSession {
    /// Hello is sent; nothing else may be.
    AwaitingWelcome {
        /// What the Hello offered.
        offered: VersionRange,
    },
    /// Connected.
    Open {
        /// The agreed version.
        version: u16,
    },
    /// Refused or broken; the connection is to be closed.
    Closed,
}

/// What the agent does about a HelloReply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is connected.
    Connected(Welcome),
    /// It is not; the fault says why.
    Refused(Fault),
}

impl AgentSession {
    /// Starts; the returned session awaits the answer to a Hello that offers `offered`.
    pub fn start(offered: VersionRange) -> Self {
        Self::AwaitingWelcome { offered }
    }

    /// Whether commands, events and figures may flow.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// The answer to Hello arrived.
    pub fn on_reply(&mut self, reply: HelloReply) -> Result<Answer, Violation> {
        let Self::AwaitingWelcome { offered } = *self else {
            *self = Self::Closed;
            return Err(Violation::order("a second answer to Hello"));
        };
        match reply {
            HelloReply::Refused(fault) => {
                *self = Self::Closed;
                Ok(Answer::Refused(fault))
            }
            HelloReply::Welcome(welcome) if (offered.min..=offered.max).contains(&welcome.version) => {
                *self = Self::Open {
                    version: welcome.version,
                };
                Ok(Answer::Connected(welcome))
            }
            HelloReply::Welcome(welcome) => {
                *self = Self::Closed;
                Err(Violation {
                    code: close::VERSION,
                    message: format!(
                        "the coordinator chose message version {}, which was not offered",
                        welcome.version
                    ),
                })
            }
        }
    }

    /// A Notice arrived.
    pub fn on_notice(&self, notice: Notice) -> Result<Notice, Violation> {
        if self.is_open() {
            Ok(notice)
        } else {
            Err(Violation::order("a notice before Welcome"))
        }
    }

    /// A command's stream was opened.
    pub fn on_command(&self) -> Result<(), Violation> {
        if self.is_open() {
            Ok(())
        } else {
            Err(Violation::order("a command before Welcome"))
        }
    }
}

/// The coordinator's side of the control stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CoordinatorSession {
    /// Nothing has been said.
    #[default]
    AwaitingHello,
    /// Hello was good; the registry is asked whether the node may come in.
    Deciding {
        /// The agreed version.
        version: u16,
    },
    /// Connected.
    Open {
        /// The agreed version.
        version: u16,
    },
    /// Refused or broken.
    Closed,
}

impl CoordinatorSession {
    /// Hello arrived: the agreed version, or the refusal to send before hanging up.
    pub fn on_hello(&mut self, hello: &Hello) -> Result<u16, Fault> {
        if *self != Self::AwaitingHello {
            *self = Self::Closed;
            return Err(Fault::new(FaultKind::Malformed, "a second Hello on one connection"));
        }
        match VersionRange::OURS.common(hello.versions) {
            Some(version) => {
                *self = Self::Deciding { version };
                Ok(version)
            }
            None => {
                *self = Self::Closed;
                let (ours, theirs) = (VersionRange::OURS, hello.versions);
                let older = if theirs.max < ours.min {
                    "agent on the node"
                } else {
                    "coordinator"
                };
                Err(Fault::new(
                    FaultKind::Malformed,
                    format!(
                        "no common message version: the agent knows {} to {}, the coordinator {} to {}; update the {older}",
                        theirs.min, theirs.max, ours.min, ours.max
                    ),
                ))
            }
        }
    }

    /// The registry let the node in; Welcome goes out.
    pub fn admit(&mut self) -> Result<u16, Violation> {
        match *self {
            Self::Deciding { version } => {
                *self = Self::Open { version };
                Ok(version)
            }
            _ => Err(Violation::order("Welcome without a Hello")),
        }
    }

    /// The registry refused; the session is over.
    pub fn refuse(&mut self) {
        *self = Self::Closed;
    }

    /// An event arrived.
    pub fn on_event(&self, event: Event) -> Result<Event, Violation> {
        if matches!(self, Self::Open { .. }) {
            Ok(event)
        } else {
            Err(Violation::order("an event before Welcome"))
        }
    }

    /// A stream of figures was opened.
    pub fn on_metrics(&self) -> Result<(), Violation> {
        if matches!(self, Self::Open { .. }) {
            Ok(())
        } else {
            Err(Violation::order("figures before Welcome"))
        }
    }
}
