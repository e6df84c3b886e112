//! Loopback networks for hollow fleets: each fleet takes one `127.N.0.0/16` for itself, so that tests run side by side.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, UdpSocket};

/// A `127.N.0.0/16` that nobody else uses while this lives.
#[derive(Debug)]
pub struct LoopbackNet {
    second: u8,
    _claim: UdpSocket,
}

impl LoopbackNet {
    /// Takes the first free one: whoever holds the UDP port of its last address owns the network. Ends with the process, however it ends.
    pub fn claim() -> Result<Self> {
        (40..=250u8)
            .find_map(|second| {
                let claim = UdpSocket::bind((Ipv4Addr::new(127, second, 255, 254), 61_999)).ok()?;
                Some(Self { second, _claim: claim })
            })
            .context("every loopback network from 127.40.0.0/16 to 127.250.0.0/16 is in use by other test runs")
    }

    /// The address at which node `index` publishes ports.
    pub fn node(&self, index: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second, index + 1, 1)
    }

    /// First and last address for containers of node `index`. Hollow containers have no network: the addresses stand in files only, and nothing is ever
    /// sent to them.
    pub fn pool(&self, index: u8) -> (Ipv4Addr, Ipv4Addr) {
        (
            Ipv4Addr::new(10, self.second, index + 1, 10),
            Ipv4Addr::new(10, self.second, index + 1, 250),
        )
    }

    /// The network of node `index`'s containers, CIDR.
    pub fn subnet(&self, index: u8) -> String {
        format!("10.{}.{}.0/24", self.second, index + 1)
    }
}
