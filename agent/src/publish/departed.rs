//! Entries whose containers have left: a container of ours that is on another node of the cluster now is published there, and not here any more. It may have
//! been destroyed there before anybody looked here, and somebody else may have made another under its number since.
//!
//! Only the cluster's own word counts, and only with quorum. What cannot be read, and what is missing altogether, lets every entry stand: the coordinator
//! takes it back when its app goes.

use super::desired::PublishedPort;
use crate::{
    host::NodeContext,
    ownership,
    pve::{
        argv::TAG,
        cluster::{GuestList, Members},
        conf::Conf,
    },
};

/// Takes the entries out whose containers are on other nodes, or are others than they were, and answers them.
pub(super) fn take_out(node: &NodeContext, wanted: &mut Vec<PublishedPort>) -> Vec<PublishedPort> {
    if wanted.is_empty() {
        return Vec::new();
    }
    let read = |name: &str| std::fs::read_to_string(node.etc_pve(name)).map_err(|error| error.to_string());
    let members = read(".members").and_then(|text| Members::parse(&text));
    let guests = read(".vmlist").and_then(|text| GuestList::parse(&text));
    match (members, guests) {
        (Ok(members), Ok(guests)) if members.quorate => split(node, wanted, &guests),
        _ => Vec::new(),
    }
}

/// Whether the container that is here under the number is not the entry's: its record is of another app, or it has none and nothing says that it is ours.
fn is_anothers(node: &NodeContext, port: &PublishedPort) -> bool {
    match ownership::read(node, port.vmid) {
        Ok(Some(record)) => record.owner != port.owner,
        Ok(None) => {
            let conf = node.etc_pve(&format!("nodes/{}/lxc/{}.conf", node.name(), port.vmid));
            std::fs::read_to_string(conf).is_ok_and(|text| !Conf::parse(&text).has_tag(TAG))
        }
        Err(_) => false,
    }
}

fn split(node: &NodeContext, wanted: &mut Vec<PublishedPort>, guests: &GuestList) -> Vec<PublishedPort> {
    let left = |port: &PublishedPort| {
        let guest = guests.guests.get(&port.vmid);
        guest.is_some_and(|guest| guest.node != node.name().as_str() || is_anothers(node, port))
    };
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
    /// Ours had moved away and was destroyed there, and a stranger has taken its number, before this node looked.
    #[test]
    fn a_strangers_container_under_the_number_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        testing::put(dir.path(), "etc/pve/.members", r#"{"nodename":"pve1","version":0}"#);
        let list = r#"{"version":2,"ids":{"100":{"node":"pve1","type":"lxc","version":1}}}"#;
        testing::put(dir.path(), "etc/pve/.vmlist", list);
        let stays = |conf: &str| {
            testing::put(dir.path(), "etc/pve/nodes/pve1/lxc/100.conf", conf);
            let mut wanted = vec![port(100)];
            take_out(&node, &mut wanted);
            !wanted.is_empty()
        };
        assert!(
            stays("hostname: web\nrootfs: local:100/x\ntags: proximity\n"),
            "it has only lost its record"
        );
        assert!(!stays("hostname: stranger\nrootfs: local:100/x\n"));
        let record = r#"{"version":1,"app":"other-a1b2c3d4","generation":1,"operation":"00000000-0000-0000-0000-000000000007","began_unix_s":1}"#;
        testing::put(dir.path(), "etc/pve/priv/proximity/100", record);
        assert!(
            !stays("hostname: web\nrootfs: local:100/x\ntags: proximity\n"),
            "another app's"
        );
    }
}
