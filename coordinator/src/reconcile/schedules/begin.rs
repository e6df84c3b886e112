//! Begins what is due on one node.

use super::{
    Job, LOOK_MS, Scheduler,
    port::{Begun, Refusal},
};
use crate::{
    clock::UnixMs,
    domain::{
        retention::Mark,
        schedule::{RunState, pause_s},
    },
    store::{StoreError, backups, scheduled_backups, schedules::RunRow},
};

/// Whether the node answers.
#[derive(PartialEq, Eq)]
enum Node {
    Answers,
    IsSilent,
}

impl Scheduler {
    /// One after the other, so that the first that finds the node silent speaks for all; answers when the next round should be at the latest.
    pub(super) async fn begin_on_node(&self, now: UnixMs, jobs: Vec<Job>) -> Result<UnixMs, StoreError> {
        let mut next = now + LOOK_MS;
        let mut silent: Option<String> = None;
        for job in jobs {
            let due = job.of.run.try_at.is_some_and(|at| at <= now);
            if due {
                let (at, node) = self.begin_backup(now, &job, silent.clone()).await?;
                next = next.min(at);
                if let Node::IsSilent = node
                    && silent.is_none()
                {
                    silent = Some(format!("the node of {} did not answer a moment ago", job.of.hostname));
                }
                continue;
            }
            // What is begun here keeps the app busy, so it is one thing at a time.
            if job.of.run.trial_backup_id.is_some() && job.of.run.trial_operation.is_none() {
                if silent.is_none() {
                    self.begin_trial(now, &job).await?;
                }
            } else if job.of.run.prune {
                self.begin_pruning(now, &job).await?;
            }
        }
        Ok(next)
    }

    async fn begin_backup(&self, now: UnixMs, job: &Job, silent: Option<String>) -> Result<(UnixMs, Node), StoreError> {
        let run = &job.of.run;
        // One that was accepted before the coordinator was killed.
        let found = {
            let mut conn = self.store.read().await?;
            scheduled_backups::begun_since(&mut conn, run.schedule_id, run.app_id.as_str(), run.occasion_at).await?
        };
        let answer = match (found, silent) {
            (Some(backup_id), _) => Ok(Begun {
                backup_id,
                message: run.message.clone(),
            }),
            (None, Some(why)) => Err(Refusal::Later { why, silent: true }),
            (None, None) => self.work.back_up(&job.schedule, &run.app_id).await,
        };
        let mut new = RunRow {
            try_at: None,
            ..run.clone()
        };
        let (mut alarm, mut node, mut next) = (None, Node::Answers, now + LOOK_MS);
        match answer {
            Ok(begun) => {
                new.state = RunState::Started;
                new.backup_id = Some(begun.backup_id);
                new.message = begun.message;
            }
            Err(Refusal::Later { why, silent }) => {
                next = now + pause_s(run.tries) * 1000;
                new.tries = run.tries.saturating_add(1);
                new.try_at = Some(next);
                new.message = format!("it could not begin so far, and is tried again until the next one is due: {why}");
                if silent {
                    node = Node::IsSilent;
                }
            }
            Err(Refusal::Never(why)) => {
                new.state = RunState::Failed;
                alarm = Some(format!("the backup of {} cannot be made: {why}", job.of.hostname));
                new.message = why;
            }
            Err(Refusal::Store(error)) => return Err(error),
        }
        self.write_one(now, job, &new, alarm).await?;
        Ok((next, node))
    }

    async fn begin_trial(&self, now: UnixMs, job: &Job) -> Result<(), StoreError> {
        let run = &job.of.run;
        let Some(id) = run.trial_backup_id else { return Ok(()) };
        let proven = {
            let backup = backups::by_id(&mut *self.store.read().await?, id).await?;
            backup.is_none_or(|backup| backup.verified_at.is_some())
        };
        let mut new = run.clone();
        let mut alarm = None;
        if proven {
            new.trial_backup_id = None;
        } else {
            match self.work.try_out(&job.schedule, &run.app_id, id).await {
                Ok(operation) => new.trial_operation = Some(operation),
                Err(Refusal::Later { why, .. }) => {
                    tracing::debug!(app_id = %run.app_id, backup_id = id, why, "the trial of a backup has to wait");
                    return Ok(());
                }
                Err(Refusal::Never(why)) => {
                    new.trial_backup_id = None;
                    alarm = Some(format!("backup {id} of {} cannot be tried out: {why}", job.of.hostname));
                }
                Err(Refusal::Store(error)) => return Err(error),
            }
        }
        self.write_one(now, job, &new, alarm).await
    }

    /// Begins the removal of the oldest that retention does not keep: one at a time, since each is an operation of the app. The next round takes the next.
    async fn begin_pruning(&self, now: UnixMs, job: &Job) -> Result<(), StoreError> {
        let run = &job.of.run;
        let all = {
            let mut conn = self.store.read().await?;
            scheduled_backups::of_schedule(&mut conn, run.schedule_id, run.app_id.as_str()).await?
        };
        let marks = job
            .schedule
            .retention
            .marks(&scheduled_backups::candidates(&all), &self.zone);
        let goes = marks.iter().find(|(_, mark)| **mark == Mark::Remove).map(|(id, _)| *id);
        let (done, alarm) = match goes {
            None => (true, None),
            Some(id) => match self.work.prune(&job.schedule, &run.app_id, id).await {
                Ok(()) => (false, None),
                Err(Refusal::Later { why, .. }) => {
                    tracing::debug!(app_id = %run.app_id, backup_id = id, why, "a backup that is not kept has to wait");
                    (false, None)
                }
                // Looked at again after the next backup.
                Err(Refusal::Never(why)) => (
                    true,
                    Some(format!(
                        "backup {id} of {} is not kept, and stays: {why}",
                        job.of.hostname
                    )),
                ),
                Err(Refusal::Store(error)) => return Err(error),
            },
        };
        if !done {
            return Ok(());
        }
        let new = RunRow {
            prune: false,
            ..run.clone()
        };
        self.write_one(now, job, &new, alarm).await
    }
}
