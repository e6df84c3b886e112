//! The authority that follows an authority: a coordinator gets a new root while the old one is still trusted, and no agent is lost on the way.
//!
//! An agent that can follow names [`CAPABILITY`] in its Hello. Only such an agent is sent `Notice::Roots`, in its Welcome and whenever the roots change, and
//! `Notice::RenewNow`. It stores what it can believe (a root that it trusts already, or one that such a root has signed), on the disk first, and answers with
//! `Event::RootsStored`; so an agent sends that only to a coordinator that has spoken of roots before.
//!
//! At the door of enrolment the same is agreed by ALPN: whoever takes [`crate::ALPN_ENROLL_2`] understands `ReturnReply::Followed`, a certificate of a root
//! that it may not have heard of yet, together with the way there.

use serde::{Deserialize, Serialize};

/// What an agent that can follow from root to root names in its Hello.
pub const CAPABILITY: &str = "roots";
/// Roots that are trusted at a time, at most, and cross certificates that are kept for those who were away.
pub const ROOTS_MAX: usize = 8;

/// SHA-256 of the SubjectPublicKeyInfo of a root.
pub type Pin = [u8; 32];

/// The coordinator's roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// Certificates of those to trust, DER, 1 to [`ROOTS_MAX`]. What does not stand here is trusted no more.
    pub trusted: Vec<Vec<u8>>,
    /// Cross certificates, DER, at most [`ROOTS_MAX`]: the key of one root, signed by the root before it.
    pub crossed: Vec<Vec<u8>>,
    /// The one that signs new certificates.
    pub signs: Pin,
    /// A certificate of another root than that one is to be renewed within this time, seconds; 0 is at once.
    pub renew_within_s: u32,
}
