//! What says who is in the cluster: `.members` of each node and `corosync.conf`.

use std::fmt::Write as _;

use super::ClusterInfo;

/// `.members` as `cfs_create_memberlist_msg` of pmxcfs (status.c) writes it.
pub(super) fn members(info: &ClusterInfo, name: &str) -> String {
    let mut text = format!(
        "{{\n\"nodename\": \"{name}\",\n\"version\": {},\n\"cluster\": {{ \"name\": \"{}\", \"version\": {}, \"nodes\": {}, \"quorate\": {} }},\n\"nodelist\": {{\n",
        info.version,
        info.name,
        info.members.len(),
        info.members.len(),
        u8::from(info.is_quorate(name)),
    );
    let lines: Vec<String> = info
        .members
        .iter()
        .map(|member| {
            format!(
                "  \"{}\": {{ \"id\": {}, \"online\": {}, \"ip\": \"{}\"}}",
                member.name,
                member.id,
                u8::from(info.sees(name, &member.name)),
                member.address
            )
        })
        .collect();
    let _ = write!(text, "{}\n  }}\n}}\n", lines.join(",\n"));
    text
}

/// `corosync.conf` as `pvecm` writes it (PVE::Corosync).
pub(super) fn corosync_conf(info: &ClusterInfo) -> String {
    let mut text = "logging {\n  debug: off\n  to_syslog: yes\n}\n\nnodelist {\n".to_owned();
    for member in &info.members {
        let _ = write!(
            text,
            "  node {{\n    name: {}\n    nodeid: {}\n    quorum_votes: 1\n    ring0_addr: {}\n  }}\n",
            member.name, member.id, member.address
        );
    }
    let _ = write!(
        text,
        "}}\n\nquorum {{\n  provider: corosync_votequorum\n}}\n\ntotem {{\n  cluster_name: {}\n  config_version: {}\n  interface {{\n    linknumber: 0\n  }}\n  ip_version: ipv4-6\n  link_mode: passive\n  secauth: on\n  version: 2\n}}\n",
        info.name,
        info.members.len(),
    );
    text
}
