//! `GET /api/backups/schedules/{id}/retention`: what retention keeps and would remove, and by which rule. Nothing is removed by asking.

use super::{Schedules, ServiceError};
use crate::{
    clock::rfc3339,
    domain::retention::{Mark, Retention},
    service::Caller,
    store::{scheduled_backups, schedules as rows},
};
use proximity_protocol::ids::{AppId, ArchiveId};
use serde::Serialize;

/// What becomes of a schedule's backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionPlan {
    /// The schedule.
    pub schedule_id: i64,
    /// Its rules.
    pub retention: Retention,
    /// How many would be removed.
    pub remove_count: usize,
    /// For each app that it covers. Backups that users have asked for, and those of other schedules, are none of it.
    pub apps: Vec<RetentionOfApp>,
}

/// What becomes of those of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionOfApp {
    /// The app.
    pub app_id: AppId,
    /// Its host name.
    pub hostname: String,
    /// Newest first.
    pub backups: Vec<RetentionVerdict>,
}

/// What becomes of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionVerdict {
    /// The backup.
    pub backup_id: i64,
    /// Its archive.
    pub volid: Option<ArchiveId>,
    /// RFC 3339; when it was made.
    pub made_at: String,
    /// `keep`, `protected`, `last_good`, `remove`.
    pub mark: Mark,
    /// The rule that keeps it, or that keeps a newer one of the same period in its place; null: none speaks of it.
    pub rule: Option<&'static str>,
}

impl Schedules {
    /// What retention would do now.
    pub async fn retention(&self, caller: &Caller, id: i64) -> Result<RetentionPlan, ServiceError> {
        let mut conn = self.store.read().await?;
        let row = self.visible(&mut conn, caller, id).await?;
        let mut apps = Vec::new();
        for of in rows::runs(&mut conn, Some(id)).await? {
            let found = scheduled_backups::of_schedule(&mut conn, id, of.run.app_id.as_str()).await?;
            let verdicts = row
                .retention
                .verdicts(&scheduled_backups::candidates(&found), &self.zone);
            let backups = found
                .into_iter()
                .filter_map(|backup| {
                    let verdict = verdicts.get(&backup.id)?;
                    Some(RetentionVerdict {
                        backup_id: backup.id,
                        volid: backup.volid,
                        made_at: rfc3339(backup.created_at),
                        mark: verdict.mark,
                        rule: verdict.rule,
                    })
                })
                .collect();
            apps.push(RetentionOfApp {
                app_id: of.run.app_id,
                hostname: of.hostname,
                backups,
            });
        }
        let all = apps.iter().flat_map(|app: &RetentionOfApp| &app.backups);
        Ok(RetentionPlan {
            schedule_id: id,
            retention: row.retention,
            remove_count: all.filter(|verdict| verdict.mark == Mark::Remove).count(),
            apps,
        })
    }
}
