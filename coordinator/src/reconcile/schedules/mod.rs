//! Runs the schedules of backups. A *round* looks at how the latest run of each schedule stands for every app that it covers, and does what is due: begins a
//! backup, follows one that was begun, removes what retention does not keep, tries a backup out. It takes no input but the registry and the clock, so that a round
//! after a restart goes on where the last one was, and one that comes too often does nothing.
//!
//! 1. Apps that a schedule covers since the last round get a run, which is due from then on ([`crate::store::schedules::bring_up_to_date`]).
//! 2. Each run is advanced by what the calendar says and by what became of its backup (`advance`); all of it is written in one transaction, with an alarm for
//!    what was missed or has failed.
//! 3. What is to begin is begun, node by node beside each other, in each node one after the other (`begin`): one that does not answer keeps no other waiting.
//!
//! A backup begins through the use case of a user's request ([`port`]). If that refuses for now, the run is tried again, less and less often, until the next
//! occasion of its calendar. If the coordinator is killed after a backup was accepted and before that is written here, the next round finds the backup by its
//! schedule.
//!
//! Which backups count for retention: those that bear the schedule's id. What users have asked for, and what a deleted schedule has left, nobody prunes.

mod advance;
mod begin;
pub mod port;
#[cfg(test)]
pub(crate) mod tests;

use crate::{
    clock::{SharedClock, UnixMs},
    events::{Bus, NewEvent},
    store::{
        self, Store, StoreError,
        schedules::{self, AppRun, RunRow, ScheduleRow},
    },
};
use jiff::tz::TimeZone;
use port::BackupWork;
use proximity_protocol::ids::{AppId, NodeId};
use serde_json::json;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
    },
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Longest time between two rounds, milliseconds: the machine's clock and zone may have been set.
const LOOK_MS: i64 = 60_000;
/// Shortest.
const REST_MS: i64 = 1_000;

/// What schedules are run with.
#[derive(Clone)]
pub struct Scheduler {
    /// The registry.
    pub store: Store,
    /// Time.
    pub clock: SharedClock,
    /// Where days begin.
    pub zone: TimeZone,
    /// Whom to tell.
    pub bus: Bus,
    /// Begins what is due.
    pub work: Arc<dyn BackupWork>,
    /// Rung when a schedule was changed.
    pub bell: Arc<Notify>,
}

impl std::fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scheduler(…)")
    }
}

/// Something that an operator has to know of.
#[derive(Debug, Clone)]
struct Alarm {
    schedule: Arc<ScheduleRow>,
    /// Whose app.
    owner_id: i64,
    app_id: AppId,
    text: String,
}

/// A run that was advanced, not written yet.
struct Advanced {
    schedule: Arc<ScheduleRow>,
    seen: AppRun,
    new: RunRow,
    alarms: Vec<String>,
    /// When it has to be looked at again.
    next: UnixMs,
}

/// A run for which something has to begin.
struct Job {
    schedule: Arc<ScheduleRow>,
    of: AppRun,
}

impl Job {
    fn is_needed(run: &RunRow, now: UnixMs) -> bool {
        run.try_at.is_some_and(|at| at <= now)
            || run.prune
            || (run.trial_backup_id.is_some() && run.trial_operation.is_none())
    }
}

/// Waits until a backup has changed.
async fn backup_changed(events: &mut Receiver<crate::events::Event>) {
    loop {
        match events.recv().await {
            Ok(event) if event.kind == "backup" => return,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return,
            // Nobody is left who could tell: the clock decides.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

impl Scheduler {
    /// Runs until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut events = self.bus.subscribe();
        loop {
            let next = self.round().await.unwrap_or_else(|error| {
                tracing::error!(%error, "the schedules of backups could not be run; it is tried again in a minute");
                self.clock.now_ms() + LOOK_MS
            });
            let wait_ms = (next - self.clock.now_ms()).clamp(REST_MS, LOOK_MS).unsigned_abs();
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.clock.wait(Duration::from_millis(wait_ms)) => {}
                () = self.bell.notified() => {}
                () = backup_changed(&mut events) => {}
            }
        }
    }

    /// Does what is due; answers when the next round should be at the latest.
    pub async fn round(&self) -> Result<UnixMs, StoreError> {
        let now = self.clock.now_ms();
        let out_of_date = schedules::is_out_of_date(&mut *self.store.read().await?).await?;
        if out_of_date {
            let mut tx = self.store.begin().await?;
            schedules::bring_up_to_date(&mut tx, now).await?;
            tx.commit().await.map_err(StoreError::from)?;
        }
        let advanced = self.advance_all(now).await?;
        let mut next = now + LOOK_MS;
        let mut jobs: BTreeMap<NodeId, Vec<Job>> = BTreeMap::new();
        for one in self.write(now, advanced).await? {
            next = next.min(one.next);
            let run = one.new;
            if Job::is_needed(&run, now) {
                let node = one.seen.node_id;
                let of = AppRun { run, ..one.seen };
                jobs.entry(node).or_default().push(Job {
                    schedule: one.schedule,
                    of,
                });
            }
        }
        let mut tasks = JoinSet::new();
        for of_node in jobs.into_values() {
            let this = self.clone();
            tasks.spawn(async move { this.begin_on_node(now, of_node).await });
        }
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(at) => next = next.min(at?),
                Err(error) => tracing::error!(%error, "running the schedules of a node broke"),
            }
        }
        Ok(next)
    }

    async fn advance_all(&self, now: UnixMs) -> Result<Vec<Advanced>, StoreError> {
        let mut conn = self.store.read().await?;
        let schedules: HashMap<i64, Arc<ScheduleRow>> = schedules::all(&mut conn)
            .await?
            .into_iter()
            .map(|row| (row.id, Arc::new(row)))
            .collect();
        let mut advanced = Vec::new();
        for seen in schedules::runs(&mut conn, None).await? {
            if let Some(schedule) = schedules.get(&seen.run.schedule_id) {
                advanced.push(self.advance(&mut conn, now, schedule, seen).await?);
            }
        }
        Ok(advanced)
    }

    /// Writes what has changed, and tells the alarms; answers what is as it stands now.
    async fn write(&self, now: UnixMs, advanced: Vec<Advanced>) -> Result<Vec<Advanced>, StoreError> {
        let (changed, mut as_they_are): (Vec<_>, Vec<_>) =
            advanced.into_iter().partition(|one| one.new != one.seen.run);
        if changed.is_empty() {
            return Ok(as_they_are);
        }
        let mut alarms = Vec::new();
        let mut tx = self.store.begin().await?;
        for one in changed {
            // Somebody else has changed it: it is looked at in the next round.
            if !schedules::put_run(&mut tx, now, &one.seen.run, &one.new).await? {
                continue;
            }
            alarms.extend(one.alarms.iter().map(|text| Alarm {
                schedule: Arc::clone(&one.schedule),
                owner_id: one.seen.owner_id,
                app_id: one.seen.run.app_id.clone(),
                text: text.clone(),
            }));
            as_they_are.push(one);
        }
        let told = tell(&mut tx, now, alarms).await?;
        tx.commit().await.map_err(StoreError::from)?;
        told.into_iter().for_each(|event| self.bus.publish(event));
        Ok(as_they_are)
    }

    /// Writes one run, with an alarm.
    async fn write_one(&self, now: UnixMs, job: &Job, new: &RunRow, alarm: Option<String>) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        if !schedules::put_run(&mut tx, now, &job.of.run, new).await? {
            return Ok(());
        }
        let alarm = alarm.map(|text| Alarm {
            schedule: Arc::clone(&job.schedule),
            owner_id: job.of.owner_id,
            app_id: new.app_id.clone(),
            text,
        });
        let told = tell(&mut tx, now, alarm.into_iter().collect()).await?;
        tx.commit().await.map_err(StoreError::from)?;
        told.into_iter().for_each(|event| self.bus.publish(event));
        Ok(())
    }
}

/// One alarm for each schedule and owner, however many apps it is about.
async fn tell(
    tx: &mut store::Connection,
    now: UnixMs,
    alarms: Vec<Alarm>,
) -> Result<Vec<crate::events::Event>, StoreError> {
    let mut groups: BTreeMap<(i64, i64), Vec<Alarm>> = BTreeMap::new();
    for alarm in alarms {
        let group = groups.entry((alarm.schedule.id, alarm.owner_id)).or_default();
        group.push(alarm);
    }
    let mut told = Vec::with_capacity(groups.len());
    for ((schedule_id, owner_id), group) in groups {
        let [first, others @ ..] = group.as_slice() else {
            continue;
        };
        let more = match others.len() {
            0 => String::new(),
            n => format!("; and {n} more of its apps: GET /api/backups/schedules/{schedule_id} lists them"),
        };
        let message = format!("schedule {}: {}{more}", first.schedule.name, first.text);
        tracing::error!(schedule_id, apps = group.len(), "{message}");
        let event = NewEvent {
            kind: "alarm",
            app_id: others.is_empty().then(|| first.app_id.to_string()),
            operation_id: None,
            owner_id: Some(owner_id),
            data: json!({
                "message": message,
                "schedule_id": schedule_id,
                "apps": group.iter().map(|alarm| &alarm.app_id).collect::<Vec<_>>(),
            }),
        };
        told.push(store::insert_event(&mut *tx, now, event).await?);
    }
    Ok(told)
}
