//! Which public port comes next.

use std::collections::BTreeSet;

/// Ports that may be given out, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

impl PortRange {
    /// What both ranges hold; `None` if that is nothing.
    pub fn and(self, other: PortRange) -> Option<PortRange> {
        let both = PortRange {
            first: self.first.max(other.first),
            last: self.last.min(other.last),
        };
        (both.first <= both.last).then_some(both)
    }

    /// The lowest port that is in no set of `taken`.
    pub fn next_free(self, taken: &BTreeSet<u16>) -> Option<u16> {
        (self.first..=self.last).find(|port| !taken.contains(port))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gives_each_port_once_and_then_none(first in 1u16..60_000, size in 1u16..200, held in proptest::collection::btree_set(1u16..60_300, 0..100)) {
            let range = PortRange { first, last: first + size - 1 };
            let mut taken = held.clone();
            let mut given = BTreeSet::new();
            while let Some(port) = range.next_free(&taken) {
                prop_assert!((range.first..=range.last).contains(&port) && !held.contains(&port));
                prop_assert!(given.insert(port));
                taken.insert(port);
            }
            let free = (range.first..=range.last).filter(|p| !held.contains(p)).count();
            prop_assert_eq!(given.len(), free);
        }
    }

    #[test]
    fn ranges_meet_or_not() {
        let a = PortRange {
            first: 8000,
            last: 9000,
        };
        assert_eq!(
            a.and(PortRange {
                first: 8500,
                last: 9500
            }),
            Some(PortRange {
                first: 8500,
                last: 9000
            })
        );
        assert_eq!(
            a.and(PortRange {
                first: 9001,
                last: 9500
            }),
            None
        );
        assert_eq!(
            PortRange {
                first: 65_535,
                last: 65_535
            }
            .next_free(&BTreeSet::from([65_535])),
            None
        );
    }
}
