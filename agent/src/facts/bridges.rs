//! Bridges that a container can be put on: interfaces with a folder `bridge` in sysfs (Linux bridges) or of type Open vSwitch.

use super::{NodeContext, addresses};
use nix::ifaddrs::getifaddrs;
use proximity_protocol::{ids::BridgeName, observed::BridgeFact};
use std::{fs, io, net::Ipv4Addr};

/// Whether a bridge exists.
pub(crate) fn exists(node: &NodeContext, name: &BridgeName) -> bool {
    let folder = node.host().sys_class_net.join(name.as_str());
    folder.join("bridge").is_dir() || is_open_vswitch(&folder)
}

fn is_open_vswitch(folder: &std::path::Path) -> bool {
    // An OVS bridge is a plain interface whose driver says what it is.
    fs::read_link(folder.join("device/driver")).is_ok_and(|driver| driver.ends_with("openvswitch"))
        || folder.join("ovs").exists()
}

/// All bridges, by name.
pub(super) fn facts(node: &NodeContext) -> io::Result<Vec<BridgeFact>> {
    let mut bridges = Vec::new();
    let routes = fs::read_to_string(node.proc("net/route")).unwrap_or_default();
    for entry in fs::read_dir(&node.host().sys_class_net)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Proxmox's own bridges for its firewall (fwbr<id>i<n>) carry one container each.
        let Ok(name) = BridgeName::new(name) else { continue };
        if name.as_str().starts_with("fwbr") || !exists(node, &name) {
            continue;
        }
        let address = address_of(name.as_str());
        bridges.push(BridgeFact {
            address: address.map(|(address, _)| address),
            prefix: address.map(|(_, prefix)| prefix),
            gateway: addresses::default_route(&routes, Some(name.as_str())).map(|(_, gateway)| gateway),
            name,
        });
    }
    bridges.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bridges)
}

/// The node's first address on an interface.
pub(crate) fn address_of(interface: &str) -> Option<(Ipv4Addr, u8)> {
    own_addresses()
        .ok()?
        .into_iter()
        .find(|(name, _, _)| name == interface)
        .map(|(_, address, prefix)| (address, prefix))
}

/// All addresses of the node: interface, address, length of the prefix.
pub(crate) fn own_addresses() -> io::Result<Vec<(String, Ipv4Addr, u8)>> {
    Ok(getifaddrs()?
        .filter_map(|entry| {
            let address = entry.address.as_ref()?.as_sockaddr_in()?.ip();
            let mask = entry.netmask.as_ref()?.as_sockaddr_in()?.ip();
            Some((
                entry.interface_name,
                address,
                u8::try_from(u32::from(mask).count_ones()).ok()?,
            ))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn only_bridges_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        fs::create_dir_all(dir.path().join("sys/class/net/eth0")).unwrap();
        fs::create_dir_all(dir.path().join("sys/class/net/fwbr100i0/bridge")).unwrap();
        let names: Vec<String> = facts(&node)
            .unwrap()
            .into_iter()
            .map(|bridge| bridge.name.to_string())
            .collect();
        assert_eq!(names, ["vmbr0"]);
        assert!(!exists(&node, &BridgeName::new("eth0").unwrap()));
    }

    #[test]
    fn the_loopback_has_its_address() {
        assert!(
            own_addresses()
                .unwrap()
                .contains(&("lo".into(), Ipv4Addr::LOCALHOST, 8))
        );
    }
}
