//! Writes what a step's answer leads to.

use super::{
    drive::{Advance, At, Drive, Moment, Pause},
    finish::given_up,
    record::{Draft, RecordError, line},
    retry::{self, Failed, Verdict},
    step::{Change, Step},
};
use crate::{
    domain::operation_state::{OperationState, StepState},
    store::{
        StoreError,
        deployment_logs::LogLevel,
        operations::{OperationRow, StepRow},
        reservations::Choice,
    },
};
use proximity_protocol::{
    command::Outcome,
    fault::{Fault, FaultKind},
    ids::{NodeId, StepKey},
};
use std::time::Duration;

/// The step that starts the container, in whichever kind.
const START_STEP: &str = "start";

/// The command whose answer is written, so that the agent can forget it afterwards.
pub(super) type Sent = Option<(NodeId, StepKey)>;

impl Drive<'_> {
    pub(super) async fn succeeded(&self, mut moment: Moment, at: At, outcome: Outcome, sent: Sent) -> Advance {
        let changes = match (at.undo, &at.step.undo) {
            (true, undo) => undo
                .as_ref()
                .map(|u| (u.changes)(&moment.view(&[]), &outcome))
                .unwrap_or_default(),
            (false, _) => match (at.step.settle)(&moment.view(&[]), &outcome) {
                Ok(changes) => changes,
                Err(fault) => return self.failed(moment, at, fault, sent).await,
            },
        };
        let left = moment.operation.node_id.filter(|node| {
            let moved = |change: &Change| matches!(change, Change::Moved(to) if to != node);
            changes.iter().any(moved)
        });
        let row = self.passed_once(&mut moment.steps[at.place], at);
        moment.operation.quiet_since = None;
        let draft = Draft {
            steps: vec![row],
            changes,
            ..Draft::of(moment.operation)
        };
        let pause = self.write(draft).await?;
        self.committed(sent);
        let Some(left) = left else { return Ok(pause) };
        self.engine.deps().commands.committed(left, self.id, None);
        // Out of the old node's queue and into the new one's.
        Ok(Some(pause.unwrap_or(Pause::Until(self.engine.deps().clock.now_ms()))))
    }

    /// It is so already.
    async fn already(&self, mut moment: Moment, at: At, fault: &Fault, sent: Sent) -> Advance {
        let changes = match (&at.step.undo, at.undo) {
            (Some(undo), true) => (undo.changes)(&moment.view(&[]), &Outcome::Done),
            (None, true) => Vec::new(),
            (_, false) => (at.step.settle)(&moment.view(&[]), &Outcome::Done).unwrap_or_default(),
        };
        let row = self.passed_once(&mut moment.steps[at.place], at);
        let words = match fault.kind {
            FaultKind::ContainerMissing => "Nothing of the app is there any more".to_owned(),
            // Something is there, and it stays: the operator has to know.
            _ => format!("Nothing of the app is there any more: {}", fault.message),
        };
        if fault.kind != FaultKind::ContainerMissing && !moment.data.left.contains(&fault.message) {
            moment.data.left.push(fault.message.clone());
            moment.operation.data = serde_json::to_value(&moment.data)?;
        }
        let draft = Draft {
            lines: vec![line(LogLevel::Info, &row.name, words)],
            steps: vec![row],
            changes,
            ..Draft::of(moment.operation)
        };
        let pause = self.write(draft).await?;
        self.committed(sent);
        Ok(pause)
    }

    /// There was nothing to do.
    pub(super) async fn pass(&self, mut moment: Moment, at: At, because: String) -> Advance {
        let mut row = self.passed(&mut moment.steps[at.place], at.undo);
        let mut draft = Draft::of(moment.operation);
        if !because.is_empty() {
            draft.lines.push(line(LogLevel::Info, &row.name, because.clone()));
        }
        if !at.undo {
            row.state = StepState::Skipped;
            row.reason = (!because.is_empty()).then_some(because);
            draft.operation.state = OperationState::Running;
            draft.operation.reason = None;
        }
        draft.operation.started_at = draft.operation.started_at.or(row.finished_at);
        draft.steps.push(row);
        self.write(draft).await
    }

    /// A step that repeats is looked at once more.
    fn passed_once(&self, row: &mut StepRow, at: At) -> StepRow {
        let mut passed = self.passed(row, at.undo);
        if at.step.repeats && !at.undo {
            passed.state = StepState::Pending;
            passed.finished_at = None;
            passed.tries = 0;
        }
        passed
    }

    fn passed(&self, row: &mut StepRow, undo: bool) -> StepRow {
        row.state = if undo { StepState::Undone } else { StepState::Done };
        row.finished_at = Some(self.engine.deps().clock.now_ms());
        row.retry_at = None;
        if !undo {
            row.reason = None;
            row.error = None;
        }
        row.clone()
    }

    pub(super) async fn failed(&self, mut moment: Moment, at: At, fault: Fault, sent: Sent) -> Advance {
        // What only waited on the node ended because somebody asked it to: nothing has failed.
        if fault.kind == FaultKind::Cancelled && !at.undo && self.is_cancelled().await? {
            return self.cancelled(moment, at, sent).await;
        }
        let settings = &self.engine.deps().settings;
        let tries = moment.steps[at.place].tries + u32::from(retry::spends(fault.kind));
        let gone: &[FaultKind] = at.step.undo.as_ref().map_or(&[], |u| u.gone);
        let verdict = retry::after(
            settings,
            &Failed {
                kind: fault.kind,
                tries,
                undo: at.undo,
                forward_only: at.kind.forward_only,
                chooses: at.step.chooses,
                ends: at.step.ends,
                choices: moment.data.choices,
                already: if at.undo { gone } else { at.step.already },
                started: start_before(&moment.steps, at).is_some(),
            },
        );
        tracing::warn!(operation_id = %self.id, app_id = %moment.app.id, step = at.step.name, undo = at.undo, kind = ?fault.kind, %fault, ?verdict, "a step failed");
        if verdict == Verdict::Already {
            return self.already(moment, at, &fault, sent).await;
        }
        if verdict == Verdict::Follow {
            return self.follow(moment, at, &fault, sent).await;
        }
        moment.operation.quiet_since = None;
        let row = &mut moment.steps[at.place];
        let repeated = said_before(row, &fault);
        row.tries = tries;
        row.error = Some(serde_json::to_value(&fault)?);
        row.reason = Some(fault.message.clone());
        let mut draft = Draft::of(moment.operation.clone());
        if !(repeated && matches!(verdict, Verdict::Wait(_))) {
            let texts = [Some(&fault.message), fault.detail.as_ref()];
            draft.lines = texts
                .into_iter()
                .flatten()
                .map(|t| line(LogLevel::Warning, &row.name, t.clone()))
                .collect();
        }
        match verdict {
            Verdict::Wait(pause) => self.later(&mut draft, row, at, &fault, pause),
            Verdict::Retry(pause) => {
                self.later(&mut draft, row, at, &fault, pause);
                let again = format!("Trying again in {} s", pause.as_secs_f64().ceil());
                draft.lines.push(line(LogLevel::Info, &row.name, again));
            }
            Verdict::StartAgain(pause) => {
                let start = start_before(&moment.steps, at).unwrap_or(at.place);
                self.start_again(&mut draft, &mut moment.steps[start..=at.place], &fault, pause);
            }
            Verdict::ChooseAgain => choose_again(&mut draft, &mut moment.steps, at, fault.kind),
            Verdict::TurnBack => turn(&mut draft, row, at.step, &fault)?,
            // Already and Follow have returned.
            Verdict::GiveUp | Verdict::Already | Verdict::Follow => {
                row.state = if at.undo { StepState::Undoing } else { StepState::Failed };
                draft.steps.push(row.clone());
                let error = serde_json::to_value(&fault)?;
                draft.operation.error.get_or_insert(error);
                let advice = (at.kind.advice)(&moment.view(&[]));
                let direction = if at.undo { "taking back: " } else { "" };
                let why = format!("{direction}{}", step_failed(at.step, &fault));
                let changes = given_up(at.kind, &moment.view(&[]), &why, &advice);
                self.stuck(&mut draft, changes, why, advice);
            }
        }
        match self.try_write(draft).await {
            Ok(()) => {}
            Err(RecordError::Store(error)) => return Err(error),
            Err(RecordError::Behind) => return Ok(Some(Pause::Behind)),
            Err(RecordError::Ended) => return Ok(Some(Pause::Ended)),
            Err(RecordError::Exhausted(why)) => {
                let fault = Fault::new(fault.kind, format!("{}, and {why}", fault.message));
                let mut draft = Draft::of(moment.operation);
                turn(&mut draft, &mut moment.steps[at.place], at.step, &fault)?;
                if let Some(pause) = self.write(draft).await? {
                    return Ok(Some(pause));
                }
            }
        }
        self.committed(sent);
        Ok(None)
    }

    pub(super) fn later(&self, draft: &mut Draft, row: &mut StepRow, at: At, fault: &Fault, pause: Duration) {
        row.retry_at = Some(self.engine.deps().clock.now_ms() + millis(pause));
        if at.undo {
            row.state = StepState::Undoing;
            draft.operation.reason = Some(format!("taking back: {}", fault.message));
        } else {
            row.state = StepState::Waiting;
            draft.operation.state = OperationState::Waiting;
            draft.operation.reason = Some(fault.message.clone());
        }
        draft.steps.push(row.clone());
    }

    /// The operation goes on from its step `start`, the first of these rows; the last is the one that failed. All of them were begun, and are taken back if it
    /// turns around now.
    fn start_again(&self, draft: &mut Draft, rows: &mut [StepRow], fault: &Fault, pause: Duration) {
        for row in &mut *rows {
            row.state = StepState::Waiting;
            row.retry_at = None;
        }
        let words = format!("Starting it again in {} s", pause.as_secs_f64().ceil());
        if let Some(start) = rows.first_mut() {
            start.retry_at = Some(self.engine.deps().clock.now_ms() + millis(pause));
            start.reason = Some(fault.message.clone());
            draft.lines.push(line(LogLevel::Info, &start.name, words));
        }
        draft.operation.state = OperationState::Waiting;
        draft.operation.reason = Some(fault.message.clone());
        draft.steps.extend(rows.iter().cloned());
    }

    /// The node is away: nothing was decided, no try was spent. One that was thrown out is not waited for.
    pub(super) async fn offline(&self, moment: Moment, at: At, node: NodeId) -> Advance {
        self.not_there(moment, at, node, "").await
    }

    /// The same with what is known besides.
    pub(super) async fn not_there(&self, mut moment: Moment, at: At, node: NodeId, besides: &str) -> Advance {
        if self.is_revoked(node).await? {
            return self.revoked(moment, at).await;
        }
        let why = format!("{} is not connected{besides}", moment.node);
        if moment.operation.reason.as_deref() != Some(&why) {
            let row = &mut moment.steps[at.place];
            row.reason = Some(why.clone());
            let mut draft = Draft::of(moment.operation);
            if !at.undo {
                draft.operation.state = OperationState::Waiting;
            }
            draft
                .lines
                .push(line(LogLevel::Warning, &row.name, format!("Waiting: {why}")));
            draft.operation.reason = Some(why);
            draft.steps.push(row.clone());
            if let Some(pause) = self.write(draft).await? {
                return Ok(Some(pause));
            }
        }
        Ok(Some(Pause::Offline(node)))
    }

    pub(super) fn committed(&self, sent: Sent) {
        if let Some((node, key)) = sent {
            self.engine.deps().commands.committed(node, self.id, Some(key));
        }
    }
}

/// The place of the step that starts the container, if it is before this one.
fn start_before(steps: &[StepRow], at: At) -> Option<usize> {
    steps[..at.place].iter().position(|row| row.name == START_STEP)
}

/// Whether the step's last fault was the same: what is waited for is said once. The reason is gone when the step looks again, its fault is not.
pub(super) fn said_before(row: &StepRow, fault: &Fault) -> bool {
    let last = row.error.as_ref().map(|error| &error["message"]);
    last.is_some_and(|message| *message == fault.message)
}

/// The step begins anew, and the one that confirms reservations before it.
fn choose_again(draft: &mut Draft, steps: &mut [StepRow], at: At, kind: FaultKind) {
    let choice = match kind {
        FaultKind::PortTaken => Choice::Port,
        FaultKind::AddressTaken => Choice::Address,
        _ => Choice::Vmid,
    };
    draft.changes.push(Change::ChooseAgain(choice));
    draft.operation.state = OperationState::Running;
    draft.operation.reason = None;
    for place in [0, at.place] {
        let row = &mut steps[place];
        row.state = StepState::Pending;
        row.retry_at = None;
        row.tries = 0;
        if !draft.steps.iter().any(|s| s.position == row.position) {
            draft.steps.push(row.clone());
        }
    }
}

/// Turns an operation around because of a fault.
fn turn(draft: &mut Draft, row: &mut StepRow, step: &Step, fault: &Fault) -> Result<(), StoreError> {
    let why = step_failed(step, fault);
    row.state = StepState::Failed;
    row.retry_at = None;
    row.reason = Some(fault.message.clone());
    draft.steps.push(row.clone());
    let mut error = serde_json::to_value(fault)?;
    error["reason"] = why.clone().into();
    error["step"] = row.name.clone().into();
    draft.operation.error = Some(error);
    draft.operation.state = OperationState::Undoing;
    draft.lines.push(line(
        LogLevel::Error,
        &row.name,
        format!("{why}; taking back what was done"),
    ));
    draft.operation.reason = Some(why);
    Ok(())
}

fn step_failed(step: &Step, fault: &Fault) -> String {
    format!("{} failed: {}", step.name, fault.message)
}

/// Why an operation turned around: it stands with the fault, since `reason` may speak of the way back by now.
pub(super) fn why_undone(operation: &OperationRow) -> String {
    match &operation.error {
        Some(error) => error["reason"].as_str().unwrap_or("it failed").to_owned(),
        None => "cancelled".to_owned(),
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
