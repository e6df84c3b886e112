//! How backups, restores and clones would go: reads only, so that it can be told before anything begins.

use super::{act::Act, confirm, ha, making, standing};
use crate::{
    archives,
    facts::{backups, cluster},
    host::NodeContext,
    pve::{
        conf::Conf,
        volumes::{self, ConfVolume},
        words,
    },
};
use proximity_protocol::{
    backup::{
        ArchiveFacts, ArchiveRef, BackupFacts, BackupQuestion, ContainerBackupFacts, PlaceQuestion, VolumeBackupFacts,
    },
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};

pub(super) async fn run(act: &Act<'_>, question: &BackupQuestion) -> Result<Outcome, Fault> {
    if let Some(place) = &question.place {
        check_place(act, place)?;
    }
    let container = match &question.target {
        Some(target) => container(act.node, target)?,
        None => None,
    };
    let storage_trouble = match &question.storage {
        Some(storage) => backups::storage(act.node, storage).err().map(|fault| fault.message),
        None => None,
    };
    let archive = match &question.archive {
        Some(wanted) => {
            let network_of = question.place.as_ref().filter(|place| place.bridge.is_none());
            archive(act, wanted, network_of.is_some(), question.target.as_ref()).await?
        }
        None => None,
    };
    Ok(Outcome::BackupFacts(Box::new(BackupFacts {
        container,
        storage_trouble,
        archive,
    })))
}

fn container(node: &NodeContext, target: &Target) -> Result<Option<ContainerBackupFacts>, Fault> {
    let container = match standing::require(node, target) {
        Ok(container) => container,
        Err(fault) if fault.kind == FaultKind::ContainerMissing => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let waits_for = match container.conf.get("lock") {
        Some(lock) => Some(words::holder(lock)),
        None if backups::one_runs(node)? => Some("another backup that runs on the node (vzdump)".into()),
        None => None,
    };
    Ok(Some(ContainerBackupFacts {
        running: standing::is_running(node, target.vmid)?,
        onboot: container.conf.get("onboot") == Some("1"),
        ha_managed: ha::managed(node, target.vmid)?.is_some(),
        waits_for,
        volumes: of_conf(node, &container.conf)?,
    }))
}

/// The volumes of a configuration with the kinds of their storages.
pub(super) fn of_conf(node: &NodeContext, conf: &Conf) -> Result<Vec<VolumeBackupFacts>, Fault> {
    let storages = cluster::storages(node)?;
    let kind = |volume: &ConfVolume| {
        let id = volume.storage()?;
        storages
            .iter()
            .find(|storage| storage.id.as_str() == id)
            .map(|storage| storage.kind.clone())
    };
    Ok(volumes::volumes(conf)
        .into_iter()
        .map(|volume| VolumeBackupFacts {
            storage_kind: kind(&volume).unwrap_or_default(),
            left_out: volume.left_out().map(str::to_owned),
            key: volume.key,
            path: volume.path,
        })
        .collect())
}

/// `bridges`: those of the container that takes its place, or else of the archive, have to be there.
async fn archive(
    act: &Act<'_>,
    wanted: &ArchiveRef,
    bridges: bool,
    old: Option<&Target>,
) -> Result<Option<ArchiveFacts>, Fault> {
    let node = act.node;
    // One that an operator pruned is gone, whatever its record says.
    let Some(found) = backups::find(node, &wanted.archive, wanted.vmid).await? else {
        return Ok(None);
    };
    archives::require(node, wanted)?;
    let conf = Conf::parse(&backups::saved_config(node, &wanted.archive).await?);
    if bridges {
        let old = old.and_then(|old| standing::require(node, old).ok());
        let network = old.map_or_else(|| conf.clone(), |old| old.conf);
        making::bridges_of(&network)
            .iter()
            .try_for_each(|bridge| making::check_bridge(act, bridge))?;
    }
    Ok(Some(ArchiveFacts {
        size_bytes: found.size_bytes,
        volumes: of_conf(node, &conf)?,
        refused: volumes::refused(&conf),
    }))
}

/// Says before anything is made what would fail in the middle.
fn check_place(act: &Act<'_>, place: &PlaceQuestion) -> Result<(), Fault> {
    confirm::check_number(act, &place.owner, place.vmid)?;
    making::check_storage(act, &place.storage)?;
    match &place.bridge {
        Some(bridge) => making::check_bridge(act, bridge),
        None => Ok(()),
    }
}
