//! What anybody may ask the coordinator over a connection of enrolment, before there is anything to prove or to give away: what time it is there.
//!
//! Certificates go by dates: a node whose clock is wrong could not link, and would say so in words about certificates. It asks before a join token's secret
//! is sent, and `doctor` asks too. A coordinator that does not know the question hangs up with [`crate::close::PROTOCOL`].

use serde::{Deserialize, Serialize};

/// The question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Enquiry {
    /// What time is it?
    Clock,
}

/// The answer. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnquiryReply {
    /// The coordinator's clock.
    Clock {
        /// Milliseconds since 1970, UTC.
        unix_ms: i64,
    },
}
