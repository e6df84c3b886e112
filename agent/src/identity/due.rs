//! When a certificate is to be renewed. Which moment it is within its bounds the certificate itself decides, so that a restart changes nothing. Pure.

use super::Identity;
use proximity_protocol::roots::Pin;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

/// Renewals of many nodes that joined together are spread over this part of a certificate's life, which ends at two thirds of it.
const JITTER_PART: i32 = 30;

/// The root that signs new certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signing {
    pub(super) pin: Pin,
    /// Since when we know.
    pub(super) since: OffsetDateTime,
    /// How long a certificate of another root may stay in use after that.
    pub(super) renew_within: Duration,
}

/// At two thirds of its life, or up to a thirtieth of it before; and if another root signs by now, within the time that the coordinator has set.
pub(super) fn due(identity: &Identity, signing: Option<&Signing>) -> OffsetDateTime {
    let life = identity.not_after - identity.not_before;
    let hash: [u8; 32] = Sha256::digest(&identity.certificate).into();
    let chance = f64::from(u16::from_be_bytes([hash[0], hash[1]])) / f64::from(u16::MAX);
    let by_age: OffsetDateTime = identity.not_before + life * 2 / 3 - (life / JITTER_PART) * chance;
    match signing {
        Some(signing) if signing.pin != identity.ca_fingerprint => {
            by_age.min(signing.since + signing.renew_within * chance)
        }
        _ => by_age,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(der: &[u8]) -> Identity {
        let not_before = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        Identity {
            node: proximity_protocol::ids::NodeId(uuid::Uuid::nil()),
            addresses: vec![],
            not_before,
            not_after: not_before + Duration::days(90),
            ca_fingerprint: [1; 32],
            coordinator: String::new(),
            certificate: der.to_vec().into(),
            roots: vec![],
            key: zeroize::Zeroizing::default(),
        }
    }

    #[test]
    fn renewals_are_spread_and_never_late() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..100_u8 {
            let identity = identity(&[number]);
            let by_age = due(&identity, None) - identity.not_before;
            assert!((Duration::days(57)..=Duration::days(60)).contains(&by_age), "{by_age}");
            let signing = |pin| Signing {
                pin,
                since: identity.not_before + Duration::days(5),
                renew_within: Duration::seconds(300),
            };
            assert_eq!(due(&identity, Some(&signing([1; 32]))) - identity.not_before, by_age);
            let by_root = due(&identity, Some(&signing([2; 32]))) - signing([2; 32]).since;
            assert!(
                (Duration::ZERO..=Duration::seconds(300)).contains(&by_root),
                "{by_root}"
            );
            seen.insert(by_root.whole_seconds() / 30);
        }
        assert!(seen.len() > 8, "not spread: {seen:?}");
    }
}
