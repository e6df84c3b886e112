//! Argument vectors for backups: `vzdump`, `pvesm`, and what cleans up behind them.

use super::argv::Argv;
use proximity_protocol::{
    backup::BackupSpec,
    ids::{AppId, ArchiveId, NodeName, OperationId, StorageId, Vmid},
};
use std::path::Path;

/// What the notes of an archive say, so that it is found again whatever happens to the agent, and an operator sees whose it is.
pub(crate) fn notes(app: &AppId, operation: OperationId) -> String {
    format!("Proximity backup of {{{{guestname}}}}, app {app}, {}", mark(operation))
}

/// The part of the notes by which an operation's archives are found.
pub(crate) fn mark(operation: OperationId) -> String {
    format!("operation {operation}")
}

/// `vzdump`. Earlier archives stay (`--remove 0`: the storage may have a `prune-backups` of its own), nobody gets mail (`legacy-sendmail` sends only to a
/// `--mailto`, and there is none), and it does not wait for another one, which would hide what it waits for.
pub(crate) fn vzdump(spec: &BackupSpec, operation: OperationId) -> Argv {
    let vmid = spec.target.vmid.to_string();
    let (storage, notes) = (spec.storage.to_string(), notes(&spec.target.owner.app, operation));
    let words = [
        vmid.as_str(),
        "--storage",
        &storage,
        "--mode",
        spec.mode.as_str(),
        "--compress",
        spec.compression.as_str(),
        "--remove",
        "0",
        "--lockwait",
        "0",
        "--notification-mode",
        "legacy-sendmail",
        "--mailnotification",
        "failure",
        "--notes-template",
        &notes,
    ];
    Argv::of("vzdump", words.map(str::to_owned).into())
}

/// `pvesm free`.
pub(crate) fn free(archive: &ArchiveId) -> Argv {
    Argv::of("pvesm", vec!["free".into(), archive.to_string()])
}

/// `pvesm extractconfig`: the configuration that an archive holds.
pub(crate) fn saved_config(archive: &ArchiveId) -> Argv {
    Argv {
        tool: "pvesm",
        words: vec!["extractconfig".into(), archive.to_string()],
    }
}

/// `pvesh get …/content`: backups of a container on a storage, with their notes.
pub(crate) fn backups(node: &NodeName, storage: &StorageId, vmid: Vmid) -> Argv {
    let vmid = vmid.to_string();
    let path = format!("/nodes/{node}/storage/{storage}/content");
    let words = [
        "get",
        &path,
        "--content",
        "backup",
        "--vmid",
        &vmid,
        "--output-format",
        "json",
    ];
    Argv {
        tool: "pvesh",
        words: words.map(str::to_owned).into(),
    }
}

/// `rm -rf` of what a killed `vzdump` of ours left: below one folder, across no other file system.
pub(crate) fn remove(path: &Path) -> Argv {
    Argv::of(
        "/bin/rm",
        vec![
            "-rf".into(),
            "--one-file-system".into(),
            "--".into(),
            path.to_string_lossy().into_owned(),
        ],
    )
}

/// `pct delsnapshot --force`: also when a volume has lost its snapshot already.
pub(crate) fn drop_snapshot(vmid: Vmid, name: &str) -> Argv {
    Argv::of(
        "pct",
        vec![
            "delsnapshot".into(),
            vmid.to_string(),
            name.into(),
            "--force".into(),
            "1".into(),
        ],
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proximity_protocol::{
        backup::{BackupMode, Compression},
        command::Target,
        ids::{Generation, Owner},
    };

    #[test]
    fn vzdump_says_exactly_this() {
        let spec = BackupSpec {
            target: Target {
                vmid: Vmid::new(100).unwrap(),
                owner: Owner {
                    app: "nginx-a1b2c3d4".parse().unwrap(),
                    generation: Generation(1),
                },
            },
            storage: "local".parse().unwrap(),
            mode: BackupMode::Suspend,
            compression: Compression::Zstd,
        };
        let argv = vzdump(&spec, OperationId(uuid::Uuid::from_u128(1)));
        assert_eq!(
            argv.words.join(" "),
            "100 --storage local --mode suspend --compress zstd --remove 0 --lockwait 0 --notification-mode legacy-sendmail --mailnotification failure \
             --notes-template Proximity backup of {{guestname}}, app nginx-a1b2c3d4, operation 00000000-0000-0000-0000-000000000001"
        );
    }
}
