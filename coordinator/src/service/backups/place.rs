//! Whether a container can be made of a backup where its app is, and the reservation of a number for it.

use super::{Backups, ServiceError};
use crate::{
    clock::UnixMs,
    domain::{backups::BackupStatus, side_containers::SideRole},
    operations::{
        backup_record::backup_event,
        params::DEFAULT_HEALTH_TIMEOUT_S,
        reserve,
        surroundings::{self, Surroundings, SurroundingsError},
    },
    store::{
        self, Connection, StoreError,
        apps::AppRow,
        backups::{self as rows, BackupRow},
        fleet::{self, FleetNode},
        reservations,
        side_containers::{self, SideRow},
    },
};
use data_encoding::HEXLOWER;
use proximity_protocol::{
    backup::{ArchiveRef, BackupFacts, BackupQuestion, PlaceQuestion},
    command::Target,
    ids::{ArchiveId, Generation, OperationId, Owner, StorageId, Vmid},
    spec::Settings,
};

/// Where a container is to be made of an archive.
pub(super) struct Place {
    pub(super) node: FleetNode,
    pub(super) storage: StorageId,
    pub(super) facts: BackupFacts,
}

pub(super) fn conflict<T>(why: String) -> Result<T, ServiceError> {
    Err(ServiceError::Conflict(why))
}

/// The archive of a backup that can be restored.
pub(super) fn refuse_backup(row: &BackupRow) -> Result<ArchiveId, ServiceError> {
    match (row.status, &row.volid) {
        (BackupStatus::Completed, Some(archive)) => Ok(archive.clone()),
        (BackupStatus::Creating, _) => conflict(format!(
            "backup {} is being made (operation {}); wait until that has ended",
            row.id, row.operation_id
        )),
        (BackupStatus::Restoring, _) => conflict(format!(
            "backup {} is being restored already (operation {}); wait until that has ended",
            row.id, row.operation_id
        )),
        (BackupStatus::Deleting, _) => conflict(format!("backup {} is being deleted", row.id)),
        (BackupStatus::Gone, _) => conflict(format!(
            "the archive of backup {} is gone: somebody else removed it; restore another one",
            row.id
        )),
        (BackupStatus::Failed | BackupStatus::Completed, _) => conflict(format!(
            "backup {} cannot be restored: {}",
            row.id,
            row.error_message.as_deref().unwrap_or("it has no archive")
        )),
    }
}

/// What the archive's file has to add up to.
pub(super) fn checksum(row: &BackupRow) -> Option<[u8; 32]> {
    let hex = row.checksum.as_deref()?.strip_prefix("sha256:")?;
    HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok()
}

/// What the registry says of cores and memory; of a container that was there before its app, the archive says it.
pub(super) fn settings_of(app: &AppRow) -> Settings {
    if app.adopted {
        return Settings::default();
    }
    Settings {
        cpu_cores: Some(app.resources.cpu_cores),
        memory_mb: Some(app.resources.memory_mb),
        swap_mb: Some(app.resources.swap_mb),
    }
}

/// Refuses a storage that takes no containers.
fn takes_containers(node: &FleetNode, storage: &StorageId) -> Result<(), ServiceError> {
    let Some(facts) = &node.facts else { return Ok(()) };
    let mut fitting = facts
        .storages
        .iter()
        .filter(|s| s.content.iter().any(|content| content == "rootdir"));
    if fitting.any(|s| s.id == *storage) {
        return Ok(());
    }
    let fitting = facts
        .storages
        .iter()
        .filter(|s| s.content.iter().any(|content| content == "rootdir"));
    let names: Vec<&str> = fitting.map(|s| s.id.as_str()).collect();
    conflict(format!(
        "{} has no storage {storage} that takes containers; ask for another one as `storage`: {}",
        node.name,
        names.join(", ")
    ))
}

impl Backups {
    /// Looks whether a container can be made of the backup where its app is, and how that app's present container stands.
    pub(super) async fn place(
        &self,
        app: &AppRow,
        row: &BackupRow,
        storage: Option<StorageId>,
        target: Option<Target>,
    ) -> Result<Place, ServiceError> {
        let archive = refuse_backup(row)?;
        let (nodes, candidate) = {
            let mut conn = self.deps().store.read().await?;
            let nodes = fleet::nodes(&mut conn).await?;
            let candidate = self.candidate(&mut conn, app, &nodes).await?;
            (nodes, candidate)
        };
        let Some(node) = nodes.iter().find(|node| node.id == app.node_id) else {
            return conflict(format!("the node of {} is no longer in the registry", app.hostname));
        };
        if !row.shared && row.node_id != node.id {
            let made_on = nodes.iter().find(|node| node.id == row.node_id);
            return conflict(format!(
                "backup {} is on storage {} of {}, which {} does not reach, where {} is now: migrate the app back there first",
                row.id,
                row.storage,
                made_on.map_or("a node that is no longer in the registry", |node| &node.name),
                node.name,
                app.hostname
            ));
        }
        let storage = storage.unwrap_or_else(|| app.resources.storage.clone());
        takes_containers(node, &storage)?;
        let question = BackupQuestion {
            target,
            storage: None,
            archive: Some(ArchiveRef {
                archive,
                app: row.app_id.clone(),
                vmid: row.vmid,
            }),
            place: candidate.map(|vmid| PlaceQuestion {
                vmid,
                owner: Owner {
                    app: app.id.clone(),
                    generation: Generation(app.generation + 1),
                },
                storage: storage.clone(),
                bridge: None,
            }),
        };
        let facts = self.ask(node, question).await?;
        let Some(found) = &facts.archive else {
            self.gone(row, &node.name).await?;
            return conflict(format!(
                "the archive of backup {} is not on {} of {} any more: somebody else removed it; restore another one",
                row.id, row.storage, node.name
            ));
        };
        if let Some(why) = &found.refused {
            return conflict(format!("no container is made of backup {}: {why}", row.id));
        }
        Ok(Place {
            node: node.clone(),
            storage,
            facts,
        })
    }

    /// A number that is free as far as is known, to ask the node about the place; the operation reserves one.
    async fn candidate(
        &self,
        conn: &mut Connection,
        app: &AppRow,
        nodes: &[FleetNode],
    ) -> Result<Option<Vmid>, ServiceError> {
        let Some(node) = nodes.iter().find(|node| node.id == app.node_id) else {
            return Ok(None);
        };
        let around = self.around(&mut *conn, node, nodes).await?;
        let mut taken = reservations::taken_vmids(conn, self.deps().clock.now_ms(), app.host_id).await?;
        taken.extend(&around.seen.vmids);
        Ok(around.vmids.and_then(|range| range.next_free(&taken)))
    }

    async fn around(
        &self,
        conn: &mut Connection,
        node: &FleetNode,
        nodes: &[FleetNode],
    ) -> Result<Surroundings, ServiceError> {
        let Some(facts) = &node.facts else {
            return conflict(format!("node {} has not told yet what it is", node.name));
        };
        match surroundings::of_node(conn, node, facts, nodes, &self.deps().inventories).await {
            Ok(around) => Ok(around),
            Err(SurroundingsError::Store(error)) => Err(error.into()),
            Err(other) => conflict(other.to_string()),
        }
    }

    /// Somebody else removed its archive.
    async fn gone(&self, row: &BackupRow, node: &str) -> Result<(), ServiceError> {
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let still = rows::by_id(&mut tx, row.id).await?;
        let Some(mut row) = still.filter(|still| still.status == BackupStatus::Completed) else {
            return Ok(());
        };
        row.status = BackupStatus::Gone;
        row.error_message = Some(format!(
            "its archive is not on {} of {node} any more: somebody else removed it",
            row.storage
        ));
        rows::update(&mut tx, now, &row).await?;
        let event = store::insert_event(&mut tx, now, backup_event(&row, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        Ok(())
    }

    /// How long the app may take to be healthy, by its catalog entry.
    pub(super) fn health_timeout_s(&self, app: &AppRow) -> u32 {
        let catalog = self.deps().catalog.current();
        catalog
            .get(&app.catalog_id)
            .and_then(|entry| entry.native().ok())
            .map_or(DEFAULT_HEALTH_TIMEOUT_S, |native| native.health_timeout_s)
    }

    /// Takes a number and a generation for a container beside the app's.
    pub(super) async fn reserve_side(
        &self,
        tx: &mut Connection,
        now: UnixMs,
        app: &AppRow,
        node: &FleetNode,
    ) -> Result<(Vmid, u32), ServiceError> {
        let nodes = fleet::nodes(&mut *tx).await?;
        let around = self.around(&mut *tx, node, &nodes).await?;
        let generation = side_containers::next_generation(&mut *tx, app.id.as_str()).await?;
        let vmid = reserve::vmid(tx, now, &around, app.id.as_str(), generation).await?;
        vmid.and_then(|vmid| Vmid::new(vmid).ok())
            .map(|vmid| (vmid, generation))
            .ok_or_else(|| ServiceError::Unavailable {
                message: format!("{} has no free VMID for a container beside the present one", node.name),
                retry_after_s: 60,
            })
    }
}

/// The row of a container that an operation makes beside the app's.
pub(super) async fn insert_side(
    tx: &mut Connection,
    now: UnixMs,
    app: &AppRow,
    (vmid, generation): (Vmid, u32),
    role: SideRole,
    operation_id: OperationId,
) -> Result<(), StoreError> {
    let side = SideRow {
        host_id: app.host_id,
        vmid,
        app_id: app.id.clone(),
        node_id: app.node_id,
        generation,
        role,
        adopted: false,
        keep_until: None,
        note: None,
        operation_id,
        created_at: now,
    };
    side_containers::insert(tx, &side).await
}
