//! Which VMID comes next.

use proximity_protocol::ids::Vmid;
use std::collections::BTreeSet;

/// VMIDs that may be given out, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmidRange {
    /// First.
    pub first: u32,
    /// Last.
    pub last: u32,
}

impl VmidRange {
    /// The range of a node: what its policy allows, within the range of `datacenter.cfg` (`next-id`: upper bound exclusive in Proxmox, told as inclusive
    /// by the agent). `None` if they do not meet.
    pub fn of_node(policy: (u32, u32), next_id: Option<(u32, u32)>) -> Option<VmidRange> {
        let (low, high) = next_id.unwrap_or((Vmid::MIN, Vmid::MAX));
        let range = VmidRange {
            first: policy.0.max(low).max(Vmid::MIN),
            last: policy.1.min(high).min(Vmid::MAX),
        };
        (range.first <= range.last).then_some(range)
    }

    /// The lowest VMID that is not taken.
    pub fn next_free(self, taken: &BTreeSet<u32>) -> Option<Vmid> {
        // At most one more step than there are taken ones in the range.
        (self.first..=self.last)
            .find(|vmid| !taken.contains(vmid))
            .and_then(|vmid| Vmid::new(vmid).ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_next_one_is_free_and_in_range(first in 100u32..2_000, size in 1u32..50, taken in proptest::collection::btree_set(90u32..2_100, 0..200)) {
            let range = VmidRange { first, last: first + size - 1 };
            match range.next_free(&taken) {
                Some(vmid) => prop_assert!(!taken.contains(&vmid.get()) && (range.first..=range.last).contains(&vmid.get())),
                None => prop_assert!((range.first..=range.last).all(|v| taken.contains(&v))),
            }
        }
    }

    #[test]
    fn a_node_s_range_is_what_policy_and_datacenter_share() {
        assert_eq!(
            VmidRange::of_node((1, 1_000), None),
            Some(VmidRange {
                first: 100,
                last: 1_000
            })
        );
        assert_eq!(
            VmidRange::of_node((100, 1_000), Some((500, 2_000))),
            Some(VmidRange {
                first: 500,
                last: 1_000
            })
        );
        assert_eq!(VmidRange::of_node((100, 200), Some((500, 2_000))), None);
    }
}
