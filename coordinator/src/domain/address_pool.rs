//! Which address comes next on a host whose apps have static addresses.

use std::{collections::BTreeSet, net::Ipv4Addr, str::FromStr};

/// An IPv4 network, `10.0.0.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

/// Why a network's range of addresses cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressPoolError {
    /// Not a network.
    #[error("{0:?} is not a network such as 10.0.0.0/24 (prefix 1 to 30)")]
    NotASubnet(String),
    /// A value that is no IPv4 address.
    #[error("{0:?} is not an IPv4 address")]
    NotAnAddress(String),
    /// First after last, or outside.
    #[error("the range {0} to {1} is not within its network")]
    BadRange(Ipv4Addr, Ipv4Addr),
}

impl FromStr for Subnet {
    type Err = AddressPoolError;
    fn from_str(text: &str) -> Result<Self, AddressPoolError> {
        let bad = || AddressPoolError::NotASubnet(text.to_owned());
        let (address, prefix) = text.trim().split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if !(1..=30).contains(&prefix) {
            return Err(bad());
        }
        Ok(Self {
            network: u32::from(address) & mask(prefix),
            prefix,
        })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix))
}

impl Subnet {
    /// Length of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
    /// Whether `address` can be a machine's in it: neither the network's own nor the broadcast one.
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let bits = u32::from(address);
        bits & mask(self.prefix) == self.network && bits != self.network && bits != self.network | !mask(self.prefix)
    }
}

/// The addresses of a host's apps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    subnet: Subnet,
    first: u32,
    last: u32,
    excluded: BTreeSet<Ipv4Addr>,
}

impl AddressPool {
    /// Checks that the range lies in the network. `excluded`: exclusions, the gateway, the nodes' own addresses.
    pub fn new(
        subnet: Subnet,
        first: Ipv4Addr,
        last: Ipv4Addr,
        excluded: BTreeSet<Ipv4Addr>,
    ) -> Result<Self, AddressPoolError> {
        if first > last || !subnet.has_host(first) || !subnet.has_host(last) {
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
    pub fn subnet(&self) -> Subnet {
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

    proptest! {
        #[test]
        fn gives_hosts_of_the_network_only_and_each_once(prefix in 25u8..=30, seed: u32, excluded in proptest::collection::btree_set(0u32..300, 0..50)) {
            let network = seed & mask(prefix) & 0x7fff_ffff | 0x0a00_0000;
            let network = network & mask(prefix);
            let subnet: Subnet = format!("{}/{prefix}", Ipv4Addr::from(network)).parse().unwrap();
            let (first, last) = (network + 1, (network | !mask(prefix)) - 1);
            let excluded: BTreeSet<Ipv4Addr> = excluded.iter().map(|o| Ipv4Addr::from(network.saturating_add(*o))).collect();
            let pool = AddressPool::new(subnet, first.into(), last.into(), excluded.clone()).unwrap();
            let mut taken = BTreeSet::new();
            while let Some(address) = pool.next_free(&taken) {
                prop_assert!(subnet.has_host(address) && !excluded.contains(&address));
                prop_assert!(taken.insert(address));
            }
            let free = (first..=last).filter(|a| !excluded.contains(&Ipv4Addr::from(*a))).count();
            prop_assert_eq!(taken.len(), free);
        }
    }

    #[test]
    fn what_is_not_a_network_or_range_is_refused() {
        for text in ["10.0.0.0", "10.0.0.0/31", "10.0.0/24", "x/24", "10.0.0.0/0"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        let subnet: Subnet = "10.0.0.77/24".parse().unwrap();
        let at = |d| Ipv4Addr::new(10, 0, 0, d);
        assert!(AddressPool::new(subnet, at(0), at(9), BTreeSet::new()).is_err());
        assert!(AddressPool::new(subnet, at(9), at(8), BTreeSet::new()).is_err());
        assert!(AddressPool::new(subnet, at(9), at(255), BTreeSet::new()).is_err());
        assert!(AddressPool::new(subnet, at(9), at(9), BTreeSet::new()).is_ok());
    }
}
