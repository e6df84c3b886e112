//! What backups depend on: whether one runs on the node, what HA manages, where archives lie, and which of them are there. Read without a process; only a
//! Proxmox Backup Server has to be asked.

use super::{NodeContext, cluster, storages};
use crate::{
    host::{Short, ShortEnd, files},
    pve::{argv::Argv, backup_argv, storage_cfg::Storage},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{ArchiveId, OperationId, StorageId, Vmid},
};
use serde::Deserialize;
use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::PathBuf,
    time::Duration,
};

/// How long a tool that only looks may take.
const BOUND: Duration = Duration::from_secs(60);

/// An archive as a storage shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) archive: ArchiveId,
    pub(crate) size_bytes: Option<u64>,
    /// Its file; `None` on a Proxmox Backup Server.
    pub(crate) file: Option<PathBuf>,
}

/// Whether a `vzdump` runs on the node: it holds this lock for as long.
pub(crate) fn one_runs(node: &NodeContext) -> Result<bool, Fault> {
    let path = node.host().run.join("vzdump.lock");
    let failed = |error: io::Error| {
        Fault::new(
            FaultKind::Internal,
            format!("{} cannot be looked at: {error}", path.display()),
        )
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    // Shared and dropped at once: it keeps nobody out for longer than this line.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Where the archives of a storage lie; `None`: it keeps no files (a Proxmox Backup Server).
pub(crate) fn folder(node: &NodeContext, storage: &Storage) -> Option<PathBuf> {
    Some(storages::folder(node, storage)?.join(storage.backup_folder()))
}

/// The storage, which must take backups and be there.
pub(crate) fn storage(node: &NodeContext, id: &StorageId) -> Result<Storage, Fault> {
    let storage = cluster::storage(node, id)?;
    if !storage.takes("backup") {
        return Err(Fault::new(
            FaultKind::StorageUnavailable,
            format!("storage {id} does not take backups (content backup)"),
        ));
    }
    check_there(node, &storage)?;
    Ok(storage)
}

fn check_there(node: &NodeContext, storage: &Storage) -> Result<(), Fault> {
    match storages::folder(node, storage) {
        Some(folder) if !folder.is_dir() => Err(Fault::new(
            FaultKind::StorageUnavailable,
            format!(
                "storage {} is not there ({} is no folder): is it mounted on this node?",
                storage.id,
                folder.display()
            ),
        )),
        _ => Ok(()),
    }
}

/// An archive; `None`: its storage is there and does not have it.
pub(crate) async fn find(node: &NodeContext, archive: &ArchiveId, vmid: Vmid) -> Result<Option<Found>, Fault> {
    let storage = storage(node, &archive.storage())?;
    let Some(folder) = folder(node, &storage) else {
        let listed = listed(node, &storage.id, vmid).await?;
        return Ok(listed
            .into_iter()
            .map(|(found, _)| found)
            .find(|found| found.archive == *archive));
    };
    let file = folder.join(archive.name());
    match fs::metadata(&file) {
        Ok(meta) if meta.is_file() => Ok(Some(Found {
            archive: archive.clone(),
            size_bytes: Some(meta.len()),
            file: Some(file),
        })),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::new(
            FaultKind::StorageUnavailable,
            format!("{} cannot be looked at: {error}", file.display()),
        )),
    }
}

/// Archives of the container whose notes say that the operation made them.
pub(crate) async fn marked(
    node: &NodeContext,
    storage: &Storage,
    vmid: Vmid,
    operation: OperationId,
) -> Result<Vec<Found>, Fault> {
    let mark = backup_argv::mark(operation);
    let Some(folder) = folder(node, storage) else {
        let listed = listed(node, &storage.id, vmid).await?;
        let ours = listed.into_iter().filter(|(_, notes)| notes.contains(&mark));
        return Ok(ours.map(|(found, _)| found).collect());
    };
    let failed = |error: io::Error| {
        Fault::new(
            FaultKind::StorageUnavailable,
            format!("{} cannot be looked through: {error}", folder.display()),
        )
    };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        // Proxmox makes it with the first backup.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let begin = format!("vzdump-lxc-{vmid}-");
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let Some(archive) = name.strip_suffix(".notes").filter(|name| name.starts_with(&begin)) else {
            continue;
        };
        let notes = files::read_if_there(&folder.join(&name))
            .map_err(failed)?
            .unwrap_or_default();
        if notes.contains(&mark)
            && let Ok(archive) = ArchiveId::new(format!("{}:backup/{archive}", storage.id))
        {
            found.extend(find(node, &archive, vmid).await?);
        }
    }
    Ok(found)
}

#[derive(Deserialize)]
struct Listed {
    volid: String,
    size: Option<u64>,
    notes: Option<String>,
}

/// Runs a tool that only looks.
async fn ask(node: &NodeContext, argv: &Argv) -> io::Result<ShortEnd> {
    let words: Vec<OsString> = argv.words.iter().map(OsString::from).collect();
    let program = node.pve_tool(argv.tool);
    let command = Short {
        program: &program,
        arguments: &words,
        stdin: None,
        bound: BOUND,
    };
    node.tools().short(command).await
}

/// What Proxmox lists of a container's backups, with their notes.
async fn listed(node: &NodeContext, storage: &StorageId, vmid: Vmid) -> Result<Vec<(Found, String)>, Fault> {
    let argv = backup_argv::backups(node.name(), storage, vmid);
    let failed = |why: String| {
        Fault::new(
            FaultKind::StorageUnavailable,
            format!("storage {storage} does not list its backups: {why}"),
        )
    };
    let end = ask(node, &argv).await.map_err(|error| failed(error.to_string()))?;
    if !end.success {
        return Err(failed(end.stderr.trim().to_owned()));
    }
    let listed: Vec<Listed> = serde_json::from_str(&end.stdout).map_err(|error| failed(error.to_string()))?;
    Ok(listed
        .into_iter()
        .filter_map(|entry| {
            let found = Found {
                archive: ArchiveId::new(entry.volid).ok()?,
                size_bytes: entry.size,
                file: None,
            };
            Some((found, entry.notes.unwrap_or_default()))
        })
        .collect())
}

/// The text of the configuration that an archive holds.
pub(crate) async fn saved_config(node: &NodeContext, archive: &ArchiveId) -> Result<String, Fault> {
    let argv = backup_argv::saved_config(archive);
    let end = ask(node, &argv)
        .await
        .map_err(|error| Fault::new(FaultKind::Internal, error.to_string()))?;
    if end.success {
        return Ok(end.stdout);
    }
    Err(Fault::new(
        FaultKind::ArchiveDamaged,
        format!("the configuration in backup {archive} cannot be read"),
    )
    .with_detail(&end.stderr))
}

/// Whether the number has archives on a storage of the node that keeps files: it is not given out again then.
pub(crate) fn has_archives(node: &NodeContext, vmid: Vmid) -> Result<Option<StorageId>, Fault> {
    let begins = [format!("vzdump-lxc-{vmid}-"), format!("vzdump-qemu-{vmid}-")];
    for storage in cluster::storages(node)?
        .into_iter()
        .filter(|storage| storage.takes("backup"))
    {
        // One that is away cannot be asked; it does not keep apps from being made.
        let Some(Ok(entries)) = folder(node, &storage).map(fs::read_dir) else {
            continue;
        };
        let taken = entries.filter_map(Result::ok).any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            begins.iter().any(|begin| name.starts_with(begin)) && crate::pve::vzdump::format_of(&name).is_some()
        });
        if taken {
            return Ok(Some(storage.id));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn a_lock_that_somebody_holds_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert!(!one_runs(&node).unwrap());
        testing::put(dir.path(), "run/vzdump.lock", "");
        assert!(!one_runs(&node).unwrap());
        let held = File::open(dir.path().join("run/vzdump.lock")).unwrap();
        held.lock().unwrap();
        assert!(one_runs(&node).unwrap());
        drop(held);
        assert!(!one_runs(&node).unwrap());
    }

    #[tokio::test]
    async fn archives_are_found_by_name_and_by_their_notes() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        testing::put(
            dir.path(),
            "etc/pve/storage.cfg",
            "dir: local\n\tpath /var/lib/vz\n\tcontent rootdir,backup\n\ndir: away\n\tpath /mnt/away\n\tcontent backup\n\tcontent-dirs backup=saved\n",
        );
        let (vmid, operation) = (Vmid::new(100).unwrap(), OperationId(uuid::Uuid::from_u128(7)));
        let here = storage(&node, &"local".parse().unwrap());
        assert_eq!(
            here.unwrap_err().kind,
            FaultKind::StorageUnavailable,
            "it is not mounted"
        );
        fs::create_dir_all(dir.path().join("var/lib/vz")).unwrap();
        let here = storage(&node, &"local".parse().unwrap()).unwrap();
        assert_eq!(marked(&node, &here, vmid, operation).await.unwrap(), []);
        let name = "vzdump-lxc-100-2026_11_22-21_11_12.tar.zst";
        testing::put(dir.path(), &format!("var/lib/vz/dump/{name}"), "12345");
        let archive: ArchiveId = format!("local:backup/{name}").parse().unwrap();
        let found = find(&node, &archive, vmid).await.unwrap().unwrap();
        assert_eq!(found.size_bytes, Some(5));
        assert_eq!(marked(&node, &here, vmid, operation).await.unwrap(), []);
        testing::put(
            dir.path(),
            &format!("var/lib/vz/dump/{name}.notes"),
            &backup_argv::notes(&"nginx-a1b2c3d4".parse().unwrap(), operation),
        );
        assert_eq!(marked(&node, &here, vmid, operation).await.unwrap(), [found]);
        assert_eq!(has_archives(&node, vmid).unwrap(), "local".parse().ok());
        assert_eq!(has_archives(&node, Vmid::new(1001).unwrap()).unwrap(), None);
        let gone = "local:backup/vzdump-lxc-100-2020_01_01-00_00_00.tar.zst"
            .parse()
            .unwrap();
        assert_eq!(find(&node, &gone, vmid).await.unwrap(), None);
        let away = "away:backup/vzdump-lxc-100-2020_01_01-00_00_00.tar.zst"
            .parse()
            .unwrap();
        assert_eq!(
            find(&node, &away, vmid).await.unwrap_err().kind,
            FaultKind::StorageUnavailable
        );
    }
}
