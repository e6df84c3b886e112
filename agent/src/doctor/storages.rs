//! What each storage of the node can do, and how full it is.

use super::Finding;
use crate::{
    facts::{cluster, storages::folder},
    host::NodeContext,
    pve::storage_cfg::Storage,
};
use std::time::Duration;

const CHECK: &str = "storage";
const BOUND: Duration = Duration::from_secs(5);
/// Below this share of free space a storage is called full.
const FREE_PERCENT_LEAST: u64 = 5;

pub(super) async fn check(node: Option<&NodeContext>) -> Vec<Finding> {
    let Some(node) = node else {
        return vec![Finding::fail(
            CHECK,
            "not looked at, because /etc/pve cannot be read",
            "see the check `cluster`",
        )];
    };
    let storages = match cluster::storages(node) {
        Ok(storages) => storages,
        Err(fault) => return vec![Finding::fail(CHECK, fault.message, "see the check `cluster`")],
    };
    let mut findings = missing(&storages);
    for storage in &storages {
        let free = match folder(node, storage) {
            Some(path) => match node.usage().now(&path, BOUND).await {
                Some(figures) => Some((
                    figures.total_bytes.saturating_sub(figures.used_bytes),
                    figures.total_bytes,
                )),
                None => {
                    findings.push(Finding::warn(
                        CHECK,
                        format!("{}: {} does not say how full it is", storage.id, path.display()),
                        "is it mounted, and does its server answer? `pvesm status`",
                    ));
                    continue;
                }
            },
            None => None,
        };
        findings.push(of_storage(storage, free));
    }
    findings
}

/// What none of them takes.
fn missing(storages: &[Storage]) -> Vec<Finding> {
    [("rootdir", "Container"), ("vztmpl", "CT templates")]
        .into_iter()
        .filter(|(content, _)| !storages.iter().any(|storage| storage.takes(content)))
        .map(|(content, name)| {
            Finding::fail(
                CHECK,
                format!("no storage of this node takes {content}"),
                format!("allow `{name}` on one: Datacenter, Storage, Edit, Content"),
            )
        })
        .collect()
}

fn of_storage(storage: &Storage, free: Option<(u64, u64)>) -> Finding {
    let mut says = format!(
        "{} ({}) takes {}; {}",
        storage.id,
        storage.kind,
        storage.content().join(", "),
        abilities(&storage.kind)
    );
    if storage.shared() {
        says.push_str("; shared between nodes");
    }
    match free {
        Some((free, total)) if total > 0 && free.saturating_mul(100) / total < FREE_PERCENT_LEAST => Finding::warn(
            CHECK,
            format!("{says}; only {} MiB of {} MiB are free", free >> 20, total >> 20),
            "make room there, or add a storage",
        ),
        Some((free, total)) => Finding::ok(CHECK, format!("{says}; {} of {} MiB free", free >> 20, total >> 20)),
        None => Finding::ok(CHECK, says),
    }
}

fn abilities(kind: &str) -> &'static str {
    match kind {
        "dir" | "nfs" | "cifs" | "cephfs" | "glusterfs" => {
            "no snapshots: backups suspend or stop the container, no clone of a running one, no rollback"
        }
        "lvmthin" | "rbd" => "snapshots and clones of running containers, rollback to any snapshot",
        "zfspool" => "snapshots and clones of running containers, rollback to the newest snapshot only",
        "btrfs" => {
            "snapshots of volumes, but backups suspend or stop the container; no clone of a running one, rollback to any snapshot"
        }
        "pbs" => "backups only",
        "lvm" => "no snapshots: backups suspend or stop the container, no clone of a running one, no rollback",
        _ => "what it can do is not known",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::Level, pve::storage_cfg::parse};

    #[test]
    fn storages_are_described_and_what_is_missing_is_named() {
        let (storages, _) = parse(
            "dir: local\n\tpath /x\n\tcontent vztmpl\n\nlvmthin: thin\n\tcontent rootdir\n\nrbd: ceph\n\tcontent images\n",
        );
        assert!(missing(&storages).is_empty());
        assert!(missing(&storages[..1])[0].says.contains("rootdir"));
        let [local, thin, ceph] = storages.as_slice() else {
            panic!("three")
        };
        assert_eq!(of_storage(local, Some((50 << 20, 100 << 20))).level, Level::Ok);
        assert_eq!(of_storage(local, Some((4 << 20, 100 << 20))).level, Level::Warn);
        assert!(of_storage(local, None).says.contains("no snapshots"));
        assert!(of_storage(thin, None).says.contains("any snapshot"));
        assert!(of_storage(ceph, None).says.contains("shared"));
    }

    #[tokio::test]
    async fn a_missing_folder_is_a_warning_and_a_missing_node_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let node = crate::facts::testing::node(dir.path());
        assert_eq!(check(Some(&node)).await[0].level, Level::Warn);
        std::fs::create_dir_all(dir.path().join("var/lib/vz")).unwrap();
        assert!(check(Some(&node)).await[0].says.contains("free"));
        assert_eq!(check(None).await[0].level, Level::Fail);
    }
}
