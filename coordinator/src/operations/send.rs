//! Sends a step's command: writes first that it is under way, then sends, then hands the answer over to be written.

use super::{
    drive::{Advance, At, Drive, Moment, Pause},
    quiet::{Passed, Quiet},
    record::{Draft, line},
    recovery, retry,
    settle::{millis, why_undone},
    step::internal,
};
use crate::{
    domain::operation_state::{OperationState, StepState},
    nodes::CommandError,
    store::{StoreError, deployment_logs::LogLevel, operations::StepRow},
};
use proximity_protocol::{
    command::{Command, Outcome, Progress, Verb},
    fault::Fault,
    ids::{NodeId, StepKey, StepName},
};
use tokio::sync::mpsc;

/// Progress of a step is written at most this often.
const PROGRESS_EVERY_MS: i64 = 1000;

impl Drive<'_> {
    /// To that node; `None`: the operation has none.
    pub(super) async fn send(
        &self,
        mut moment: Moment,
        at: At,
        node: Option<NodeId>,
        verb: Verb,
        says: String,
    ) -> Advance {
        let deps = self.engine.deps();
        let Some(node) = node else {
            return self
                .failed(moment, at, internal("the operation has no node"), None)
                .await;
        };
        if !deps.commands.is_online(node) {
            return self.away(moment, at, node).await;
        }
        if let Some(pause) = self.begin(&mut moment, at, says).await? {
            return Ok(Some(pause));
        }
        let row = &moment.steps[at.place];
        let name = match StepName::new(&row.name) {
            Ok(name) => name,
            Err(e) => return self.failed(moment, at, internal(e.to_string()), None).await,
        };
        let key = StepKey {
            name,
            undo: at.undo,
            attempt: if at.undo { row.undo_attempt } else { row.attempt },
        };
        let command = Command {
            operation: self.id,
            step: key.clone(),
            epoch: deps.epoch,
            verb,
        };
        tracing::debug!(operation_id = %self.id, app_id = %moment.app.id, node_id = %node, step = %key, verb = command.verb.name(), "sending");
        match self.execute(node, command, &moment, at).await? {
            Ok(outcome) => self.succeeded(moment, at, outcome, Some((node, key))).await,
            Err(CommandError::Fault(fault)) => self.failed(moment, at, fault, Some((node, key))).await,
            Err(CommandError::Offline) => self.offline(moment, at, node).await,
            Err(CommandError::Lost) => {
                tracing::warn!(operation_id = %self.id, node_id = %node, step = %key, "the connection was lost before the answer came; asking again");
                let then = deps.clock.now_ms() + millis(deps.settings.ask_again);
                Ok(Some(Pause::Until(then)))
            }
        }
    }

    /// Writes that the step is under way, before its command leaves.
    async fn begin(&self, moment: &mut Moment, at: At, says: String) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let row = &mut moment.steps[at.place];
        let operation = &mut moment.operation;
        let again = recovery::in_flight(row, at.undo);
        // Why it turned around, in place of what held it up on the way.
        let reason = at.undo.then(|| why_undone(operation));
        if again && operation.state != OperationState::Waiting && operation.reason == reason {
            return Ok(None);
        }
        let mut draft = Draft::of(operation.clone());
        if !again {
            if !only_looks_again(row) {
                draft.lines.push(line(LogLevel::Info, &row.name, says));
            }
            if at.undo {
                if row.state != StepState::Undoing {
                    // The limit counts for each direction by itself.
                    row.tries = 0;
                }
                row.state = StepState::Undoing;
                row.undo_attempt += 1;
            } else {
                row.state = StepState::Running;
                row.attempt += 1;
                row.started_at = row.started_at.or(Some(now));
            }
            row.retry_at = None;
        }
        if !at.undo {
            row.reason = None;
            operation.state = OperationState::Running;
        }
        operation.reason = reason;
        operation.started_at = operation.started_at.or(Some(now));
        draft.operation = operation.clone();
        draft.steps.push(row.clone());
        self.write(draft).await
    }

    async fn execute(
        &self,
        node: NodeId,
        command: Command,
        moment: &Moment,
        at: At,
    ) -> Result<Result<Outcome, CommandError>, StoreError> {
        let (sender, mut progress) = mpsc::unbounded_channel::<Progress>();
        let mut quiet = Quiet::of(self.engine, moment.operation.quiet_since).await?;
        let mut answer = self.engine.deps().commands.execute(node, command, sender);
        let mut last: Option<(i64, String)> = None;
        let turns_back = !at.undo && !at.kind.forward_only;
        // Asked to stop before, and still in flight: the connection was lost in between.
        let mut cancelled = turns_back && moment.operation.cancel_requested;
        loop {
            if std::mem::take(&mut cancelled) {
                // What only waits ends with that; what acts is not broken off, and its answer is waited for as ever.
                self.engine.deps().commands.cancel(node, self.id);
            }
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                () = self.kicked.notified(), if turns_back => cancelled = self.is_cancelled().await?,
                Some(told) = progress.recv() => {
                    let now = self.engine.deps().clock.now_ms();
                    if quiet.broken() {
                        // Somebody was told that there is no progress, so this line is told whenever the last one was.
                        last = None;
                    }
                    if last.as_ref().is_some_and(|(at, _)| now - at < PROGRESS_EVERY_MS) {
                        continue;
                    }
                    let row = &moment.steps[at.place];
                    let mut draft = Draft::of(moment.operation.clone());
                    if last.as_ref().is_none_or(|(_, words)| *words != told.message) {
                        draft.lines.push(line(LogLevel::Info, &row.name, told.message.clone()));
                    }
                    draft.steps.push(row.clone());
                    draft.percent = told.percent;
                    draft.operation.quiet_since = None;
                    self.write(draft).await?;
                    last = Some((now, told.message));
                }
                passed = quiet.passes() => match passed {
                    Passed::Alarm { since } => self.alarm(moment, at, since).await?,
                    // Its stream may hang although its connection does not: the same key asked again attaches to what runs.
                    Passed::NoAnswer => return Ok(Err(CommandError::Lost)),
                },
            }
        }
    }
}

/// Whether the step was held up by somebody's lock or the like, and this is only another look: the log does not repeat itself for that.
pub(super) fn only_looks_again(row: &StepRow) -> bool {
    row.retry_at.is_some()
        && row
            .error
            .as_ref()
            .and_then(|error| serde_json::from_value::<Fault>(error.clone()).ok())
            .is_some_and(|fault| !retry::spends(fault.kind))
}
