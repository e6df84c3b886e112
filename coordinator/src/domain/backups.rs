//! How a backup is made: on which storage, and in which mode. What a storage cannot do in the mode that was asked for is known before anything begins.

use super::app_state::{UnknownWord, words};
use proximity_protocol::{
    backup::{BackupMode, Compression, ContainerBackupFacts, VolumeBackupFacts, copies_through_snapshots},
    ids::StorageId,
    observed::{NodeFacts, StorageFact},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

words!(
    /// Where a backup stands.
    BackupStatus {
        /// It is being made.
        Creating = "creating",
        /// It can be restored.
        Completed = "completed",
        /// It was not made; nothing of it is left.
        Failed = "failed",
        /// Its app is being brought back from it.
        Restoring = "restoring",
        /// It is on its way out.
        Deleting = "deleting",
        /// Somebody else removed its archive.
        Gone = "gone",
    }
);

impl BackupStatus {
    /// Whether an operation works on it.
    pub fn in_progress(self) -> bool {
        matches!(self, Self::Creating | Self::Restoring | Self::Deleting)
    }
}

/// The mode of that word.
pub fn mode(word: &str) -> Option<BackupMode> {
    [BackupMode::Snapshot, BackupMode::Suspend, BackupMode::Stop]
        .into_iter()
        .find(|mode| mode.as_str() == word)
}

/// The compression of that word.
pub fn compression(word: &str) -> Option<Compression> {
    [Compression::Zstd, Compression::Gzip, Compression::Lzo]
        .into_iter()
        .find(|compression| compression.as_str() == word)
}

/// Kind of a storage that is a Proxmox Backup Server.
const BACKUP_SERVER: &str = "pbs";

fn takes_backups(storage: &StorageFact) -> bool {
    storage.content.iter().any(|content| content == "backup")
}

/// The storage for a backup: the one that was asked for, else a backup server, else one that other nodes reach, else the one with most space. Among equals the
/// name decides, so that an app's backups stay together.
///
/// # Errors
/// Why there is none, and what to do.
pub fn choose_storage<'f>(facts: &'f NodeFacts, asked: Option<&StorageId>) -> Result<&'f StorageFact, String> {
    let node = &facts.node_name;
    let allowed =
        |storage: &&StorageFact| facts.policy.storages.is_empty() || facts.policy.storages.contains(&storage.id);
    let fitting: Vec<&StorageFact> = facts
        .storages
        .iter()
        .filter(|s| takes_backups(s))
        .filter(allowed)
        .collect();
    let names = || match fitting.as_slice() {
        [] => format!("no storage of {node} takes backups: allow the content `backup` on one in Proxmox"),
        some => {
            let names: Vec<&str> = some.iter().map(|s| s.id.as_str()).collect();
            format!("those of {node} that take backups are: {}", names.join(", "))
        }
    };
    if let Some(asked) = asked {
        return match facts.storages.iter().find(|s| s.id == *asked) {
            None => Err(format!("there is no storage {asked} on {node}; {}", names())),
            Some(storage) if !allowed(&storage) => Err(format!(
                "the policy of {node} does not allow storage {asked}; {}",
                names()
            )),
            Some(storage) if !takes_backups(storage) => {
                Err(format!("storage {asked} does not take backups; {}", names()))
            }
            Some(storage) => Ok(storage),
        };
    }
    let free = |s: &StorageFact| s.total_bytes.unwrap_or(0).saturating_sub(s.used_bytes.unwrap_or(0));
    fitting
        .iter()
        .copied()
        .min_by_key(|s| {
            (
                s.kind != BACKUP_SERVER,
                !s.shared,
                std::cmp::Reverse(free(s)),
                s.id.clone(),
            )
        })
        .ok_or_else(names)
}

/// How a backup is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The mode.
    pub mode: BackupMode,
    /// Why it is not as asked, in words.
    pub fallback: Option<String>,
}

/// The mode for a container as it is now.
pub fn way(asked: BackupMode, container: &ContainerBackupFacts) -> Way {
    let as_asked = Way {
        mode: asked,
        fallback: None,
    };
    // What stands still is copied as it is, whatever the mode.
    if !container.running {
        return as_asked;
    }
    let without = container
        .volumes
        .iter()
        .find(|volume| volume.left_out.is_none() && !copies_through_snapshots(&volume.storage_kind));
    let (mode, because) = match (asked, without) {
        (BackupMode::Snapshot, Some(volume)) => (
            BackupMode::Suspend,
            format!(
                "a snapshot is not possible while the app runs: its volume {} is on a storage of kind {}, which has none that could be copied; it is \
                 suspended instead, which keeps it still for the last part of the copy",
                volume.key, volume.storage_kind
            ),
        ),
        (BackupMode::Stop, None) if container.ha_managed => (
            BackupMode::Snapshot,
            "it is not stopped, because Proxmox's HA manages the container and would start it in the middle; a snapshot is copied instead".into(),
        ),
        (BackupMode::Stop, Some(_)) if container.ha_managed => (
            BackupMode::Suspend,
            "it is not stopped, because Proxmox's HA manages the container and would start it in the middle; it is suspended instead".into(),
        ),
        _ => return as_asked,
    };
    Way {
        mode,
        fallback: Some(because),
    }
}

/// Volumes that backups do not hold, in words: `mp1 (/srv/data): …`.
pub fn left_out(volumes: &[VolumeBackupFacts]) -> Vec<String> {
    volumes
        .iter()
        .filter_map(|volume| {
            let why = volume.left_out.as_ref()?;
            Some(format!("{} ({}): {why}", volume.key, volume.path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::operations::tests::world::facts;

    fn volume(key: &str, kind: &str, left_out: Option<&str>) -> VolumeBackupFacts {
        VolumeBackupFacts {
            key: key.into(),
            path: "/srv".into(),
            storage_kind: kind.into(),
            left_out: left_out.map(str::to_owned),
        }
    }

    fn container(running: bool, ha_managed: bool, kinds: &[&str]) -> ContainerBackupFacts {
        ContainerBackupFacts {
            running,
            onboot: true,
            ha_managed,
            waits_for: None,
            volumes: kinds.iter().map(|kind| volume("rootfs", kind, None)).collect(),
        }
    }

    #[test]
    fn the_mode_is_as_asked_or_says_why_not() {
        use BackupMode::{Snapshot, Stop, Suspend};
        for (asked, running, ha, kinds, mode, falls_back) in [
            (
                Snapshot,
                true,
                false,
                &["lvmthin", "zfspool", "rbd"][..],
                Snapshot,
                false,
            ),
            (Snapshot, true, false, &["lvmthin", "dir"][..], Suspend, true),
            (Snapshot, true, true, &["nfs"][..], Suspend, true),
            (Snapshot, true, false, &["btrfs"][..], Suspend, true),
            (Snapshot, false, false, &["dir"][..], Snapshot, false),
            (Suspend, true, true, &["dir"][..], Suspend, false),
            (Stop, true, false, &["dir"][..], Stop, false),
            (Stop, true, true, &["dir"][..], Suspend, true),
            (Stop, true, true, &["lvmthin"][..], Snapshot, true),
            (Stop, false, true, &["dir"][..], Stop, false),
        ] {
            let way = way(asked, &container(running, ha, kinds));
            assert_eq!(
                (way.mode, way.fallback.is_some()),
                (mode, falls_back),
                "{asked:?} {kinds:?}"
            );
        }
        // What is left out of the backup need not be copied.
        let mut facts = container(true, false, &["lvmthin"]);
        facts.volumes.push(volume("mp1", "dir", Some("backup is not set")));
        assert_eq!(way(Snapshot, &facts).fallback, None);
        assert_eq!(left_out(&facts.volumes), ["mp1 (/srv): backup is not set"]);
    }

    fn storage(id: &str, kind: &str, content: &str, shared: bool, free: u64) -> StorageFact {
        StorageFact {
            id: id.parse().unwrap(),
            kind: kind.into(),
            content: content.split(',').map(str::to_owned).collect(),
            shared,
            total_bytes: Some(free),
            used_bytes: Some(0),
        }
    }

    #[test]
    fn the_safest_storage_is_chosen_and_what_is_asked_is_checked() {
        let mut node = facts("pve1");
        node.storages = vec![storage("local-lvm", "lvmthin", "rootdir", false, 9)];
        assert!(
            choose_storage(&node, None)
                .unwrap_err()
                .contains("allow the content `backup`")
        );
        for (storage, chosen) in [
            (storage("local", "dir", "rootdir,backup", false, 5), "local"),
            (storage("big", "dir", "backup", false, 7), "big"),
            (storage("also", "dir", "backup", false, 7), "also"),
            (storage("nas", "nfs", "backup", true, 1), "nas"),
            (storage("pbs", "pbs", "backup", true, 0), "pbs"),
        ] {
            node.storages.push(storage);
            assert_eq!(choose_storage(&node, None).unwrap().id.as_str(), chosen);
        }
        let asked = |id: &str| choose_storage(&node, Some(&id.parse().unwrap())).map(|s| s.id.to_string());
        assert_eq!(asked("local").unwrap(), "local");
        assert!(
            asked("local-lvm")
                .unwrap_err()
                .contains("does not take backups; those of pve1")
        );
        assert!(asked("nope").unwrap_err().contains("there is no storage nope on pve1"));
        let mut strict = node.clone();
        strict.policy.storages = vec!["nas".parse().unwrap()];
        assert_eq!(choose_storage(&strict, None).unwrap().id.as_str(), "nas");
        assert!(
            choose_storage(&strict, Some(&"pbs".parse().unwrap()))
                .unwrap_err()
                .contains("policy")
        );
    }
}
