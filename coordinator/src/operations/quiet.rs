//! A step that tells nothing: after a while somebody is told, and after a longer while its command is sent again. Nothing is broken off for it: a tool that
//! works may have nothing to tell.

use super::{
    drive::{At, Drive, Moment},
    engine::Engine,
    record::{Draft, line},
};
use crate::{
    clock::{SharedClock, UnixMs},
    domain::settings::{Group as _, OperationSettings},
    store::{StoreError, deployment_logs::LogLevel, settings},
};
use std::{future::Future, pin::Pin, time::Duration};

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Watches one command.
pub(super) struct Quiet {
    clock: SharedClock,
    alarm_after: Option<Duration>,
    give_up_after: Option<Duration>,
    since: UnixMs,
    /// Told in an earlier attempt to ask, or in this one.
    told: bool,
    alarm: Option<Wait>,
    give_up: Option<Wait>,
}

/// What has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// Time to tell somebody.
    Alarm {
        /// Since when nothing was told.
        since: UnixMs,
    },
    /// Time to ask again.
    NoAnswer,
}

fn unless_zero(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

impl Quiet {
    /// Begins to count. `told`: since when the step is known to tell nothing, from before a lost connection.
    pub(super) async fn of(engine: &Engine, told: Option<UnixMs>) -> Result<Self, StoreError> {
        let settings: OperationSettings = {
            let mut conn = engine.deps().store.read().await?;
            settings::get(&mut conn, OperationSettings::NAME)
                .await?
                .unwrap_or_default()
        };
        let clock = engine.deps().clock.clone();
        let mut quiet = Self {
            since: told.unwrap_or_else(|| clock.now_ms()),
            alarm_after: unless_zero(settings.no_progress_alarm_s),
            give_up_after: unless_zero(settings.no_answer_s),
            told: told.is_some(),
            alarm: None,
            give_up: None,
            clock,
        };
        quiet.count();
        Ok(quiet)
    }

    fn count(&mut self) {
        let wait = |after: Option<Duration>| after.map(|after| self.clock.wait(after));
        self.alarm = if self.told { None } else { wait(self.alarm_after) };
        self.give_up = wait(self.give_up_after);
    }

    /// Something was told. Whether somebody had been told that nothing is.
    pub(super) fn broken(&mut self) -> bool {
        let was = std::mem::take(&mut self.told);
        self.since = self.clock.now_ms();
        self.count();
        was
    }

    /// Waits for what passes next.
    pub(super) async fn passes(&mut self) -> Passed {
        async fn or_never(wait: &mut Option<Wait>) {
            match wait {
                Some(wait) => wait.await,
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            biased;
            () = or_never(&mut self.alarm) => {
                (self.alarm, self.told) = (None, true);
                Passed::Alarm { since: self.since }
            }
            () = or_never(&mut self.give_up) => {
                self.give_up = None;
                Passed::NoAnswer
            }
        }
    }
}

impl Drive<'_> {
    /// Tells that a step makes no progress: in the operation, the app's log, an event, and the coordinator's log.
    pub(super) async fn alarm(&self, moment: &Moment, at: At, since: UnixMs) -> Result<(), StoreError> {
        let minutes = (self.engine.deps().clock.now_ms() - since) / 60_000;
        let row = &moment.steps[at.place];
        let words = format!(
            "{} has told nothing for {minutes} min; it is waited for. On {}, `proximity-agent status` shows what works there; the operation can be cancelled",
            row.title, moment.node
        );
        tracing::warn!(operation_id = %self.id, app_id = %moment.app.id, step = row.name, minutes, "a step makes no progress");
        let mut draft = Draft::of(moment.operation.clone());
        draft.operation.quiet_since = Some(since);
        draft.lines.push(line(LogLevel::Warning, &row.name, words));
        draft.steps.push(row.clone());
        self.write(draft).await.map(drop)
    }
}
