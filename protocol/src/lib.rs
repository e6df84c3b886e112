//! What the coordinator and its agents say to each other.
//!
//! This crate is pure: no clock, no socket, no file. It holds the vocabulary ([`ids`], [`spec`], [`backup`], [`observed`], [`examined`], [`command`], [`event`], [`fault`]),
//! the frames ([`codec`]), the join token ([`token`]), and the order of messages ([`session`]).
//!
//! # One connection, in order
//!
//! 1. The agent dials (QUIC, ALPN [`ALPN_LINK`], mutual TLS) and opens one bidirectional *control stream*. Its first frame is [`hello::Hello`].
//! 2. The coordinator answers [`hello::HelloReply`]: `Welcome`, or `Refused` and then closes. The agent counts itself connected only at `Welcome`:
//!    a TLS 1.3 client believes in its connection before the server has judged its certificate.
//! 3. On the control stream the agent then sends [`event::Event`] frames, the coordinator [`event::Notice`] frames.
//! 4. For each command the coordinator opens a bidirectional stream, sends one [`command::Command`], and reads [`command::Reply`] frames:
//!    `Accepted`, any number of `Progress`, one `Finished`. If the stream is lost, the coordinator sends the same command again (same operation, step and
//!    attempt): the agent attaches it to the running job or answers with the recorded result.
//! 5. Live figures go over one unidirectional stream of the agent's as [`metrics::MetricsFrame`]s.
//!
//! Enrolment is a connection of its own (ALPN [`ALPN_ENROLL`], no client certificate): one bidirectional stream, one [`enroll::EnrollRequest`], one
//! [`enroll::EnrollReply`]. A node whose certificate has expired asks there with [`renew::ReturnRequest`] instead, one whose
//! operator has told it to leave says so with [`leave::LeaveRequest`], and anybody may put an [`enquiry::Enquiry`]. How an agent follows from one authority
//! of the coordinator to the next is told in [`roots`].
//!
//! # Compatibility
//!
//! Wire structs never change once released. New data is a new enum variant at the end. The hex snapshots in `tests/snapshots.rs` freeze every message.

pub mod backup;
pub mod codec;
pub mod command;
pub mod enquiry;
pub mod enroll;
pub mod event;
pub mod examined;
pub mod fault;
pub mod hello;
pub mod ids;
pub mod leave;
pub mod metrics;
pub mod observed;
pub mod renew;
pub mod roots;
pub mod secret;
pub mod session;
pub mod spec;
pub mod token;

/// ALPN of the link between an enrolled agent and its coordinator.
pub const ALPN_LINK: &[u8] = b"proximity/1";
/// ALPN of enrolment, the only conversation open to a peer without a certificate.
pub const ALPN_ENROLL: &[u8] = b"proximity-enroll/1";
/// The same between two that know [`roots`]; taken before [`ALPN_ENROLL`] where both sides offer it.
pub const ALPN_ENROLL_2: &[u8] = b"proximity-enroll/2";
/// The name in the coordinator's certificate. Addresses may change, this does not.
pub const COORDINATOR_TLS_NAME: &str = "coordinator.proximity.internal";
/// The UDP port of the coordinator's QUIC listener unless configured otherwise.
pub const DEFAULT_QUIC_PORT: u16 = 4433;
/// The oldest message version that this build understands.
pub const VERSION_MIN: u16 = 1;
/// The newest message version that this build understands.
pub const VERSION_MAX: u16 = 1;

/// QUIC application close codes, so that each side can say why it hung up.
pub mod close {
    /// An ordinary end (shutdown, restart).
    pub const BYE: u32 = 0;
    /// A newer connection of the same agent process took over.
    pub const REPLACED: u32 = 1;
    /// The certificate is revoked or unknown to the registry.
    pub const REVOKED: u32 = 2;
    /// No common message version.
    pub const VERSION: u32 = 3;
    /// The peer broke the order of messages.
    pub const PROTOCOL: u32 = 4;
    /// The same identity is alive in two places.
    pub const CLONED: u32 = 5;
}
