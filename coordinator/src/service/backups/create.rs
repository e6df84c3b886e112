//! `POST /api/apps/{id}/backups`.

use super::{Backups, ServiceError, refuse_busy, requester};
use crate::{
    domain::{
        app_state::Status,
        backups::{BackupStatus, Way, choose_storage, compression, left_out, mode, way},
    },
    operations::{backup::BACKUP, backup_record::backup_event, params::BackupParams, submit},
    service::{
        Caller, FieldError,
        apps::{check_room, may_change},
    },
    store::{
        self, Connection, StoreError,
        apps::ListedApp,
        backups::{self as rows, BackupRow},
        fleet,
    },
};
use proximity_protocol::{
    backup::{BackupMode, BackupQuestion, Compression},
    command::Target,
    ids::{OperationId, StorageId, Vmid},
};
use serde::{Deserialize, Serialize};

/// `{backup_type, compression, storage?}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBackup {
    /// `snapshot` (the default), `suspend`, `stop`.
    #[serde(default)]
    pub backup_type: Option<String>,
    /// `zstd` (the default), `gzip`, `lzo`.
    #[serde(default)]
    pub compression: Option<String>,
    /// Where; by default a backup server, a storage that other nodes reach, or the one with most space.
    #[serde(default)]
    pub storage: Option<String>,
}

struct Checked {
    mode: BackupMode,
    compression: Compression,
    storage: Option<StorageId>,
}

impl CreateBackup {
    fn checked(&self) -> Result<Checked, ServiceError> {
        let mut wrong = Vec::new();
        let asked_mode = self.backup_type.as_deref().unwrap_or("snapshot");
        let asked_compression = self.compression.as_deref().unwrap_or("zstd");
        let (mode, compression) = (mode(asked_mode), compression(asked_compression));
        if mode.is_none() {
            wrong.push(FieldError::body("backup_type", "is one of: snapshot, suspend, stop"));
        }
        if compression.is_none() {
            wrong.push(FieldError::body("compression", "is one of: zstd, gzip, lzo"));
        }
        let storage = match self.storage.as_deref().map(StorageId::new).transpose() {
            Ok(storage) => storage,
            Err(error) => {
                wrong.push(FieldError::body("storage", format!("is {}", error.rule)));
                None
            }
        };
        match (mode, compression) {
            (Some(mode), Some(compression)) if wrong.is_empty() => Ok(Checked {
                mode,
                compression,
                storage,
            }),
            _ => Err(ServiceError::Invalid(wrong)),
        }
    }
}

/// 202.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupStarted {
    /// The backup.
    pub id: i64,
    /// `creating`.
    pub status: BackupStatus,
    /// `Backup creation started for my-app`, and what it waits for or falls back to.
    pub message: String,
    /// Where its steps can be followed.
    pub operation_id: String,
    /// Where the archive goes.
    pub storage_name: StorageId,
    /// How it is made.
    pub mode: &'static str,
    /// Why it is not made as asked; null: it is.
    pub fallback: Option<String>,
    /// Volumes of the app that the archive will not hold, and why.
    pub left_out: Vec<String>,
}

/// What the node has told, and when it is to be done to which container.
struct Ready {
    way: Way,
    storage: StorageId,
    shared: bool,
    target: Target,
    waits_for: Option<String>,
    volumes: Vec<proximity_protocol::backup::VolumeBackupFacts>,
}

fn refuse_status(app: &ListedApp) -> Result<(), ServiceError> {
    let app = &app.app;
    match app.status {
        Status::Running | Status::Stopped | Status::Error | Status::Unknown if app.vmid_confirmed => Ok(()),
        Status::Running | Status::Stopped | Status::Error | Status::Unknown => Err(ServiceError::Conflict(format!(
            "{} has no container that could be backed up",
            app.hostname
        ))),
        other => Err(ServiceError::Conflict(format!(
            "{} is {other}; wait until that has ended, then back it up",
            app.hostname
        ))),
    }
}

impl Backups {
    /// Begins a backup.
    pub async fn create(
        &self,
        caller: &Caller,
        app_id: &str,
        body: &CreateBackup,
    ) -> Result<BackupStarted, ServiceError> {
        self.create_for(caller, app_id, body, None).await
    }

    /// The same for a schedule.
    pub async fn create_for(
        &self,
        caller: &Caller,
        app_id: &str,
        body: &CreateBackup,
        schedule_id: Option<i64>,
    ) -> Result<BackupStarted, ServiceError> {
        may_change(caller)?;
        // Whose it is comes before what is wrong with the request.
        let app = {
            let mut conn = self.deps().store.read().await?;
            self.app(&mut conn, caller, app_id).await
        };
        let checked = body.checked()?;
        let app = app?;
        refuse_status(&app)?;
        let ready = self.prepare(&app, &checked).await?;

        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let app = self.app(&mut tx, caller, app_id).await?;
        refuse_busy(&mut tx, &app).await?;
        check_room(self.deps(), &mut tx, app.app.node_id, &app.node_name).await?;
        refuse_status(&app)?;
        let same = app.app.vmid == Some(ready.target.vmid.get()) && app.app.owner() == ready.target.owner;
        if !same {
            return Err(ServiceError::Conflict(format!(
                "{} has got another container meanwhile; ask again",
                app.app.hostname
            )));
        }
        within_quota(&mut tx, app.app.owner_id).await?;
        let mut row = BackupRow {
            id: 0,
            app_id: app.app.id.clone(),
            hostname: app.app.hostname.clone(),
            owner_id: app.app.owner_id,
            host_id: app.app.host_id,
            node_id: app.app.node_id,
            generation: app.app.generation,
            vmid: ready.target.vmid,
            storage: ready.storage.clone(),
            shared: ready.shared,
            volid: None,
            format: None,
            backup_type: checked.mode.as_str().to_owned(),
            mode: ready.way.mode.as_str().to_owned(),
            compression: checked.compression.as_str().to_owned(),
            fallback: ready.way.fallback.clone(),
            status: BackupStatus::Creating,
            error_message: None,
            size: None,
            checksum: None,
            volumes: ready.volumes.clone(),
            log: String::new(),
            duration_s: None,
            purpose: if schedule_id.is_some() { "schedule" } else { "request" }.into(),
            schedule_id,
            protected: false,
            verified_at: None,
            expires_at: None,
            operation_id: OperationId(uuid::Uuid::nil()),
            created_at: now,
            updated_at: now,
            completed_at: None,
        };
        row.id = rows::insert(&mut tx, &row).await?;
        let params = serde_json::to_value(BackupParams {
            backup_id: row.id,
            storage: ready.storage.clone(),
            mode: ready.way.mode,
            compression: checked.compression,
        })
        .map_err(StoreError::from)?;
        row.operation_id = submit::queue(&mut tx, now, &BACKUP, &app.app, params, &requester(caller)).await?;
        rows::update(&mut tx, now, &row).await?;
        let event = store::insert_event(&mut tx, now, backup_event(&row, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.deps().bus.publish(event);
        self.deps().engine.wake();
        tracing::info!(app_id = %row.app_id, operation_id = %row.operation_id, backup_id = row.id, request_id = caller.request_id, "accepted a backup");
        Ok(started(row, ready))
    }

    /// Asks the node, and decides how it is to be done.
    async fn prepare(&self, app: &ListedApp, checked: &Checked) -> Result<Ready, ServiceError> {
        let nodes = {
            let mut conn = self.deps().store.read().await?;
            fleet::nodes(&mut conn).await?
        };
        let row = &app.app;
        let node = nodes.iter().find(|node| node.id == row.node_id);
        let (Some(node), Some(facts)) = (node, node.and_then(|node| node.facts.as_ref())) else {
            return Err(ServiceError::Conflict(format!(
                "node {} of {} has not told yet what it is",
                app.node_name, row.hostname
            )));
        };
        let storage = choose_storage(facts, checked.storage.as_ref()).map_err(ServiceError::Conflict)?;
        let vmid = row.vmid.and_then(|vmid| Vmid::new(vmid).ok()).ok_or_else(|| {
            ServiceError::Conflict(format!("{} has no container that could be backed up", row.hostname))
        })?;
        let target = Target {
            vmid,
            owner: row.owner(),
        };
        let question = BackupQuestion {
            target: Some(target.clone()),
            storage: Some(storage.id.clone()),
            archive: None,
            place: None,
        };
        let told = self.ask(node, question).await?;
        if let Some(trouble) = told.storage_trouble {
            return Err(ServiceError::Conflict(format!(
                "no backup can be made on {}: {trouble}",
                node.name
            )));
        }
        let container = told.container.ok_or_else(|| {
            ServiceError::Conflict(format!(
                "container {vmid} of {} is not on {} any more; restore a backup, or delete the app",
                row.hostname, node.name
            ))
        })?;
        let mut way = way(checked.mode, &container);
        if storage.kind == "pbs" && checked.compression != Compression::Zstd {
            let note = "a Proxmox Backup Server compresses by itself, with zstd".to_owned();
            way.fallback = Some(way.fallback.map_or(note.clone(), |other| format!("{other}; {note}")));
        }
        Ok(Ready {
            way,
            storage: storage.id.clone(),
            shared: storage.shared || storage.kind == "pbs",
            target,
            waits_for: container.waits_for,
            volumes: container.volumes,
        })
    }
}

fn started(row: BackupRow, ready: Ready) -> BackupStarted {
    let mut message = format!("Backup creation started for {}", row.hostname);
    let left_out = left_out(&ready.volumes);
    if let Some(because) = &ready.way.fallback {
        message.push_str(&format!(", in {} mode: {because}", ready.way.mode.as_str()));
    }
    if let Some(holder) = &ready.waits_for {
        message.push_str(&format!("; it waits for {holder}"));
    }
    if !left_out.is_empty() {
        message.push_str(&format!("; it leaves out {}", left_out.join(", ")));
    }
    BackupStarted {
        id: row.id,
        status: row.status,
        message,
        operation_id: row.operation_id.to_string(),
        storage_name: row.storage,
        mode: ready.way.mode.as_str(),
        fallback: ready.way.fallback,
        left_out,
    }
}

async fn within_quota(tx: &mut Connection, owner_id: i64) -> Result<(), ServiceError> {
    let Some(limit) = rows::quota(&mut *tx, owner_id).await? else {
        return Ok(());
    };
    let used = rows::count_of_owner(tx, owner_id).await?;
    if used < limit {
        return Ok(());
    }
    Err(ServiceError::Conflict(format!(
        "the quota max_backups of the app's owner is {limit}: {used} in use, 1 more asked for; delete a backup or ask an admin for more"
    )))
}
