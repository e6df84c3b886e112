//! IPv4 and IPv6 networks in CIDR notation.

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

/// An IPv4 network, e.g. `10.0.0.0/24`. A host's address with its prefix length is taken for its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Net {
    network: u32,
    prefix: u8,
}

impl Ipv4Net {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
    /// Length of the prefix.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
    /// Whether the address lies inside and is neither the network's own nor the broadcast address.
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        let bits = u32::from(address);
        bits & self.mask() == self.network && bits != self.network && bits != self.network | !self.mask()
    }
}

impl FromStr for Ipv4Net {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let rule =
            || format!("has to be an IPv4 network with its prefix length (1 to 30), e.g. 10.0.0.0/24, not {text:?}");
        let (address, prefix) = text.split_once('/').ok_or_else(rule)?;
        let address: Ipv4Addr = address.parse().map_err(|_| rule())?;
        let prefix: u8 = prefix.parse().map_err(|_| rule())?;
        if !(1..=30).contains(&prefix) {
            return Err(rule());
        }
        let net = Self { network: 0, prefix };
        Ok(Self {
            network: u32::from(address) & net.mask(),
            prefix,
        })
    }
}

/// A network of either family, for lists of trusted addresses. A plain address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// Whether the address lies inside; an IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(net) & mask == u32::from(a) & mask
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(net) & mask == u128::from(a) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for IpNet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || format!("{text:?} is neither an address nor a network such as 192.0.2.0/24");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| rule())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| rule())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(max);
        if prefix > max {
            return Err(rule());
        }
        Ok(Self { address, prefix })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn networks_know_their_hosts() {
        let net: Ipv4Net = "10.1.2.3/24".parse().unwrap();
        assert!(net.is_host(Ipv4Addr::new(10, 1, 2, 1)));
        for outside in ["10.1.2.0", "10.1.2.255", "10.1.3.1"] {
            assert!(!net.is_host(outside.parse().unwrap()), "{outside}");
        }
        for bad in ["10.0.0.0", "10.0.0.0/31", "10.0.0.0/0", "x/24", "10.0.0/24", "::/64"] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mapped_address_counts_as_what_it_is() {
        let net: IpNet = "192.0.2.0/24".parse().unwrap();
        assert!(net.contains("::ffff:192.0.2.7".parse().unwrap()));
        assert!(!net.contains("192.0.3.7".parse().unwrap()));
        assert!("::1".parse::<IpNet>().unwrap().contains("::1".parse().unwrap()));
        assert!(
            "0.0.0.0/0"
                .parse::<IpNet>()
                .unwrap()
                .contains("203.0.113.9".parse().unwrap())
        );
        assert!("10.0.0.0/33".parse::<IpNet>().is_err());
    }
}
