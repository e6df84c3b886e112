//! `.members`, `.vmlist` and `datacenter.cfg` of `/etc/pve`.

use proximity_protocol::ids::Vmid;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `.members`: which nodes there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Members {
    pub(crate) nodename: String,
    /// `None` on a standalone machine.
    pub(crate) cluster: Option<String>,
    /// A standalone machine always is.
    pub(crate) quorate: bool,
}

#[derive(Deserialize)]
struct MembersFile {
    nodename: String,
    cluster: Option<ClusterPart>,
}

#[derive(Deserialize)]
struct ClusterPart {
    #[serde(default)]
    name: String,
    quorate: serde_json::Value,
}

impl Members {
    /// The error says what is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: MembersFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let quorate = match &file.cluster {
            None => true,
            Some(cluster) => cluster.quorate.as_u64() == Some(1) || cluster.quorate.as_bool() == Some(true),
        };
        Ok(Self {
            nodename: file.nodename,
            cluster: file.cluster.map(|cluster| cluster.name),
            quorate,
        })
    }
}

/// What a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestKind {
    Container,
    Machine,
}

/// Where a guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) node: String,
    pub(crate) kind: GuestKind,
}

/// `.vmlist`: every guest of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GuestList {
    /// Rises with every change of a guest's configuration.
    pub(crate) version: u64,
    pub(crate) guests: BTreeMap<Vmid, Guest>,
}

#[derive(Deserialize)]
struct GuestListFile {
    version: u64,
    ids: BTreeMap<String, GuestPart>,
}

#[derive(Deserialize)]
struct GuestPart {
    node: String,
    #[serde(rename = "type")]
    kind: String,
}

impl GuestList {
    /// The whole list, or an error: half a list would make guests look missing.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: GuestListFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut guests = BTreeMap::new();
        for (id, part) in file.ids {
            let vmid = id.parse::<Vmid>().map_err(|error| error.to_string())?;
            let kind = if part.kind == "lxc" {
                GuestKind::Container
            } else {
                GuestKind::Machine
            };
            guests.insert(vmid, Guest { node: part.node, kind });
        }
        Ok(Self {
            version: file.version,
            guests,
        })
    }
}

/// The range for new VMIDs of `datacenter.cfg`, both inclusive here. In the file `upper` is exclusive, and either may be missing
/// (`next-id: lower=1000,upper=2000`, PVE::DataCenterConfig; defaults 100 and 1 000 000).
pub(crate) fn next_id_range(datacenter_cfg: &str) -> Option<(u32, u32)> {
    let line = datacenter_cfg
        .lines()
        .find_map(|line| line.trim().strip_prefix("next-id:"))?;
    let value = |name: &str| {
        line.split(',').find_map(|part| {
            part.trim()
                .strip_prefix(name)?
                .strip_prefix('=')?
                .trim()
                .parse::<u32>()
                .ok()
        })
    };
    let (lower, upper) = (value("lower").unwrap_or(100), value("upper").unwrap_or(1_000_000));
    (lower < upper).then(|| (lower, upper - 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_standalone_machine_is_quorate() {
        let members = Members::parse("{\n\"nodename\": \"pve1\",\n\"version\": 0\n}\n").unwrap();
        assert_eq!(
            (members.nodename.as_str(), members.cluster, members.quorate),
            ("pve1", None, true)
        );
    }

    #[test]
    fn a_cluster_says_whether_it_is_quorate() {
        let text = |quorate: u8| {
            format!(
                r#"{{"nodename":"a","version":3,"cluster":{{"name":"c","version":2,"nodes":3,"quorate":{quorate}}},"nodelist":{{"a":{{"id":1,"online":1,"ip":"10.0.0.1"}}}}}}"#
            )
        };
        assert!(Members::parse(&text(1)).unwrap().quorate);
        assert!(!Members::parse(&text(0)).unwrap().quorate);
    }

    #[test]
    fn the_guest_list_is_whole_or_an_error() {
        let list = GuestList::parse(r#"{"version":145,"ids":{"105":{"node":"pve1","type":"lxc","version":94},"100":{"node":"pve2","type":"qemu","version":1}}}"#).unwrap();
        assert_eq!(list.version, 145);
        assert_eq!(
            list.guests[&Vmid::new(100).unwrap()],
            Guest {
                node: "pve2".into(),
                kind: GuestKind::Machine
            }
        );
        assert!(GuestList::parse(r#"{"version":1,"ids":{"7":{"node":"pve1","type":"lxc","version":94}}}"#).is_err());
        assert!(GuestList::parse("").is_err());
        assert!(GuestList::parse(r#"{"version":1}"#).is_err());
    }

    #[test]
    fn the_range_of_new_numbers_is_inclusive() {
        assert_eq!(
            next_id_range("keyboard: de\nnext-id: lower=1000,upper=2000\n"),
            Some((1000, 1999))
        );
        assert_eq!(next_id_range("next-id: upper=500\n"), Some((100, 499)));
        assert_eq!(next_id_range("keyboard: de\n"), None);
        assert_eq!(next_id_range("next-id: lower=5,upper=5\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = (Members::parse(&text), GuestList::parse(&text), next_id_range(&format!("next-id: lower={text}")), next_id_range(&text));
        }
    }
}
