//! Ends what is overdue and forgets what is old, every six hours, when the coordinator starts, and when somebody asks.
//!
//! An operation past its deadline is not written off: it is asked to turn around, and takes back what it did as any cancelled one does. One that has no way
//! back, or is on it already, is only told. What is forgotten is forgotten in small transactions, so that nobody waits for it.

use super::rounds::Rounds;
use crate::{
    clock::{SharedClock, UnixMs},
    domain::{
        operation_state::OperationState,
        settings::{Group as _, OperationSettings},
        upkeep::{Cause, Round},
    },
    events::{Bus, NewEvent},
    operations::{
        Engine, kind,
        record::{Told, operation_event},
    },
    store::{
        self, Connection, Store, StoreError,
        deployment_logs::{self, LogLevel},
        events, join_tokens,
        operations::{self, OperationRow},
        reports, reservations, schedules, sessions, settings,
    },
};
use proximity_protocol::ids::OperationId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Rows that one transaction forgets at most.
const BATCH: i64 = 2000;
/// How long ended sessions and spent or expired join tokens are kept, for whoever asks what they were.
const TRACES_MS: i64 = 7 * DAY_MS;
/// How many reports of each kind are kept.
const REPORTS: i64 = 500;

/// What the janitor works with.
#[derive(Clone)]
pub struct Janitor {
    /// The registry.
    pub store: Store,
    /// Turns operations around.
    pub engine: Engine,
    /// Time.
    pub clock: SharedClock,
    /// Whom to tell.
    pub bus: Bus,
    /// Who asks for a run.
    pub rounds: Rounds,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JanitorReport {
    /// Operations past their deadline, each with what was done.
    pub overdue: Vec<Overdue>,
    /// Operations that are stuck and that nobody has abandoned: each waits for an operator.
    pub stuck: Vec<String>,
    /// How many rows were forgotten, by what they were.
    pub forgotten: Forgotten,
}

/// An operation past its deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overdue {
    /// Its id.
    pub operation_id: String,
    /// What it is, in words.
    pub what: String,
    /// What was done, in words.
    pub done: String,
}

/// How many rows were forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Events beyond the newest that are kept.
    pub events: u64,
    /// Operations that ended long ago.
    pub operations: u64,
    /// Lines of deployment logs.
    pub log_lines: u64,
    /// Choices that a node refused more than a day ago.
    pub refused_choices: u64,
    /// Sessions that ended.
    pub sessions: u64,
    /// Join tokens that are spent, revoked or expired.
    pub join_tokens: u64,
    /// Reports beyond the newest that are kept.
    pub reports: u64,
}

/// What is old.
#[derive(Debug, Clone)]
enum Old {
    /// Events beyond so many.
    Events(i64),
    /// Operations that ended before.
    Operations(UnixMs),
    /// Lines from before.
    LogLines(UnixMs),
    /// Lines of an app beyond so many.
    LongLog { app_id: String, keep: i64 },
    /// Choices refused before.
    RefusedChoices(UnixMs),
    /// Sessions ended before.
    Sessions(UnixMs),
    /// Join tokens whose time was over before.
    JoinTokens(UnixMs),
    /// Reports of the kind beyond those that are kept.
    Reports(Round),
}

impl Old {
    /// Deletes at most [`BATCH`]; how many.
    async fn delete(&self, tx: &mut Connection) -> Result<u64, StoreError> {
        match self {
            Self::Events(keep) => events::prune(tx, *keep, BATCH).await,
            Self::Operations(before) => operations::forget_ended(tx, *before, BATCH).await,
            Self::LogLines(before) => deployment_logs::forget_old(tx, *before, BATCH).await,
            Self::LongLog { app_id, keep } => deployment_logs::shorten(tx, app_id, *keep, BATCH).await,
            Self::RefusedChoices(before) => reservations::forget_refused(tx, *before, BATCH).await,
            Self::Sessions(before) => sessions::forget_ended(tx, *before, BATCH).await,
            Self::JoinTokens(before) => join_tokens::forget_old(tx, *before, BATCH).await,
            Self::Reports(round) => reports::prune(tx, *round, REPORTS, BATCH).await,
        }
    }
}

impl Janitor {
    /// Cleans up until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut cause = match self.rounds.recover(Round::Janitor).await {
            Ok(true) => Cause::Request,
            Ok(false) => Cause::Start,
            Err(error) => {
                tracing::error!(%error, "what was asked of the janitor cannot be read");
                Cause::Start
            }
        };
        loop {
            if let Err(error) = self.round(cause).await {
                tracing::error!(%error, "the janitor could not do its work; it tries again when it is due");
            }
            let interval = match self.settings().await {
                Ok(settings) => settings.janitor_interval_s,
                Err(error) => {
                    tracing::error!(%error, "the janitor's interval cannot be read");
                    OperationSettings::default().janitor_interval_s
                }
            };
            cause = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.clock.wait(Duration::from_secs(interval.into())) => Cause::Timer,
                () = self.rounds.asked(Round::Janitor) => Cause::Request,
            };
        }
    }

    async fn settings(&self) -> Result<OperationSettings, StoreError> {
        let mut conn = self.store.read().await?;
        Ok(settings::get(&mut conn, OperationSettings::NAME)
            .await?
            .unwrap_or_default())
    }

    /// One run with its report.
    pub async fn round(&self, cause: Cause) -> Result<JanitorReport, StoreError> {
        let ids = self.rounds.begin(Round::Janitor, cause).await?;
        let report = match self.clean().await {
            Ok(report) => report,
            Err(error) => {
                self.rounds.break_off(Round::Janitor).await;
                return Err(error);
            }
        };
        self.rounds.finish(&ids, &report).await?;
        Ok(report)
    }

    async fn clean(&self) -> Result<JanitorReport, StoreError> {
        let (settings, now) = (self.settings().await?, self.clock.now_ms());
        let mut report = JanitorReport {
            overdue: self.end_overdue(&settings, now).await?,
            stuck: self.stuck().await?,
            ..JanitorReport::default()
        };
        self.look_at_retention().await?;
        let days = |days: u32| now - i64::from(days) * DAY_MS;
        let keep_lines = i64::from(settings.keep_log_lines);
        let mut log_lines = self.forget(Old::LogLines(days(settings.keep_log_days))).await?;
        for app_id in self.long_logs(keep_lines).await? {
            log_lines += self
                .forget(Old::LongLog {
                    app_id,
                    keep: keep_lines,
                })
                .await?;
        }
        report.forgotten = Forgotten {
            events: self.forget(Old::Events(settings.keep_events.into())).await?,
            operations: self
                .forget(Old::Operations(days(settings.keep_operations_days)))
                .await?,
            log_lines,
            refused_choices: self
                .forget(Old::RefusedChoices(now - reservations::REFUSED_FOR_MS))
                .await?,
            sessions: self.forget(Old::Sessions(now - TRACES_MS)).await?,
            join_tokens: self.forget(Old::JoinTokens(now - TRACES_MS)).await?,
            reports: self.forget(Old::Reports(Round::Reconcile)).await?
                + self.forget(Old::Reports(Round::Janitor)).await?,
        };
        Ok(report)
    }

    /// What the retention of schedules does not keep goes with their next round, also if what was to be removed could not be at its time.
    async fn look_at_retention(&self) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        schedules::look_at_retention(&mut tx, None).await?;
        tx.commit().await.map_err(StoreError::from)
    }

    /// Forgets in transactions of at most [`BATCH`] rows until less is left.
    async fn forget(&self, old: Old) -> Result<u64, StoreError> {
        let mut all = 0;
        loop {
            let mut tx = self.store.begin().await?;
            let deleted = old.delete(&mut tx).await?;
            tx.commit().await.map_err(StoreError::from)?;
            all += deleted;
            if deleted < BATCH.unsigned_abs() {
                return Ok(all);
            }
        }
    }

    async fn long_logs(&self, most: i64) -> Result<Vec<String>, StoreError> {
        deployment_logs::too_long(&mut *self.store.read().await?, most).await
    }

    async fn stuck(&self) -> Result<Vec<String>, StoreError> {
        let mut conn = self.store.read().await?;
        let stuck = operations::stuck(&mut conn).await?;
        Ok(stuck
            .into_iter()
            .map(|o| {
                format!(
                    "{} of {} ({}): {}",
                    o.kind,
                    o.hostname,
                    o.id,
                    o.action
                        .as_deref()
                        .unwrap_or("see `proximity-coordinator operations show`")
                )
            })
            .collect())
    }

    async fn end_overdue(&self, settings: &OperationSettings, now: UnixMs) -> Result<Vec<Overdue>, StoreError> {
        let before = now - i64::from(settings.operation_deadline_s) * 1000;
        let overdue = {
            let mut conn = self.store.read().await?;
            operations::begun_before(&mut conn, before).await?
        };
        let hours = settings.operation_deadline_s / 3600;
        let mut told = Vec::with_capacity(overdue.len());
        for row in overdue {
            let done = self.end_one(row.id, now, hours).await?;
            if let Some(done) = done {
                told.push(Overdue {
                    operation_id: row.id.to_string(),
                    what: format!("{} of {}, {}", row.kind, row.hostname, row.state),
                    done,
                });
            }
        }
        Ok(told)
    }

    /// Turns one around, if it can be; `None`: it has ended meanwhile.
    async fn end_one(&self, id: OperationId, now: UnixMs, hours: u32) -> Result<Option<String>, StoreError> {
        let mut tx = self.store.begin().await?;
        let Some(row) = operations::by_id(&mut tx, id).await?.filter(|row| !row.state.ended()) else {
            return Ok(None);
        };
        let (done, turns) = verdict(&row);
        let words = format!("it has not ended within {hours} hours: {done}");
        let mut told = Vec::new();
        if turns {
            operations::request_cancel(&mut tx, id).await?;
            deployment_logs::append(
                &mut tx,
                now,
                &row.app_id,
                Some(id),
                LogLevel::Warning,
                "janitor",
                &words,
            )
            .await?;
            let message = Told {
                message: Some(&words),
                ..Told::default()
            };
            told.push(operation_event(&mut tx, now, &row, message).await?);
        } else {
            tracing::error!(operation_id = %id, app_id = row.app_id, kind = row.kind, state = %row.state, "{words}");
            let event = NewEvent {
                kind: "alarm",
                app_id: Some(row.app_id.clone()),
                operation_id: Some(id.to_string()),
                owner_id: Some(row.owner_id),
                data: json!({ "message": format!("{} of {}: {words}", row.kind, row.hostname), "apps": [row.app_id] }),
            };
            told.push(store::insert_event(&mut tx, now, event).await?);
        }
        tx.commit().await.map_err(StoreError::from)?;
        told.into_iter().for_each(|event| self.bus.publish(event));
        if turns {
            self.engine.kick(id);
            self.engine.wake();
        }
        Ok(Some(done))
    }
}

/// What is done about an operation past its deadline, and whether it is asked to turn around.
fn verdict(row: &OperationRow) -> (String, bool) {
    let reason = row.reason.as_deref().unwrap_or("its step tells no reason");
    let no_way_back = kind(&row.kind).is_none_or(|kind| kind.forward_only);
    match row.state {
        OperationState::Undoing => (
            format!("it is being taken back ({reason}); see to that, or abandon it"),
            false,
        ),
        _ if no_way_back => (
            format!("it has no way back ({reason}); see to that, or abandon it"),
            false,
        ),
        _ if row.cancel_requested => (format!("it has been asked to turn around before ({reason})"), false),
        _ => ("it is asked to turn around, and takes back what it did".into(), true),
    }
}
