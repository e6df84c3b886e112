//! How an operation turns around on request, and how it ends.

use super::{
    drive::{Advance, At, Drive, Moment, Pause},
    record::{self, Draft, RecordError, line},
    settle::{Sent, why_undone},
    step::{Change, Kind, SideChange, View},
};
use crate::{
    domain::{
        app_state::Status,
        operation_state::{OperationState, StepState},
    },
    store::{
        StoreError,
        deployment_logs::LogLevel,
        operations::{self, OperationRow, StepRow},
    },
};

/// What was found to be not the app's and so not touched.
fn left_in_words(left: &[String]) -> Option<String> {
    (!left.is_empty()).then(|| format!("left as it is: {}", left.join("; ")))
}

/// A kind, as an operator would say it at the beginning of a sentence.
fn in_words(kind: &str) -> &str {
    match kind {
        "deploy" => "The deployment",
        "start" => "The start",
        "stop" => "The stop",
        "restart" => "The restart",
        "delete" => "The deletion",
        "publish" => "Publishing the port",
        "adopt" => "The adoption",
        "forget" => "Letting go of the container",
        "configure" => "The change",
        "migrate" => "The move",
        "backup" => "The backup",
        "backup_delete" => "The deletion of the backup",
        "restore" => "The restore",
        "clone" => "The clone",
        "verify" => "The trial of the backup",
        "discard" => "The removal of the kept container",
        other => other,
    }
}

fn app_in_error(words: &str) -> Vec<Change> {
    vec![Change::Status(Status::Error), Change::Reason(Some(words.to_owned()))]
}

/// What the registry says when the engine gives an operation up.
pub(super) fn given_up(kind: &Kind, view: &View<'_>, why: &str, advice: &str) -> Vec<Change> {
    let words = format!("{why}. {advice}");
    if kind.beside_app {
        // Of what is stuck it is not known whether it is there.
        let told = (kind.undone)(view, &words).into_iter();
        return told
            .filter(|change| *change != Change::Side(SideChange::Gone))
            .collect();
    }
    let mut changes = app_in_error(&words);
    // What it was about is not waited for any more.
    let told = (kind.undone)(view, &words).into_iter();
    changes.extend(told.filter(|change| matches!(change, Change::Backup(_))));
    changes
}

impl Drive<'_> {
    /// Somebody asked to stop.
    pub(super) async fn turn_back(&self, moment: Moment) -> Advance {
        self.turn_from(moment, Vec::new()).await
    }

    /// The same from a step that waited on its node and was told to stop there.
    pub(super) async fn cancelled(&self, mut moment: Moment, at: At, sent: Sent) -> Advance {
        let row = &mut moment.steps[at.place];
        row.state = StepState::Failed;
        row.retry_at = None;
        row.reason = Some("cancelled".into());
        let row = row.clone();
        let pause = self.turn_from(moment, vec![row]).await?;
        self.committed(sent);
        Ok(pause)
    }

    async fn turn_from(&self, moment: Moment, steps: Vec<StepRow>) -> Advance {
        let mut draft = Draft::of(moment.operation);
        draft.steps = steps;
        draft.operation.state = OperationState::Undoing;
        draft.operation.reason = Some("cancelled".into());
        let words = "Cancelled; taking back what was done".to_owned();
        draft.lines.push(line(LogLevel::Info, "cancel", words));
        self.write(draft).await
    }

    /// Everything is done, or taken back. What a done one left on a node stands in its reason: the app's log may be gone by then.
    pub(super) async fn finish(&self, moment: Moment, kind: &'static Kind, done: bool) -> Advance {
        let why = why_undone(&moment.operation);
        let view = moment.view(&[]);
        let (changes, level, words) = if done {
            let words = match left_in_words(&moment.data.left) {
                Some(left) => format!("{} is done; {left}", in_words(kind.name)),
                None => format!("{} is done", in_words(kind.name)),
            };
            ((kind.done)(&view), LogLevel::Info, words)
        } else {
            let words = format!("{} was taken back: {why}", in_words(kind.name));
            ((kind.undone)(&view, &why), LogLevel::Error, words)
        };
        let node = moment.operation.node_id;
        let left = left_in_words(&moment.data.left);
        if let Some(left) = left.as_ref().filter(|_| done) {
            tracing::warn!(operation_id = %self.id, app_id = %moment.app.id, left, "an operation left something on its node");
        }
        let mut draft = Draft::of(moment.operation);
        draft.changes = changes;
        draft.lines.push(line(level, kind.name, words));
        draft.operation.state = if done {
            OperationState::Done
        } else {
            OperationState::Undone
        };
        draft.operation.reason = if done { left } else { Some(why) };
        draft.operation.finished_at = Some(self.engine.deps().clock.now_ms());
        let app_id = draft.operation.app_id.clone();
        let state = draft.operation.state;
        let pause = self.write(draft).await?;
        if kind.name == super::restore::RESTORE.name && done {
            // It may have queued the removal of what it replaced.
            self.engine.wake();
        }
        if pause.is_none() {
            tracing::info!(operation_id = %self.id, app_id, kind = kind.name, ?state, "an operation has ended");
        }
        if let Some(node) = node {
            self.engine.deps().commands.committed(node, self.id, None);
        }
        Ok(pause)
    }

    /// Its app has been removed meanwhile: nothing of it is left to do.
    pub(super) async fn without_app(&self, mut operation: OperationRow) -> Result<(), StoreError> {
        let deps = self.engine.deps();
        let now = deps.clock.now_ms();
        let why = "its app has been removed meanwhile".to_owned();
        tracing::warn!(operation_id = %self.id, app_id = operation.app_id, "an operation has ended: {why}");
        operation.state = OperationState::Undone;
        operation.reason = Some(why);
        (operation.updated_at, operation.finished_at) = (now, Some(now));
        let mut tx = deps.store.begin().await?;
        operations::update(&mut tx, &operation).await?;
        let event = record::operation_event(&mut tx, now, &operation, record::Told::default()).await?;
        tx.commit().await?;
        deps.bus.publish(event);
        if let Some(node) = operation.node_id {
            deps.commands.committed(node, self.id, None);
        }
        Ok(())
    }

    /// It cannot be carried out by this version at all.
    pub(super) async fn unknown(&self, moment: Moment, why: String) -> Advance {
        let mut draft = Draft::of(moment.operation);
        let advice = "Install the newer version again, or delete the app.".to_owned();
        let changes = app_in_error(&format!("{why}. {advice}"));
        self.stuck(&mut draft, changes, why, advice);
        self.write(draft).await
    }

    /// Ends an operation that the engine cannot bring to an end. `changes`: see [`given_up`].
    pub(super) fn stuck(&self, draft: &mut Draft, changes: Vec<Change>, why: String, advice: String) {
        let words = format!("{why}. {advice}");
        draft.lines.push(line(LogLevel::Error, &draft.operation.kind, words));
        draft.changes.extend(changes);
        draft.operation.state = OperationState::Stuck;
        draft.operation.reason = Some(why);
        draft.operation.action = Some(advice);
        draft.operation.finished_at = Some(self.engine.deps().clock.now_ms());
        tracing::error!(operation_id = %self.id, app_id = draft.operation.app_id, reason = draft.operation.reason, action = draft.operation.action, "an operation is stuck");
    }

    /// Writes a draft and tells subscribers.
    pub(super) async fn try_write(&self, mut draft: Draft) -> Result<(), RecordError> {
        let deps = self.engine.deps();
        let now = deps.clock.now_ms();
        for event in record::write(&deps.store, &deps.inventories, now, &mut draft).await? {
            deps.bus.publish(event);
        }
        Ok(())
    }

    /// The same for a draft that chooses nothing.
    pub(super) async fn write(&self, draft: Draft) -> Advance {
        match self.try_write(draft).await {
            Ok(()) => Ok(None),
            Err(RecordError::Store(error)) => Err(error),
            Err(RecordError::Behind) => Ok(Some(Pause::Behind)),
            Err(RecordError::Ended) => Ok(Some(Pause::Ended)),
            Err(RecordError::Exhausted(why)) => Err(StoreError::Corrupt(why)),
        }
    }
}
