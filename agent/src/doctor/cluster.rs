//! `/etc/pve` and the cluster's quorum.

use super::Finding;
use crate::{
    config::Config,
    pve::cluster::{GuestList, Members},
};
use std::path::Path;

const CHECK: &str = "cluster";

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let etc_pve = &config.host.etc_pve;
    let mut findings = vec![match read(&etc_pve.join(".members"), Members::parse) {
        Err(finding) => finding,
        Ok(members) => of_members(&members),
    }];
    findings.extend(read(&etc_pve.join(".vmlist"), GuestList::parse).err());
    findings
}

fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Finding> {
    std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|text| parse(&text))
        .map_err(|why| {
            Finding::fail(
                CHECK,
                format!("{} cannot be read: {why}", path.display()),
                "is this a Proxmox VE node, does this run as root, and does pve-cluster run? `systemctl status pve-cluster`",
            )
        })
}

fn of_members(members: &Members) -> Finding {
    let name = &members.nodename;
    match &members.cluster {
        None => Finding::ok(CHECK, format!("{name} is a standalone node")),
        Some(cluster) if members.quorate => {
            Finding::ok(CHECK, format!("{name} is in cluster {cluster}, which has quorum"))
        }
        Some(cluster) => Finding::fail(
            CHECK,
            format!(
                "{name} is in cluster {cluster}, which has no quorum: nothing can be changed, and what runs goes on"
            ),
            "bring the other nodes back; `pvecm status` names them",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::Level, facts::testing};

    #[test]
    fn quorum_and_readable_files_are_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let config = testing::config(dir.path());
        assert_eq!(check(&config)[0].level, Level::Fail);
        testing::node(dir.path());
        let findings = check(&config);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Ok));
        let members = r#"{"nodename":"a","cluster":{"name":"c","quorate":0}}"#;
        testing::put(dir.path(), "etc/pve/.members", members);
        assert!(check(&config)[0].says.contains("no quorum"));
        testing::put(dir.path(), "etc/pve/.vmlist", "{");
        assert!(check(&config)[1].says.contains(".vmlist"));
    }
}
