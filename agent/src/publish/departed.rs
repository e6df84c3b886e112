//! Entries whose containers have left: a container of ours that is on another node of the cluster now is published there, and not here any more.
//!
//! Only the cluster's own word counts, and only with quorum. What cannot be read, and what is missing altogether, lets every entry stand: the coordinator
//! takes it back when its app goes.

use super::desired::PublishedPort;
use crate::{
    host::NodeContext,
    pve::cluster::{GuestList, Members},
};

/// Takes the entries out whose containers are on other nodes, and answers them.
pub(super) fn take_out(node: &NodeContext, wanted: &mut Vec<PublishedPort>) -> Vec<PublishedPort> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let read = |name: &str| std::fs::read_to_string(node.etc_pve(name)).map_err(|error| error.to_string());
    let members = read(".members").and_then(|text| Members::parse(&text));
    let guests = read(".vmlist").and_then(|text| GuestList::parse(&text));
    match (members, guests) {
        (Ok(members), Ok(guests)) if members.quorate => split(wanted, &guests, node.name().as_str()),
        _ => Vec::new(),
    }
}

fn split(wanted: &mut Vec<PublishedPort>, guests: &GuestList, own: &str) -> Vec<PublishedPort> {
    let left = |port: &PublishedPort| guests.guests.get(&port.vmid).is_some_and(|guest| guest.node != own);
    let gone = wanted.iter().filter(|port| left(port)).cloned().collect();
    wanted.retain(|port| !left(port));
    gone
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{facts::testing, publish::WayBack};
    use proximity_protocol::ids::{Generation, Owner, Vmid};

    fn port(vmid: u32) -> PublishedPort {
        PublishedPort {
            public_port: 8000,
            vmid: Vmid::new(vmid).unwrap(),
            owner: Owner {
                app: "nginx-a1b2c3d4".parse().unwrap(),
                generation: Generation(1),
            },
            address: [10, 0, 0, 5].into(),
            port: 80,
            way_back: WayBack::Elsewhere,
        }
    }

    #[test]
    fn only_what_is_elsewhere_for_sure_goes() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let list = r#"{"version":2,"ids":{"100":{"node":"pve1","type":"lxc","version":1},"101":{"node":"pve2","type":"lxc","version":1}}}"#;
        testing::put(dir.path(), "etc/pve/.vmlist", list);
        let left = |quorate: u8| {
            let members = format!(r#"{{"nodename":"pve1","cluster":{{"name":"c","quorate":{quorate}}}}}"#);
            testing::put(dir.path(), "etc/pve/.members", &members);
            // Here, elsewhere, nowhere.
            let mut wanted = vec![port(100), port(101), port(102)];
            take_out(&node, &mut wanted);
            wanted.into_iter().map(|port| port.vmid.get()).collect::<Vec<_>>()
        };
        assert_eq!(left(1), [100, 102]);
        assert_eq!(left(0), [100, 101, 102], "a list of yesterday");
        testing::put(dir.path(), "etc/pve/.vmlist", "{");
        assert_eq!(left(1), [100, 101, 102]);
    }
}
