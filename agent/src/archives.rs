//! Which archives are ours: one root-only record per backup, `/etc/pve/priv/proximity/archives/<name>`, written when the archive is complete and removed after
//! it was. A coordinator may only test, restore and delete what has a record of the app that it names, so it cannot reach the backups of other guests. Like
//! [`crate::ownership`] it lies in the cluster file system: every node of the cluster knows it.

use crate::host::{NodeContext, files};
use proximity_protocol::{
    backup::{ArchiveRef, BackupMade, BackupMode, VolumeBackupFacts},
    fault::{Fault, FaultKind},
    ids::{AppId, ArchiveId, OperationId, Vmid},
};
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArchiveRecord {
    /// Of this format; 1.
    pub(crate) version: u32,
    /// Which.
    pub(crate) archive: ArchiveId,
    /// Whose.
    pub(crate) app: AppId,
    /// Of which container.
    pub(crate) vmid: Vmid,
    /// The operation that made it.
    pub(crate) operation: OperationId,
    /// See [`BackupMade`].
    pub(crate) format: String,
    /// See [`BackupMade`].
    pub(crate) size_bytes: Option<u64>,
    /// See [`BackupMade`].
    pub(crate) mode: BackupMode,
    /// See [`BackupMade`].
    pub(crate) volumes: Vec<VolumeBackupFacts>,
    /// See [`BackupMade`].
    pub(crate) duration_s: u64,
}

impl ArchiveRecord {
    /// As the coordinator wants it.
    pub(crate) fn made(self, log: String) -> BackupMade {
        BackupMade {
            archive: self.archive,
            format: self.format,
            size_bytes: self.size_bytes,
            mode: self.mode,
            volumes: self.volumes,
            duration_s: self.duration_s,
            log,
        }
    }
}

fn folder(node: &NodeContext) -> PathBuf {
    node.etc_pve("priv/proximity/archives")
}

/// A name that the cluster file system takes: the archive's, with what separates its parts replaced.
fn path(node: &NodeContext, archive: &ArchiveId) -> PathBuf {
    folder(node).join(archive.as_str().replace(['/', ':'], "+"))
}

fn failed(act: &str, error: &io::Error) -> Fault {
    let kind = match error.raw_os_error() {
        // pmxcfs refuses every write without quorum, with EACCES.
        Some(nix::libc::EACCES) if act != "read" => FaultKind::NotQuorate,
        _ => FaultKind::Internal,
    };
    Fault::new(
        kind,
        format!("cannot {act} the record of a backup in /etc/pve/priv/proximity/archives: {error}"),
    )
}

fn parse(text: &str) -> Result<ArchiveRecord, Fault> {
    serde_json::from_str(text).map_err(|error| failed("read", &io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// The record of an archive.
pub(crate) fn read(node: &NodeContext, archive: &ArchiveId) -> Result<Option<ArchiveRecord>, Fault> {
    let text = files::read_if_there(&path(node, archive)).map_err(|error| failed("read", &error))?;
    let record = text.as_deref().map(parse).transpose()?;
    Ok(record.filter(|record| record.archive == *archive))
}

/// The record of an archive that must be the app's.
pub(crate) fn require(node: &NodeContext, wanted: &ArchiveRef) -> Result<ArchiveRecord, Fault> {
    let refused = |why: &str| {
        Fault::new(
            FaultKind::NotOurs,
            format!("backup {} is not touched: {why}", wanted.archive),
        )
    };
    let record =
        read(node, &wanted.archive)?.ok_or_else(|| refused("this node has no record that Proximity made it"))?;
    if record.app != wanted.app || record.vmid != wanted.vmid {
        return Err(refused("its record names another app or container"));
    }
    Ok(record)
}

/// Every record of the cluster. One that cannot be read is a fault, never left out.
pub(crate) fn all(node: &NodeContext) -> Result<Vec<ArchiveRecord>, Fault> {
    let entries = match std::fs::read_dir(folder(node)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", &error)),
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("read", &error))?;
        // What a write leaves when it breaks off begins with a dot.
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let text = files::read_if_there(&entry.path()).map_err(|error| failed("read", &error))?;
        all.extend(text.as_deref().map(parse).transpose()?);
    }
    all.sort_by(|a, b| a.archive.cmp(&b.archive));
    Ok(all)
}

/// The records of what an operation made.
pub(crate) fn of_operation(node: &NodeContext, operation: OperationId) -> Result<Vec<ArchiveRecord>, Fault> {
    let mut found = all(node)?;
    found.retain(|record| record.operation == operation);
    Ok(found)
}

/// Writes it whole.
pub(crate) fn write(node: &NodeContext, record: &ArchiveRecord) -> Result<(), Fault> {
    let written = (|| {
        files::private_dir(&folder(node))?;
        files::write_private(&path(node, &record.archive), &serde_json::to_vec(record)?)
    })();
    written.map_err(|error| failed("write", &error))
}

/// Removes it; none is fine.
pub(crate) fn remove(node: &NodeContext, archive: &ArchiveId) -> Result<(), Fault> {
    files::remove_if_there(&path(node, archive)).map_err(|error| failed("remove", &error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    pub(crate) fn record(archive: &str, operation: u128) -> ArchiveRecord {
        ArchiveRecord {
            version: 1,
            archive: archive.parse().unwrap(),
            app: "nginx-a1b2c3d4".parse().unwrap(),
            vmid: Vmid::new(100).unwrap(),
            operation: OperationId(uuid::Uuid::from_u128(operation)),
            format: "tar.zst".into(),
            size_bytes: Some(5),
            mode: BackupMode::Stop,
            volumes: vec![],
            duration_s: 1,
        }
    }

    #[test]
    fn a_record_comes_back_and_says_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let ours = record("local:backup/vzdump-lxc-100-2026_11_22-21_11_12.tar.zst", 1);
        let server = record("pbs:backup/ct/100/2026-11-22T20:11:12Z", 2);
        assert_eq!(all(&node).unwrap(), []);
        write(&node, &ours).unwrap();
        write(&node, &server).unwrap();
        assert_eq!(all(&node).unwrap(), [ours.clone(), server.clone()]);
        assert_eq!(
            of_operation(&node, server.operation).unwrap(),
            std::slice::from_ref(&server)
        );
        let wanted = ArchiveRef {
            archive: ours.archive.clone(),
            app: ours.app.clone(),
            vmid: ours.vmid,
        };
        assert_eq!(require(&node, &wanted).unwrap(), ours);
        let others = [
            ArchiveRef {
                app: "nginx-00000000".parse().unwrap(),
                ..wanted.clone()
            },
            ArchiveRef {
                vmid: Vmid::new(101).unwrap(),
                ..wanted.clone()
            },
            ArchiveRef {
                archive: "local:backup/vzdump-lxc-500-2026_11_22-21_11_12.tar.zst"
                    .parse()
                    .unwrap(),
                ..wanted
            },
        ];
        for other in others {
            assert_eq!(require(&node, &other).unwrap_err().kind, FaultKind::NotOurs);
        }
        remove(&node, &server.archive).unwrap();
        assert_eq!(all(&node).unwrap(), [ours]);
        testing::put(dir.path(), "etc/pve/priv/proximity/archives/x", "{");
        assert_eq!(all(&node).unwrap_err().kind, FaultKind::Internal);
        assert_eq!(
            crate::ownership::all(&node).unwrap(),
            [],
            "the folder is no container's record"
        );
    }
}
