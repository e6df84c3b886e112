//! How a run goes on: by what became of what was begun, and by what the calendar says.

use super::{Advanced, LOOK_MS, Scheduler};
use crate::{
    clock::{UnixMs, rfc3339},
    domain::{
        backups::BackupStatus,
        operation_state::OperationState,
        schedule::{Due, RunState, TRIED_FOR_S, Terms},
    },
    store::{
        Connection, StoreError, backups, operations, scheduled_backups,
        schedules::{AppRun, RunRow, ScheduleRow},
    },
};
use std::sync::Arc;

const DAY_MS: i64 = 24 * 3600 * 1000;

fn seconds(at: UnixMs) -> i64 {
    at.div_euclid(1000)
}

fn moment(unix_s: i64) -> String {
    rfc3339(unix_s.saturating_mul(1000))
}

impl Scheduler {
    /// Where a run stands now; nothing is written.
    pub(super) async fn advance(
        &self,
        conn: &mut Connection,
        now: UnixMs,
        schedule: &Arc<ScheduleRow>,
        seen: AppRun,
    ) -> Result<Advanced, StoreError> {
        let mut run = seen.run.clone();
        let mut alarms = Vec::new();
        if run.state == RunState::Started {
            self.follow(conn, now, schedule, &seen, &mut run, &mut alarms).await?;
        }
        if run.trial_operation.is_some() {
            follow_trial(conn, &seen, &mut run, &mut alarms).await?;
        }
        let mut next = now + LOOK_MS;
        // The next backup waits until the one that is being made has ended.
        if run.state != RunState::Started {
            if let Some(at) = self.by_calendar(now, schedule, &seen, &mut run, &mut alarms) {
                next = next.min(at);
            }
            next = run.try_at.map_or(next, |at| next.min(at));
        }
        Ok(Advanced {
            schedule: Arc::clone(schedule),
            seen,
            new: run,
            alarms,
            next,
        })
    }

    /// What became of the backup.
    async fn follow(
        &self,
        conn: &mut Connection,
        now: UnixMs,
        schedule: &ScheduleRow,
        of: &AppRun,
        run: &mut RunRow,
        alarms: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let backup = match run.backup_id {
            Some(id) => backups::by_id(&mut *conn, id).await?,
            None => None,
        };
        let Some(backup) = backup else {
            run.state = RunState::Done;
            run.message = "the backup has been deleted since".into();
            return Ok(());
        };
        match backup.status {
            BackupStatus::Creating => {}
            BackupStatus::Failed => {
                let why = backup.error_message.as_deref().unwrap_or("no reason was given");
                run.state = RunState::Failed;
                run.message = format!("backup {} could not be made: {why}", backup.id);
                alarms.push(format!(
                    "backup {} of {} could not be made: {why}",
                    backup.id, of.hostname
                ));
            }
            BackupStatus::Completed | BackupStatus::Restoring | BackupStatus::Deleting | BackupStatus::Gone => {
                run.state = RunState::Done;
                run.message = format!("backup {} is on {}", backup.id, backup.storage);
                run.prune = !schedule.retention.keeps_all();
                let every_ms = i64::from(schedule.verify_every_days) * DAY_MS;
                if every_ms > 0 && backup.status == BackupStatus::Completed {
                    let proven = scheduled_backups::last_proven(conn, of.run.app_id.as_str()).await?;
                    let at = proven.and_then(|row| row.verified_at);
                    // Half a day early is in time: a trial ends later than its backup, and would slip by a run each time.
                    if at.is_none_or(|at| now - at >= every_ms - DAY_MS / 2) {
                        run.trial_backup_id = Some(backup.id);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the calendar says; when it has more to say.
    fn by_calendar(
        &self,
        now: UnixMs,
        schedule: &ScheduleRow,
        of: &AppRun,
        run: &mut RunRow,
        alarms: &mut Vec<String>,
    ) -> Option<UnixMs> {
        let host = &of.hostname;
        let trying = run.state == RunState::Trying;
        if !schedule.enabled {
            if trying && seconds(now) - seconds(run.occasion_at) > TRIED_FOR_S {
                alarms.push(format!("the backup of {host} could not begin: {}", run.message));
                (run.state, run.try_at) = (RunState::Missed, None);
            }
            return None;
        }
        let terms = Terms {
            schedule_id: schedule.id,
            calendar: &schedule.calendar,
            jitter_s: schedule.jitter_s,
            catch_up: schedule.catch_up,
            zone: &self.zone,
        };
        let served = seconds(run.occasion_at.max(schedule.since));
        match terms.due(run.app_id.as_str(), served, seconds(now)) {
            Due::NotBefore(at) => at.map(|at| at.saturating_mul(1000)),
            Due::Missed { occasion_s } => {
                let text = format!("it was due {}, when the coordinator did not run", moment(occasion_s));
                alarms.push(format!(
                    "the backup of {host} was missed: {text}, and the schedule makes up for nothing"
                ));
                run.occasion_at = occasion_s.saturating_mul(1000);
                (run.state, run.message, run.try_at) = (RunState::Missed, text, None);
                None
            }
            Due::Now { occasion_s, late } => {
                if trying {
                    alarms.push(format!(
                        "the backup of {host} that was due {} did not begin before the next one: {}",
                        rfc3339(run.occasion_at),
                        run.message
                    ));
                }
                run.occasion_at = occasion_s.saturating_mul(1000);
                run.state = RunState::Trying;
                run.tries = 0;
                run.try_at = Some(now);
                run.message = if late {
                    format!(
                        "it is made up for: it was due {}, when it could not begin",
                        moment(occasion_s)
                    )
                } else {
                    "it is due".into()
                };
                Some(now)
            }
        }
    }
}

/// What became of the trial.
async fn follow_trial(
    conn: &mut Connection,
    of: &AppRun,
    run: &mut RunRow,
    alarms: &mut Vec<String>,
) -> Result<(), StoreError> {
    let Some(id) = run.trial_operation else { return Ok(()) };
    let operation = operations::by_id(conn, id).await?;
    let (state, why) = match operation {
        None => (OperationState::Done, None),
        Some(operation) => (operation.state, operation.action.or(operation.reason)),
    };
    if !state.ended() {
        return Ok(());
    }
    if state != OperationState::Done {
        alarms.push(format!(
            "backup {} of {} could not be restored for proof (operation {id}, {state}): {}",
            run.trial_backup_id.unwrap_or_default(),
            of.hostname,
            why.as_deref().unwrap_or("its steps say more")
        ));
    }
    (run.trial_backup_id, run.trial_operation) = (None, None);
    Ok(())
}
