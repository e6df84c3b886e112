//! `GET /api/backups/coverage`: how well every app is covered.

use super::{Schedules, ServiceError, check_page, is_operator};
use crate::{
    clock::{UnixMs, rfc3339},
    domain::{
        backups::left_out,
        coverage::{Coverage, coverage, wanted_since_s},
        schedule::{RunState, Terms},
    },
    service::Caller,
    store::{
        apps::{self, AppFilter, AppOrder, ListedApp},
        backups::BackupRow,
        scheduled_backups,
        schedules::{self as rows, RunRow, ScheduleRow},
    },
};
use proximity_protocol::ids::{AppId, StorageId};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// An app as far as it is backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoverageView {
    /// The app.
    pub app_id: AppId,
    /// Its host name.
    pub hostname: String,
    /// Whose it is.
    pub owner: String,
    /// Where it is.
    pub node: String,
    /// `covered`, `late`, `never`, `no schedule`.
    pub state: Coverage,
    /// The same in words.
    pub message: String,
    /// RFC 3339; there should be a good backup that is younger. Null: none was due yet.
    pub wanted_since: Option<String>,
    /// The newest backup that can be restored.
    pub last_good: Option<GoodBackup>,
    /// Volumes that it does not hold, and why.
    pub left_out: Vec<String>,
    /// The latest proven restore.
    pub last_proven: Option<ProvenBackup>,
    /// Its schedules, those that do not run by themselves too.
    pub schedules: Vec<CoveringSchedule>,
}

/// A backup that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GoodBackup {
    /// Its id.
    pub backup_id: i64,
    /// RFC 3339; as of when its content is.
    pub made_at: String,
    /// How old that is, seconds.
    pub age_s: i64,
    /// Where it is.
    pub storage_name: StorageId,
}

/// A backup of which a restore was proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProvenBackup {
    /// Its id.
    pub backup_id: i64,
    /// RFC 3339.
    pub verified_at: String,
}

/// A schedule that covers the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoveringSchedule {
    /// Its id.
    pub schedule_id: i64,
    /// Its name.
    pub name: String,
    /// When.
    pub calendar: String,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// How its latest run for the app stands.
    pub state: RunState,
    /// The same in words.
    pub message: String,
}

/// A page of apps, by host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CoveragePage {
    /// The page.
    pub apps: Vec<CoverageView>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}

/// What is known of all apps.
struct Known {
    schedules: HashMap<i64, ScheduleRow>,
    runs: HashMap<AppId, Vec<RunRow>>,
    good: HashMap<AppId, BackupRow>,
    proven: HashMap<String, (i64, UnixMs)>,
}

impl Schedules {
    /// A page: operators see all apps, others their own.
    pub async fn coverage(&self, caller: &Caller, page: i64, per_page: i64) -> Result<CoveragePage, ServiceError> {
        check_page(page, per_page)?;
        let filter = AppFilter {
            owner_id: (!is_operator(caller)).then_some(caller.user_id),
            order: AppOrder::Hostname,
            ..AppFilter::default()
        };
        let mut conn = self.store.read().await?;
        let (found, total) = apps::list(&mut conn, &filter, per_page, (page - 1) * per_page).await?;
        let mut runs: HashMap<AppId, Vec<RunRow>> = HashMap::new();
        for of in rows::runs(&mut conn, None).await? {
            runs.entry(of.run.app_id.clone()).or_default().push(of.run);
        }
        let all = rows::all(&mut conn).await?;
        let good = scheduled_backups::last_good_of_all(&mut conn).await?;
        let proven = scheduled_backups::last_proven_of_all(&mut conn).await?;
        let mut known = Known {
            schedules: all.into_iter().map(|row| (row.id, row)).collect(),
            runs,
            good: good.into_iter().map(|row| (row.app_id.clone(), row)).collect(),
            proven: proven.into_iter().map(|(app, id, at)| (app, (id, at))).collect(),
        };
        Ok(CoveragePage {
            apps: found.into_iter().map(|app| self.covered(&mut known, app)).collect(),
            total,
            page,
            per_page,
        })
    }

    fn covered(&self, known: &mut Known, app: ListedApp) -> CoverageView {
        let now_s = self.now_s();
        let id = app.app.id.clone();
        let runs = known.runs.remove(&id).unwrap_or_default();
        let (mut wanted, mut schedules) = (Vec::new(), Vec::new());
        for run in runs {
            let Some(row) = known.schedules.get(&run.schedule_id) else {
                continue;
            };
            if row.enabled {
                let terms = Terms {
                    schedule_id: row.id,
                    calendar: &row.calendar,
                    jitter_s: row.jitter_s,
                    catch_up: row.catch_up,
                    zone: &self.zone,
                };
                let from_ms = if run.state == RunState::New {
                    row.since.max(run.occasion_at)
                } else {
                    row.since
                };
                wanted.push(wanted_since_s(&terms, id.as_str(), from_ms.div_euclid(1000), now_s));
            }
            schedules.push(CoveringSchedule {
                schedule_id: row.id,
                name: row.name.clone(),
                calendar: row.calendar.to_string(),
                enabled: row.enabled,
                state: run.state,
                message: run.message,
            });
        }
        let good = known.good.remove(&id);
        // Its content is as of when it was begun.
        let made_s = good.as_ref().map(|row| row.created_at.div_euclid(1000));
        let state = coverage(made_s, &wanted);
        let since = wanted.iter().flatten().max().map(|at| rfc3339(at.saturating_mul(1000)));
        CoverageView {
            message: words(state, good.as_ref(), since.as_deref(), &schedules),
            hostname: app.app.hostname,
            owner: app.owner_name,
            node: app.node_name,
            state,
            wanted_since: since,
            left_out: good.as_ref().map(|row| left_out(&row.volumes)).unwrap_or_default(),
            last_good: good.map(|row| GoodBackup {
                backup_id: row.id,
                made_at: rfc3339(row.created_at),
                age_s: now_s - row.created_at.div_euclid(1000),
                storage_name: row.storage,
            }),
            last_proven: known.proven.get(id.as_str()).map(|(backup_id, at)| ProvenBackup {
                backup_id: *backup_id,
                verified_at: rfc3339(*at),
            }),
            schedules,
            app_id: id,
        }
    }
}

fn words(state: Coverage, good: Option<&BackupRow>, since: Option<&str>, schedules: &[CoveringSchedule]) -> String {
    let made = good.map(|row| rfc3339(row.created_at)).unwrap_or_default();
    let latest: BTreeMap<&str, &str> = schedules
        .iter()
        .filter(|schedule| schedule.enabled && !schedule.message.is_empty())
        .map(|schedule| (schedule.name.as_str(), schedule.message.as_str()))
        .collect();
    let latest: Vec<String> = latest
        .iter()
        .map(|(name, message)| format!("{name}: {message}"))
        .collect();
    let latest = match latest.as_slice() {
        [] => String::new(),
        some => format!(" ({})", some.join("; ")),
    };
    match state {
        Coverage::Covered => format!("Its last good backup is of {made}"),
        Coverage::Late => format!(
            "Its last good backup is of {made}, and there should be one since {}{latest}",
            since.unwrap_or_default()
        ),
        Coverage::Never => format!("It has no backup that could be restored{latest}"),
        Coverage::NoSchedule if schedules.is_empty() => {
            "No schedule covers it: POST /api/backups/schedules makes one".into()
        }
        Coverage::NoSchedule => "No schedule that covers it is enabled: PATCH /api/backups/schedules/{id}".into(),
    }
}
