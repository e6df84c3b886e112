//! Schedules as answers show them.

use crate::{
    clock::rfc3339,
    domain::{
        retention::Retention,
        schedule::{Due, RunState, Terms},
    },
    store::schedules::{AppRun, Covers, ScheduleRow},
};
use jiff::tz::TimeZone;
use proximity_protocol::ids::AppId;
use serde::Serialize;
use std::collections::BTreeMap;

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScheduleView {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Whose apps it covers; null: everybody's.
    pub owner: Option<String>,
    /// This app, or
    pub app_id: Option<AppId>,
    /// those that bear this label.
    pub label: Option<String>,
    /// When.
    pub calendar: String,
    /// Of which zone the times of the calendar are.
    pub time_zone: String,
    /// Each run begins up to so many seconds later.
    pub jitter_s: u32,
    /// Whether a missed run is made up for.
    pub catch_up: bool,
    /// `snapshot`, `suspend`, `stop`.
    pub backup_type: String,
    /// `zstd`, `gzip`, `lzo`.
    pub compression: String,
    /// Where; null: chosen at each run.
    pub storage: Option<String>,
    /// What stays of what it has made; without any rule everything does.
    pub retention: Retention,
    /// How old the latest proven restore may become, days; 0: no backup is tried out.
    pub verify_every_days: u32,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// RFC 3339; the next occasion, before the jitter. Null: it does not run by itself.
    pub next_run_at: Option<String>,
    /// How many apps it covers.
    pub app_count: usize,
    /// How many of their latest runs are in which state.
    pub states: BTreeMap<&'static str, usize>,
    /// Who made it.
    pub created_by: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// For each app; only where one schedule is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<RunView>>,
}

/// How a schedule stands for an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunView {
    /// The app.
    pub app_id: AppId,
    /// Its host name.
    pub hostname: String,
    /// `new`, `trying`, `started`, `done`, `failed`, `missed`.
    pub state: RunState,
    /// The same in words.
    pub message: String,
    /// RFC 3339; for which occasion. Null: none was due yet.
    pub occasion_at: Option<String>,
    /// The latest backup that was begun.
    pub backup_id: Option<i64>,
    /// RFC 3339; when it begins next, or is tried again.
    pub next_run_at: Option<String>,
}

fn of_seconds(unix_s: i64) -> String {
    rfc3339(unix_s.saturating_mul(1000))
}

/// When a run begins next, seconds.
fn next_of(row: &ScheduleRow, of: &AppRun, now_s: i64, zone: &TimeZone) -> Option<i64> {
    if let Some(at) = of.run.try_at {
        return Some(at.div_euclid(1000));
    }
    if !row.enabled {
        return None;
    }
    let terms = Terms {
        schedule_id: row.id,
        calendar: &row.calendar,
        jitter_s: row.jitter_s,
        catch_up: row.catch_up,
        zone,
    };
    let served = of.run.occasion_at.max(row.since).div_euclid(1000);
    match terms.due(of.run.app_id.as_str(), served, now_s) {
        Due::NotBefore(at) => at,
        Due::Now { .. } => Some(now_s),
        Due::Missed { .. } => row
            .calendar
            .next_after(now_s, zone)
            .map(|next| terms.moment_s(of.run.app_id.as_str(), next)),
    }
}

impl RunView {
    fn new(row: &ScheduleRow, of: &AppRun, now_s: i64, zone: &TimeZone) -> Self {
        let run = &of.run;
        Self {
            app_id: run.app_id.clone(),
            hostname: of.hostname.clone(),
            state: run.state,
            message: run.message.clone(),
            occasion_at: (run.state != RunState::New).then(|| rfc3339(run.occasion_at)),
            backup_id: run.backup_id,
            next_run_at: next_of(row, of, now_s, zone).map(of_seconds),
        }
    }
}

impl ScheduleView {
    pub(super) fn new(
        row: ScheduleRow,
        owner: Option<String>,
        runs: &[AppRun],
        now_s: i64,
        zone: &TimeZone,
        with_runs: bool,
    ) -> Self {
        let mut states = BTreeMap::new();
        for of in runs {
            *states.entry(of.run.state.as_str()).or_insert(0) += 1;
        }
        let next = row.enabled.then(|| row.calendar.next_after(now_s, zone)).flatten();
        let shown = with_runs.then(|| runs.iter().map(|of| RunView::new(&row, of, now_s, zone)).collect());
        let (app_id, label) = match row.covers {
            Covers::App(app) => (Some(app), None),
            Covers::Label(label) => (None, Some(label)),
        };
        Self {
            id: row.id,
            name: row.name,
            owner,
            app_id,
            label,
            calendar: row.calendar.to_string(),
            time_zone: zone.iana_name().unwrap_or("the machine's").to_owned(),
            jitter_s: row.jitter_s,
            catch_up: row.catch_up,
            backup_type: row.backup_type,
            compression: row.compression,
            storage: row.storage,
            retention: row.retention,
            verify_every_days: row.verify_every_days,
            enabled: row.enabled,
            next_run_at: next.map(of_seconds),
            app_count: runs.len(),
            states,
            created_by: row.created_by,
            created_at: rfc3339(row.created_at),
            updated_at: rfc3339(row.updated_at),
            runs: shown,
        }
    }
}

/// A page of schedules, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SchedulePage {
    /// The page.
    pub schedules: Vec<ScheduleView>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}
