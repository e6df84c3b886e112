//! Which address comes next on a host whose apps have static addresses.

use super::network::Ipv4Net;
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Why a network's range of addresses cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressPoolError {
    /// A value that is no IPv4 address.
    #[error("{0:?} is not an IPv4 address")]
    NotAnAddress(String),
    /// First after last, or outside.
    #[error("the range {0} to {1} is not within its network")]
    BadRange(Ipv4Addr, Ipv4Addr),
}

/// The addresses of a host's apps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    subnet: Ipv4Net,
    first: u32,
    last: u32,
    excluded: BTreeSet<Ipv4Addr>,
}

impl AddressPool {
    /// Checks that the range lies in the network. `excluded`: exclusions, the gateway, the nodes' own addresses.
    pub fn new(
        subnet: Ipv4Net,
        first: Ipv4Addr,
        last: Ipv4Addr,
        excluded: BTreeSet<Ipv4Addr>,
    ) -> Result<Self, AddressPoolError> {
        if first > last || !subnet.is_host(first) || !subnet.is_host(last) {
            return Err(AddressPoolError::BadRange(first, last));
        }
        Ok(Self {
            subnet,
            first: first.into(),
            last: last.into(),
            excluded,
        })
    }

    /// The network that it is part of.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// The lowest address that is neither excluded nor taken.
    pub fn next_free(&self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        (self.first..=self.last)
            .map(Ipv4Addr::from)
            .find(|a| !self.excluded.contains(a) && !taken.contains(a))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn mask(prefix: u8) -> u32 {
        u32::MAX << (32 - u32::from(prefix))
    }

    proptest! {
        #[test]
        fn gives_hosts_of_the_network_only_and_each_once(prefix in 25u8..=30, seed: u32, excluded in proptest::collection::btree_set(0u32..300, 0..50)) {
            let network = seed & mask(prefix) & 0x7fff_ffff | 0x0a00_0000;
            let network = network & mask(prefix);
            let subnet: Ipv4Net = format!("{}/{prefix}", Ipv4Addr::from(network)).parse().unwrap();
            let (first, last) = (network + 1, (network | !mask(prefix)) - 1);
            let excluded: BTreeSet<Ipv4Addr> = excluded.iter().map(|o| Ipv4Addr::from(network.saturating_add(*o))).collect();
            let pool = AddressPool::new(subnet, first.into(), last.into(), excluded.clone()).unwrap();
            let mut taken = BTreeSet::new();
            while let Some(address) = pool.next_free(&taken) {
                prop_assert!(subnet.is_host(address) && !excluded.contains(&address));
                prop_assert!(taken.insert(address));
            }
            let free = (first..=last).filter(|a| !excluded.contains(&Ipv4Addr::from(*a))).count();
            prop_assert_eq!(taken.len(), free);
        }
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        let subnet: Ipv4Net = "10.0.0.77/24".parse().unwrap();
        let at = |d| Ipv4Addr::new(10, 0, 0, d);
        assert!(AddressPool::new(subnet, at(0), at(9), BTreeSet::new()).is_err());
        assert!(AddressPool::new(subnet, at(9), at(8), BTreeSet::new()).is_err());
        assert!(AddressPool::new(subnet, at(9), at(255), BTreeSet::new()).is_err());
        assert!(AddressPool::new(subnet, at(9), at(9), BTreeSet::new()).is_ok());
    }
}
