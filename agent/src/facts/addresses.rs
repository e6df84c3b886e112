//! Addresses of a container, from its network namespace: `/proc/<init>/net/fib_trie` and `/proc/<init>/net/route`. Whoever is root inside may give it as many as
//! they like: neither is read without end, nor are more told than the inventory of a whole node has room for.

use super::{NodeContext, processes};
use crate::host::files;
use proximity_protocol::ids::Vmid;
use std::{io, net::Ipv4Addr};

/// How much of a file is read, bytes.
const READ_MAX: u64 = 4 << 20;
/// How many addresses of a container are told.
const ADDRESSES_MAX: usize = 256;

/// What a network namespace has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// Its own addresses, without those of the loopback.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// The way out; `None`: there is none, or it cannot be told.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// Whether the routes could be read.
    pub(crate) routes_known: bool,
}

/// `None`: the container does not run (yet).
pub(crate) fn network(node: &NodeContext, vmid: Vmid) -> io::Result<Option<Network>> {
    let Some(pid) = processes::init_pid(node, vmid) else {
        return Ok(None);
    };
    let trie = match files::head(&node.proc(&format!("{pid}/net/fib_trie")), READ_MAX) {
        Ok(trie) => trie,
        // It ended between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let routes = files::head(&node.proc(&format!("{pid}/net/route")), READ_MAX).ok();
    Ok(Some(Network {
        addresses: local_addresses(&trie),
        gateway: routes
            .as_deref()
            .and_then(|text| default_route(text, None))
            .map(|(_, gateway)| gateway),
        routes_known: routes.is_some(),
    }))
}

/// Own addresses are those followed by `/32 host LOCAL`; the loopback's are left out.
fn local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last
            && !address.is_loopback()
            && !found.contains(&address)
        {
            found.push(address);
            if found.len() == ADDRESSES_MAX {
                break;
            }
        }
    }
    found
}

/// Interface and gateway of the default route, of one interface if it is named (`/proc/net/route`: hexadecimal, in the machine's byte order).
pub(crate) fn default_route(text: &str, interface: Option<&str>) -> Option<(String, Ipv4Addr)> {
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, destination, gateway, _, _, _, _, mask, ..] = fields.as_slice() else {
            return None;
        };
        if *destination != "00000000" || *mask != "00000000" || interface.is_some_and(|wanted| wanted != *name) {
            return None;
        }
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        Some(((*name).to_owned(), Ipv4Addr::from(gateway.to_ne_bytes())))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TRIE: &str = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 10.99.0.0/24 2 0 2\n        |-- 10.99.0.0\n           /24 link UNICAST\n        |-- 10.99.0.102\n           /32 host LOCAL\n        |-- 10.99.0.255\n           /32 link BROADCAST\n     +-- 127.0.0.0/8 2 0 2\n        |-- 127.0.0.1\n           /32 host LOCAL\nLocal:\n        |-- 10.99.0.102\n           /32 host LOCAL\n";

    #[test]
    fn own_addresses_are_told_from_networks_and_broadcasts() {
        assert_eq!(local_addresses(TRIE), [Ipv4Addr::new(10, 99, 0, 102)]);
        assert!(local_addresses("garbage\n/32 host LOCAL\n").is_empty());
    }

    #[test]
    fn a_container_with_countless_addresses_does_not_fill_the_inventory() {
        let mut trie = String::from("Main:\n");
        for n in 0..70_000_u32 {
            let address = Ipv4Addr::from(0x0a00_0000 + n);
            trie.push_str(&format!("        |-- {address}\n           /32 host LOCAL\n"));
        }
        assert_eq!(local_addresses(&trie).len(), ADDRESSES_MAX);
    }

    #[test]
    fn the_default_route_is_read() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0100630A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t0000630A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(
            default_route(text, None),
            Some(("eth0".into(), Ipv4Addr::new(10, 99, 0, 1)))
        );
        assert_eq!(default_route(text, Some("vmbr0")), None);
        assert_eq!(default_route("", None), None);
    }
}
