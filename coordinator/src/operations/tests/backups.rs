//! What the node in memory does about backups, and backups as they are before an operation.

use super::node::{Container, Model, no, there};
use crate::{
    clock::UnixMs,
    domain::backups::BackupStatus,
    store::{
        Connection,
        apps::AppRow,
        backups::{self, BackupRow},
    },
};
use proximity_protocol::{
    backup::{
        ArchiveFacts, ArchiveRef, ArchiveTested, ArchivesToDelete, BackupFacts, BackupMade, BackupMode,
        ContainerBackupFacts, RestoredNetwork, VolumeBackupFacts,
    },
    command::{Command, Outcome, Verb},
    fault::{Fault, FaultKind},
    ids::{AppId, ArchiveId, OperationId, StorageId, Vmid},
    spec::AddressSpec,
};
use std::collections::BTreeMap;

/// An archive on a storage of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) app: AppId,
    pub(crate) vmid: Vmid,
    pub(crate) operation: OperationId,
    pub(crate) damaged: bool,
    /// What it holds.
    pub(crate) container: Container,
}

/// The storages that take backups, and what is on them.
#[derive(Debug, Default)]
pub(crate) struct Archives {
    pub(crate) all: BTreeMap<ArchiveId, Archive>,
    /// Kind of the storage of the containers; empty: a folder.
    pub(crate) kind_of_volumes: String,
    /// Volumes besides the root that backups leave out.
    pub(crate) left_out: Vec<String>,
    /// Why the storage takes no backup now.
    pub(crate) trouble: Option<String>,
    /// How many were ever made.
    made: u32,
}

/// The checksum of every whole archive.
pub(crate) const SUM: [u8; 32] = [0xab; 32];

fn volumes(archives: &Archives) -> Vec<VolumeBackupFacts> {
    let kind = match archives.kind_of_volumes.as_str() {
        "" => "dir",
        kind => kind,
    };
    let volume = |key: &str, path: &str, left_out: Option<&str>| VolumeBackupFacts {
        key: key.into(),
        path: path.into(),
        storage_kind: kind.into(),
        left_out: left_out.map(str::to_owned),
    };
    let mut all = vec![volume("rootfs", "/", None)];
    all.extend(
        archives
            .left_out
            .iter()
            .map(|key| volume(key, "/srv/left", Some("backup is not set"))),
    );
    all
}

/// What there is on the storage, if it is the app's.
fn archive<'m>(model: &'m Model, wanted: &ArchiveRef) -> Result<Option<&'m Archive>, Fault> {
    match model.archives.all.get(&wanted.archive) {
        Some(found) if found.app != wanted.app || found.vmid != wanted.vmid => {
            Err(Fault::new(FaultKind::NotOurs, "another app's archive"))
        }
        found => Ok(found),
    }
}

pub(super) fn act(model: &mut Model, command: &Command) -> Result<Outcome, Fault> {
    match &command.verb {
        Verb::BackupFacts(question) => {
            let container = match &question.target {
                Some(target) => match there(model, target, false) {
                    Ok(container) => Some(ContainerBackupFacts {
                        running: container.running,
                        onboot: container.onboot,
                        ha_managed: container.ha,
                        waits_for: None,
                        volumes: volumes(&model.archives),
                    }),
                    Err(fault) if fault.kind == FaultKind::ContainerMissing => None,
                    Err(fault) => return Err(fault),
                },
                None => None,
            };
            if let Some(place) = &question.place
                && model.stranger_vmids.contains(&place.vmid.get())
            {
                return no(FaultKind::VmidTaken);
            }
            let archive = match &question.archive {
                Some(wanted) => archive(model, wanted)?.map(|_| ArchiveFacts {
                    size_bytes: Some(1000),
                    volumes: volumes(&model.archives),
                    refused: None,
                }),
                None => None,
            };
            Ok(Outcome::BackupFacts(Box::new(BackupFacts {
                container,
                storage_trouble: question.storage.as_ref().and_then(|_| model.archives.trouble.clone()),
                archive,
            })))
        }
        Verb::EnsureBackedUp(spec) => {
            let container = there(model, &spec.target, false)?;
            let of_this = |(_, archive): &(&ArchiveId, &Archive)| archive.operation == command.operation;
            let found = model.archives.all.iter().find(of_this).map(|(id, _)| id.clone());
            let id = found.unwrap_or_else(|| {
                model.archives.made += 1;
                let id = archive_id(&spec.storage, spec.target.vmid, model.archives.made);
                let archive = Archive {
                    app: spec.target.owner.app.clone(),
                    vmid: spec.target.vmid,
                    operation: command.operation,
                    damaged: false,
                    container,
                };
                model.archives.all.insert(id.clone(), archive);
                id
            });
            let container = super::node::ours(model, &spec.target)?.unwrap();
            assert!(spec.mode != BackupMode::Stop || !container.ha, "HA would start it");
            Ok(Outcome::BackedUp(Box::new(BackupMade {
                archive: id,
                format: "tar.zst".into(),
                size_bytes: Some(1000),
                mode: spec.mode,
                volumes: volumes(&model.archives),
                duration_s: 3,
                log: "INFO: Finished Backup".into(),
            })))
        }
        Verb::TestArchive {
            archive: wanted,
            sha256,
        } => match archive(model, wanted)? {
            None => no(FaultKind::ArchiveMissing),
            Some(found) if found.damaged || sha256.is_some_and(|sum| sum != SUM) => no(FaultKind::ArchiveDamaged),
            Some(_) => Ok(Outcome::Tested(ArchiveTested {
                sha256: Some(SUM),
                entries: Some(9),
            })),
        },
        Verb::EnsureArchivesDeleted(ArchivesToDelete::One(wanted)) => {
            archive(model, wanted)?;
            model.archives.all.remove(&wanted.archive);
            Ok(Outcome::Done)
        }
        Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation { .. }) => {
            model
                .archives
                .all
                .retain(|_, archive| archive.operation != command.operation);
            Ok(Outcome::Done)
        }
        Verb::EnsureRestored(spec) => {
            spec.check().unwrap();
            let Some(found) = archive(model, &spec.archive)?.cloned() else {
                return no(FaultKind::ArchiveMissing);
            };
            let vmid = spec.vmid.get();
            if model.stranger_vmids.contains(&vmid) {
                return no(FaultKind::VmidTaken);
            }
            if !model.containers.contains_key(&vmid) {
                model.made += 1;
                let address = match &spec.network {
                    RestoredNetwork::Of(old) => there(model, old, false)?.address,
                    RestoredNetwork::AsSaved => found.container.address,
                    RestoredNetwork::Cut => None,
                    RestoredNetwork::Replaced(network) => match network.address {
                        AddressSpec::Static { address, .. } => Some(address),
                        AddressSpec::Dhcp => Some([10, 9, 9, 9].into()),
                    },
                };
                let container = Container {
                    owner: Some(spec.owner.clone()),
                    adopted: false,
                    running: false,
                    onboot: false,
                    address,
                    ..found.container
                };
                model.containers.insert(vmid, container);
            }
            match model.containers[&vmid].owner.as_ref() == Some(&spec.owner) {
                true => Ok(Outcome::Created { mac: None }),
                false => no(FaultKind::VmidTaken),
            }
        }
        Verb::CheckFiles { target, .. } => {
            there(model, target, true)?;
            Ok(Outcome::Done)
        }
        Verb::EnsureOnboot { target, onboot } => {
            there(model, target, false)?;
            super::node::ours(model, target)?.unwrap().onboot = *onboot;
            Ok(Outcome::Done)
        }
        other => super::changes::act(model, other),
    }
}

pub(crate) fn archive_id(storage: &StorageId, vmid: Vmid, number: u32) -> ArchiveId {
    ArchiveId::new(format!(
        "{storage}:backup/vzdump-lxc-{vmid}-2026_11_22-21_11_{number:02}.tar.zst"
    ))
    .unwrap()
}

/// A backup of the app as it is before an operation; its id. With an archive it is complete.
pub(crate) async fn put_row(
    tx: &mut Connection,
    now: UnixMs,
    app: &AppRow,
    status: BackupStatus,
    archive: Option<ArchiveId>,
) -> i64 {
    let mut row = BackupRow {
        id: 0,
        app_id: app.id.clone(),
        hostname: app.hostname.clone(),
        owner_id: app.owner_id,
        host_id: app.host_id,
        node_id: app.node_id,
        generation: app.generation,
        vmid: Vmid::new(app.vmid.unwrap()).unwrap(),
        storage: "local".parse().unwrap(),
        shared: false,
        volid: None,
        format: None,
        backup_type: "suspend".into(),
        mode: "suspend".into(),
        compression: "zstd".into(),
        fallback: None,
        status,
        error_message: None,
        size: None,
        checksum: None,
        volumes: vec![],
        log: String::new(),
        duration_s: None,
        purpose: "request".into(),
        schedule_id: None,
        protected: false,
        verified_at: None,
        expires_at: None,
        operation_id: OperationId(uuid::Uuid::nil()),
        created_at: now,
        updated_at: now,
        completed_at: None,
    };
    row.id = backups::insert(&mut *tx, &row).await.unwrap();
    if archive.is_some() {
        row.volid = archive;
        row.completed_at = Some(now);
        row.size = Some(1000);
        backups::update(&mut *tx, now, &row).await.unwrap();
    }
    row.id
}
