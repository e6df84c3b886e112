//! `POST /api/apps/{id}/backups/{backup_id}/restore`.

use super::{
    Backups, ServiceError, backup_of,
    place::{Place, checksum, conflict, insert_side, refuse_backup, settings_of},
    refuse_busy, requester,
};
use crate::{
    clock::rfc3339,
    domain::{
        app_state::Status,
        backups::{BackupStatus, left_out},
        side_containers::{KeepPrevious, SideRole},
    },
    operations::{backup_record::backup_event, params::RestoreParams, record::app_event, restore::RESTORE, submit},
    service::{
        Caller, FieldError,
        apps::{Plan, PlanPort, check_room, may_change, plan_steps},
    },
    store::{
        self, StoreError,
        apps::{self, AppRow, ListedApp},
        backups::{self as rows, BackupRow},
    },
};
use proximity_protocol::{
    backup::BackupFacts,
    command::Target,
    ids::{StorageId, Vmid},
};
use serde::{Deserialize, Serialize};

/// `{storage?, previous?}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreBackup {
    /// Where the new container's volumes go; by default where the app's are.
    #[serde(default)]
    pub storage: Option<String>,
    /// How long the container that it takes the place of is kept: `for_a_while` (the default), `until_asked`, `no`.
    #[serde(default)]
    pub previous: Option<String>,
}

/// The answer to a restore.
#[derive(Debug, Clone, PartialEq)]
pub enum BackupRestored {
    /// 202.
    Started(RestoreStarted),
    /// 200, of a dry run.
    Plan(Box<Plan>),
}

/// 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreStarted {
    /// The backup.
    pub backup_id: i64,
    /// Its app.
    pub application_id: String,
    /// `restoring`.
    pub status: Status,
    /// In words.
    pub message: String,
    /// Where it can be followed.
    pub operation_id: String,
    /// Where the new container's volumes go.
    pub storage_name: StorageId,
    /// The container that it takes the place of; null: there is none any more.
    pub previous_lxc_id: Option<u32>,
    /// Volumes that the backup does not hold.
    pub left_out: Vec<String>,
}

struct Checked {
    storage: Option<StorageId>,
    keep: Option<KeepPrevious>,
}

impl RestoreBackup {
    fn checked(&self) -> Result<Checked, ServiceError> {
        let mut wrong = Vec::new();
        let storage = match self.storage.as_deref().map(StorageId::new).transpose() {
            Ok(storage) => storage,
            Err(error) => {
                wrong.push(FieldError::body("storage", format!("is {}", error.rule)));
                None
            }
        };
        let keep = self.previous.as_deref().map(KeepPrevious::parse);
        if keep == Some(None) {
            wrong.push(FieldError::body("previous", "is one of: for_a_while, until_asked, no"));
        }
        if wrong.is_empty() {
            Ok(Checked {
                storage,
                keep: keep.flatten(),
            })
        } else {
            Err(ServiceError::Invalid(wrong))
        }
    }
}

/// What was decided.
struct Ready {
    place: Place,
    has_old: bool,
    keep: KeepPrevious,
    left_out: Vec<String>,
}

fn refuse_app(app: &AppRow) -> Result<(), ServiceError> {
    match app.status {
        Status::Running | Status::Stopped | Status::Error | Status::Unknown if app.public_port.is_some() => Ok(()),
        Status::Running | Status::Stopped | Status::Error | Status::Unknown => conflict(format!(
            "{} has no port any more under which it could serve; delete it and create it again",
            app.hostname
        )),
        other => conflict(format!(
            "{} is {other}; wait until that has ended, then restore it",
            app.hostname
        )),
    }
}

impl Backups {
    /// Begins to restore a backup, or says how that would go.
    pub async fn restore(
        &self,
        caller: &Caller,
        app_id: &str,
        id: i64,
        body: &RestoreBackup,
        dry_run: bool,
    ) -> Result<BackupRestored, ServiceError> {
        may_change(caller)?;
        let (app, row) = {
            let mut conn = self.deps().store.read().await?;
            self.of(&mut conn, caller, app_id).await?;
            let row = backup_of(&mut conn, app_id, id).await;
            (self.app(&mut conn, caller, app_id).await, row)
        };
        let checked = body.checked()?;
        let row = row?;
        let Ok(app) = app else {
            return conflict(format!(
                "the app of backup {id} was deleted; its archive can only be restored by hand now, with `pct restore`, on the node that made it"
            ));
        };
        refuse_backup(&row)?;
        refuse_app(&app.app)?;
        let ready = self.ready(&app, &row, checked).await?;
        if dry_run {
            return Ok(BackupRestored::Plan(Box::new(plan(&app, &row, &ready))));
        }
        self.begin_restore(caller, app_id, id, ready)
            .await
            .map(BackupRestored::Started)
    }

    /// Asks the node, and decides how it is to be done.
    async fn ready(&self, app: &ListedApp, row: &BackupRow, checked: Checked) -> Result<Ready, ServiceError> {
        let vmid = app.app.vmid.filter(|_| app.app.vmid_confirmed);
        let target = vmid.and_then(|vmid| Vmid::new(vmid).ok()).map(|vmid| Target {
            vmid,
            owner: app.app.owner(),
        });
        let place = self.place(&app.app, row, checked.storage, target).await?;
        let old = place.facts.container.as_ref();
        if let (Some(old), Some(vmid)) = (old, vmid)
            && old.ha_managed
        {
            return conflict(format!(
                "container {vmid} of {} is managed by HA, which would start it beside the restored one: run `ha-manager remove ct:{vmid}` on {} first",
                app.app.hostname, place.node.name
            ));
        }
        let left_out = lacking(&place.facts);
        if !left_out.is_empty() && old.is_some() && checked.keep != Some(KeepPrevious::UntilAsked) {
            return conflict(format!(
                "backup {} does not hold {}: only the present container has that. Restore with \"previous\": \"until_asked\", which keeps that container, and \
                 bring it over from there",
                row.id,
                left_out.join("; ")
            ));
        }
        Ok(Ready {
            has_old: old.is_some(),
            keep: checked.keep.unwrap_or_default(),
            left_out,
            place,
        })
    }

    async fn begin_restore(
        &self,
        caller: &Caller,
        app_id: &str,
        id: i64,
        ready: Ready,
    ) -> Result<RestoreStarted, ServiceError> {
        let now = self.deps().clock.now_ms();
        let mut tx = self.deps().store.begin().await?;
        let listed = self.app(&mut tx, caller, app_id).await?;
        refuse_busy(&mut tx, &listed).await?;
        check_room(self.deps(), &mut tx, ready.place.node.id, &ready.place.node.name).await?;
        let mut app = listed.app.clone();
        refuse_app(&app)?;
        let mut row = backup_of(&mut tx, app_id, id).await?;
        let archive = refuse_backup(&row)?;
        let new = self.reserve_side(&mut tx, now, &app, &ready.place.node).await?;
        let keep_note = (!ready.left_out.is_empty())
            .then(|| format!("it holds what backup {id} does not: {}", ready.left_out.join("; ")));
        let params = serde_json::to_value(RestoreParams {
            previous: app.status,
            health_timeout_s: self.health_timeout_s(&app),
            backup_id: id,
            archive,
            archive_vmid: row.vmid,
            archive_node: (!row.shared).then_some(row.node_id),
            sha256: checksum(&row),
            storage: ready.place.storage.clone(),
            settings: settings_of(&app),
            disk_gb: (!app.adopted).then_some(app.resources.disk_gb),
            has_old: ready.has_old,
            keep: ready.keep,
            keep_note,
        })
        .map_err(StoreError::from)?;
        let operation = submit::queue(&mut tx, now, &RESTORE, &app, params, &requester(caller)).await?;
        insert_side(&mut tx, now, &app, new, SideRole::Replacement, operation).await?;
        app.status = Status::Restoring;
        app.status_reason = None;
        apps::update(&mut tx, now, &app).await?;
        row.status = BackupStatus::Restoring;
        row.error_message = None;
        row.operation_id = operation;
        rows::update(&mut tx, now, &row).await?;
        let events = [
            store::insert_event(&mut tx, now, backup_event(&row, false)).await?,
            store::insert_event(&mut tx, now, app_event(&app, false)).await?,
        ];
        tx.commit().await.map_err(StoreError::from)?;
        for event in events {
            self.deps().bus.publish(event);
        }
        self.deps().engine.wake();
        tracing::info!(app_id, operation_id = %operation, backup_id = id, request_id = caller.request_id, "accepted a restore");
        let previous = app.vmid.filter(|_| ready.has_old);
        Ok(RestoreStarted {
            backup_id: id,
            application_id: app_id.to_owned(),
            status: Status::Restoring,
            message: message(&app, &row, &ready, previous),
            operation_id: operation.to_string(),
            storage_name: ready.place.storage,
            previous_lxc_id: previous,
            left_out: ready.left_out,
        })
    }
}

fn message(app: &AppRow, row: &BackupRow, ready: &Ready, previous: Option<u32>) -> String {
    let mut message = format!(
        "Restore operation started: {} comes back as it was at {}",
        app.hostname,
        rfc3339(row.created_at)
    );
    if let Some(previous) = previous {
        message.push_str(&format!("; container {previous} {}", kept(ready.keep)));
    }
    if !ready.left_out.is_empty() {
        message.push_str(&format!("; the backup does not hold {}", ready.left_out.join("; ")));
    }
    message
}

/// Volumes that the archive lacks: left out of it, or added to the app since.
fn lacking(facts: &BackupFacts) -> Vec<String> {
    let saved = facts.archive.as_ref().map_or(&[][..], |archive| &archive.volumes);
    let mut lacking = left_out(saved);
    for volume in facts.container.iter().flat_map(|old| &old.volumes) {
        if !saved.iter().any(|other| other.path == volume.path) {
            lacking.push(format!(
                "{} ({}): the app got it after the backup",
                volume.key, volume.path
            ));
        }
    }
    lacking
}

fn kept(keep: KeepPrevious) -> &'static str {
    match keep {
        KeepPrevious::ForAWhile => "is kept until the new one has run for a while",
        KeepPrevious::UntilAsked => "is kept until somebody asks for its removal",
        KeepPrevious::No => "is removed when the new one is healthy",
    }
}

fn plan(app: &ListedApp, row: &BackupRow, ready: &Ready) -> Plan {
    let since = rfc3339(row.created_at);
    let mut loses = vec![match app.app.vmid.filter(|_| ready.has_old) {
        Some(vmid) => format!(
            "what was written since {since} is only in container {vmid} then, which {}",
            kept(ready.keep)
        ),
        None => format!("what was written since {since} is lost already: the app has no container any more"),
    }];
    loses.extend(
        ready
            .left_out
            .iter()
            .map(|volume| format!("not in the backup: {volume}")),
    );
    Plan {
        node: ready.place.node.name.clone(),
        steps: plan_steps(&RESTORE),
        ports: vec![PlanPort {
            public_port: app.app.public_port,
            internal_port: app.app.internal_port,
        }],
        loses,
        placement: None,
    }
}
