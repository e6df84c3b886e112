//! One operation, step by step: look at the rows, decide ([`recovery`]), send, record.

use super::{
    KINDS,
    engine::Engine,
    params::Data,
    record::{self, Draft, Line, RecordError},
    recovery::{self, Next},
    retry::{self, Failed, Verdict},
    step::{Act, Change, Kind, Step, View, internal},
};
use crate::{
    clock::UnixMs,
    domain::operation_state::{OperationState, StepState},
    nodes::CommandError,
    store::{
        StoreError, app_secrets,
        apps::{self, AppRow},
        deployment_logs::LogLevel,
        fleet,
        operations::{self, OperationRow, StepRow},
        reservations::{self, Choice},
    },
};
use proximity_protocol::{
    command::{Command, Outcome, Progress, Verb},
    fault::{Fault, FaultKind},
    ids::{EnvName, NodeId, OperationId, StepKey, StepName},
    secret::SecretText,
};
use std::{net::Ipv4Addr, time::Duration};
use tokio::sync::mpsc;

/// Progress of a step is written at most this often.
const PROGRESS_EVERY_MS: i64 = 1000;

/// Why an operation does not go on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It has ended.
    Ended,
    /// Another operation of the app is before it.
    Behind,
    /// The next try is due then.
    Until(UnixMs),
    /// The node is not connected.
    Offline(NodeId),
}

pub(super) struct Drive<'a> {
    engine: &'a Engine,
    id: OperationId,
}

/// The rows of one moment.
struct Moment {
    operation: OperationRow,
    steps: Vec<StepRow>,
    app: AppRow,
    data: Data,
    node: String,
    reserved_address: Option<Ipv4Addr>,
}

/// `None` means: go on with the next decision.
type Advance = Result<Option<Pause>, StoreError>;

impl<'a> Drive<'a> {
    pub(super) fn new(engine: &'a Engine, id: OperationId) -> Self {
        Self { engine, id }
    }

    /// The node on which it works, for the queue.
    pub(super) async fn node(&self) -> Result<Option<NodeId>, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        Ok(operations::by_id(&mut conn, self.id).await?.and_then(|o| o.node_id))
    }

    /// Goes on until it ends or has to wait.
    pub(super) async fn advance(&mut self) -> Result<Pause, StoreError> {
        loop {
            let Some(moment) = self.look().await? else {
                return Ok(Pause::Ended);
            };
            let Some(kind) = KINDS.iter().find(|k| k.name == moment.operation.kind) else {
                let why = format!("this version knows no operation {:?}", moment.operation.kind);
                self.give_up(
                    moment,
                    why,
                    "Install the newer version again, or delete the app.".into(),
                )
                .await?;
                continue;
            };
            if moment.operation.state == OperationState::Queued && self.is_behind(&moment).await? {
                return Ok(Pause::Behind);
            }
            let pause = match recovery::next(&moment.operation, &moment.steps, kind.forward_only) {
                Next::Over => Some(Pause::Ended),
                Next::TurnBack => self.turn_back(moment).await?,
                Next::FinishDone => self.finish(moment, kind, true).await?,
                Next::FinishUndone => self.finish(moment, kind, false).await?,
                Next::Forward(place) => self.step(moment, kind, place, false).await?,
                Next::Back(place) => self.step(moment, kind, place, true).await?,
            };
            if let Some(pause) = pause {
                return Ok(pause);
            }
        }
    }

    async fn look(&self) -> Result<Option<Moment>, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        let Some(operation) = operations::by_id(&mut conn, self.id).await? else {
            return Ok(None);
        };
        if operation.state.ended() {
            return Ok(None);
        }
        let steps = operations::steps(&mut conn, self.id).await?;
        let app = apps::by_id(&mut conn, &operation.app_id).await?.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "app {} of operation {} is gone",
                operation.app_id, operation.id
            ))
        })?;
        let node = match operation.node_id {
            Some(node) => fleet::node_by_id(&mut conn, node).await?.map(|n| n.name),
            None => None,
        };
        let reserved_address = reservations::address_of(&mut conn, app.id.as_str()).await?;
        let data = serde_json::from_value(operation.data.clone())?;
        Ok(Some(Moment {
            operation,
            steps,
            app,
            data,
            node: node.unwrap_or_else(|| "a node that is no longer in the registry".into()),
            reserved_address,
        }))
    }

    async fn is_behind(&self, moment: &Moment) -> Result<bool, StoreError> {
        let mut conn = self.engine.deps().store.read().await?;
        let others = operations::unfinished_of(&mut conn, &moment.operation.app_id).await?;
        Ok(others.first().is_some_and(|first| first.id != self.id))
    }

    /// The recipe's environment: what the app's row says, and its secrets, opened.
    async fn environment(&self, app: &AppRow) -> Result<Result<Vec<(EnvName, SecretText)>, Fault>, StoreError> {
        let sealed = {
            let mut conn = self.engine.deps().store.read().await?;
            app_secrets::of_app(&mut conn, app.id.as_str()).await?
        };
        let mut all: Vec<(String, SecretText)> = app
            .environment
            .iter()
            .map(|(name, value)| (name.clone(), SecretText::new(value)))
            .collect();
        for (name, sealed) in sealed {
            match self.engine.deps().secrets.unseal(app.id.as_str(), &name, &sealed) {
                Ok(secret) => all.push((name, secret)),
                Err(error) => return Ok(Err(internal(error.to_string()))),
            }
        }
        Ok(all
            .into_iter()
            .map(|(name, value)| {
                EnvName::new(name)
                    .map(|name| (name, value))
                    .map_err(|e| internal(e.to_string()))
            })
            .collect())
    }

    async fn step(&self, moment: Moment, kind: &'static Kind, place: usize, undo: bool) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let row = &moment.steps[place];
        if let Some(due) = row.retry_at.filter(|due| *due > now) {
            return Ok(Some(Pause::Until(due)));
        }
        let Some(step) = kind.steps.iter().find(|s| s.name == row.name) else {
            let why = format!("this version knows no step {:?} of {}", row.name, kind.name);
            return self
                .give_up(
                    moment,
                    why,
                    "Install the newer version again, or delete the app.".into(),
                )
                .await;
        };
        let env = if step.secrets && !undo {
            self.environment(&moment.app).await?
        } else {
            Ok(Vec::new())
        };
        let act = match (&env, undo, &step.undo) {
            (Err(fault), _, _) => Err(fault.clone()),
            (Ok(env), false, _) => (step.act)(&moment.view(env)),
            (Ok(env), true, Some(undo)) => (undo.act)(&moment.view(env)),
            (Ok(_), true, None) => Act::nothing(""),
        };
        match act {
            Ok(Act::Nothing { because }) => self.pass(moment, place, undo, because).await,
            Ok(Act::Send { verb, says, exclusive }) => {
                let _alone = match exclusive.as_deref().map(|name| self.engine.exclusive(name)) {
                    Some(lock) => Some(lock.lock_owned().await),
                    None => None,
                };
                self.send(moment, kind, step, place, undo, *verb, says).await
            }
            // What cannot even be put into words is a fault of ours; it is recorded as a try, so that it ends somewhere.
            Err(fault) => {
                let mut moment = moment;
                let row = &mut moment.steps[place];
                if undo {
                    row.undo_attempt += 1;
                } else {
                    row.attempt += 1;
                }
                self.failed(moment, kind, step, place, undo, fault, None).await
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn send(
        &self,
        mut moment: Moment,
        kind: &'static Kind,
        step: &'static Step,
        place: usize,
        undo: bool,
        verb: Verb,
        says: String,
    ) -> Advance {
        let deps = self.engine.deps();
        let Some(node) = moment.operation.node_id else {
            return self
                .failed(
                    moment,
                    kind,
                    step,
                    place,
                    undo,
                    internal("the operation has no node"),
                    None,
                )
                .await;
        };
        if !deps.commands.is_online(node) {
            return self.offline(moment, place, undo, node).await;
        }
        if let Some(pause) = self.begin(&mut moment, place, undo, says).await? {
            return Ok(Some(pause));
        }
        let row = &moment.steps[place];
        let key = StepKey {
            name: match StepName::new(&row.name) {
                Ok(name) => name,
                Err(e) => {
                    return self
                        .failed(moment, kind, step, place, undo, internal(e.to_string()), None)
                        .await;
                }
            },
            undo,
            attempt: if undo { row.undo_attempt } else { row.attempt },
        };
        let command = Command {
            operation: self.id,
            step: key.clone(),
            epoch: deps.epoch,
            verb,
        };
        tracing::debug!(operation_id = %self.id, app_id = %moment.app.id, node_id = %node, step = %key, verb = command.verb.name(), "sending");
        match self.execute(node, command, &moment, place).await? {
            Ok(outcome) => {
                self.succeeded(moment, kind, step, place, undo, outcome, Some((node, key)))
                    .await
            }
            Err(CommandError::Fault(fault)) => {
                self.failed(moment, kind, step, place, undo, fault, Some((node, key)))
                    .await
            }
            Err(CommandError::Offline) => self.offline(moment, place, undo, node).await,
            Err(CommandError::Lost) => {
                tracing::warn!(operation_id = %self.id, node_id = %node, step = %key, "the connection was lost before the answer came; asking again");
                Ok(Some(Pause::Until(
                    deps.clock.now_ms() + millis(deps.settings.ask_again),
                )))
            }
        }
    }

    /// Writes that the step is under way, before its command leaves.
    async fn begin(&self, moment: &mut Moment, place: usize, undo: bool, says: String) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let row = &mut moment.steps[place];
        let again = recovery::in_flight(row, undo);
        let operation = &mut moment.operation;
        // Why it turned around, in place of what held it up on the way.
        let reason = undo.then(|| why_undone(operation));
        if again && operation.state != OperationState::Waiting && operation.reason == reason {
            return Ok(None);
        }
        let mut lines = Vec::new();
        if !again {
            if undo {
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
            lines.push(line(LogLevel::Info, &row.name, says));
        }
        if !undo {
            row.reason = None;
            operation.state = OperationState::Running;
        }
        operation.reason = reason;
        operation.started_at = operation.started_at.or(Some(now));
        let draft = Draft {
            operation: operation.clone(),
            steps: vec![row.clone()],
            changes: Vec::new(),
            lines,
            percent: None,
        };
        self.write(draft).await
    }

    async fn execute(
        &self,
        node: NodeId,
        command: Command,
        moment: &Moment,
        place: usize,
    ) -> Result<Result<Outcome, CommandError>, StoreError> {
        let (sender, mut progress) = mpsc::unbounded_channel::<Progress>();
        let mut answer = self.engine.deps().commands.execute(node, command, sender);
        let mut last: Option<(i64, String)> = None;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                Some(told) = progress.recv() => {
                    let now = self.engine.deps().clock.now_ms();
                    if last.as_ref().is_some_and(|(at, _)| now - at < PROGRESS_EVERY_MS) {
                        continue;
                    }
                    let new_words = last.as_ref().is_none_or(|(_, words)| *words != told.message);
                    let mut operation = moment.operation.clone();
                    // Rows hold what is newest: a request to stop that came meanwhile is not overwritten, since `update` leaves it alone.
                    operation.updated_at = now;
                    let row = moment.steps[place].clone();
                    let lines = if new_words { vec![line(LogLevel::Info, &row.name, told.message.clone())] } else { Vec::new() };
                    self.write(Draft { operation, steps: vec![row], changes: Vec::new(), lines, percent: told.percent }).await?;
                    last = Some((now, told.message));
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn succeeded(
        &self,
        mut moment: Moment,
        kind: &'static Kind,
        step: &'static Step,
        place: usize,
        undo: bool,
        outcome: Outcome,
        sent: Option<(NodeId, StepKey)>,
    ) -> Advance {
        let changes = if undo {
            step.undo.as_ref().map(|u| (u.changes)(&outcome)).unwrap_or_default()
        } else {
            match (step.settle)(&moment.view(&[]), &outcome) {
                Ok(changes) => changes,
                Err(fault) => return self.failed(moment, kind, step, place, undo, fault, sent).await,
            }
        };
        let row = &mut moment.steps[place];
        row.state = if undo { StepState::Undone } else { StepState::Done };
        row.finished_at = Some(self.engine.deps().clock.now_ms());
        row.retry_at = None;
        if !undo {
            row.reason = None;
            row.error = None;
        }
        let pause = self
            .write(Draft {
                steps: vec![row.clone()],
                operation: moment.operation,
                changes,
                lines: Vec::new(),
                percent: None,
            })
            .await?;
        self.committed(sent);
        Ok(pause)
    }

    /// There was nothing to do.
    async fn pass(&self, mut moment: Moment, place: usize, undo: bool, because: String) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let row = &mut moment.steps[place];
        row.state = if undo { StepState::Undone } else { StepState::Skipped };
        row.retry_at = None;
        row.finished_at = Some(now);
        if !undo {
            row.reason = Some(because.clone());
            moment.operation.state = OperationState::Running;
            moment.operation.reason = None;
        }
        moment.operation.started_at = moment.operation.started_at.or(Some(now));
        let lines = if because.is_empty() {
            Vec::new()
        } else {
            vec![line(LogLevel::Info, &row.name, because)]
        };
        self.write(Draft {
            steps: vec![row.clone()],
            operation: moment.operation,
            changes: Vec::new(),
            lines,
            percent: None,
        })
        .await
    }

    #[allow(clippy::too_many_arguments)]
    async fn failed(
        &self,
        mut moment: Moment,
        kind: &'static Kind,
        step: &'static Step,
        place: usize,
        undo: bool,
        fault: Fault,
        sent: Option<(NodeId, StepKey)>,
    ) -> Advance {
        let deps = self.engine.deps();
        let now = deps.clock.now_ms();
        let spent = !(fault.kind.waits() || fault.kind == FaultKind::OldEpoch);
        let tries = moment.steps[place].tries + u32::from(spent);
        let verdict = retry::after(
            &deps.settings,
            &Failed {
                kind: fault.kind,
                tries,
                undo,
                forward_only: kind.forward_only,
                chooses: step.chooses,
                choices: moment.data.choices,
                already: if undo {
                    step.undo.as_ref().map_or(&[], |u| u.gone)
                } else {
                    step.already
                },
            },
        );
        tracing::warn!(operation_id = %self.id, app_id = %moment.app.id, step = step.name, undo, kind = ?fault.kind, %fault, ?verdict, "a step failed");
        if verdict == Verdict::Already {
            return Box::pin(self.already(moment, step, place, undo, sent)).await;
        }
        let row = &mut moment.steps[place];
        row.tries = tries;
        row.error = Some(serde_json::to_value(&fault)?);
        row.reason = Some(fault.message.clone());
        let name = row.name.clone();
        let mut draft = Draft {
            operation: moment.operation.clone(),
            steps: Vec::new(),
            changes: Vec::new(),
            lines: vec![line(LogLevel::Warning, &name, fault.message.clone())],
            percent: None,
        };
        if let Some(detail) = &fault.detail {
            draft.lines.push(line(LogLevel::Warning, &name, detail.clone()));
        }
        match verdict {
            Verdict::Wait(pause) | Verdict::Retry(pause) => {
                row.retry_at = Some(now + millis(pause));
                if undo {
                    row.state = StepState::Undoing;
                    draft.operation.reason = Some(format!("taking back: {}", fault.message));
                } else {
                    row.state = StepState::Waiting;
                    draft.operation.state = OperationState::Waiting;
                    draft.operation.reason = Some(fault.message.clone());
                }
                if matches!(verdict, Verdict::Retry(_)) {
                    let again = format!("Trying again in {} s", pause.as_secs_f64().ceil());
                    draft.lines.push(line(LogLevel::Info, &name, again));
                }
                draft.steps.push(row.clone());
            }
            Verdict::ChooseAgain => {
                let choice = match fault.kind {
                    FaultKind::PortTaken => Choice::Port,
                    FaultKind::AddressTaken => Choice::Address,
                    _ => Choice::Vmid,
                };
                draft.changes.push(Change::ChooseAgain(choice));
                draft.operation.state = OperationState::Running;
                draft.operation.reason = None;
                // The step begins anew, and the one that confirms reservations before it.
                for begun in [0, place] {
                    let row = &mut moment.steps[begun];
                    row.state = StepState::Pending;
                    row.retry_at = None;
                    row.tries = 0;
                    if !draft.steps.iter().any(|s| s.position == row.position) {
                        draft.steps.push(row.clone());
                    }
                }
            }
            Verdict::TurnBack => turn(&mut draft, row, &step_failed(step, &fault), &fault)?,
            Verdict::GiveUp | Verdict::Already => {
                row.state = if undo { StepState::Undoing } else { StepState::Failed };
                draft.steps.push(row.clone());
                draft.operation.error = Some(serde_json::to_value(&fault)?);
                let advice = (kind.advice)(&moment.view(&[]));
                let why = if undo {
                    format!("taking back: {}", step_failed(step, &fault))
                } else {
                    step_failed(step, &fault)
                };
                stuck(&mut draft, why, advice, now);
            }
        }
        let exhausted = match self.try_write(draft.clone()).await {
            Err(RecordError::Exhausted(why)) => Some(why),
            Err(RecordError::Store(error)) => return Err(error),
            Err(RecordError::Behind) => return Ok(Some(Pause::Behind)),
            Ok(()) => None,
        };
        if let Some(why) = exhausted {
            let fault = Fault::new(fault.kind, format!("{}, and {why}", fault.message));
            let row = &mut moment.steps[place];
            let mut draft = Draft {
                operation: moment.operation,
                steps: Vec::new(),
                changes: Vec::new(),
                lines: Vec::new(),
                percent: None,
            };
            turn(&mut draft, row, &step_failed(step, &fault), &fault)?;
            if let Some(pause) = self.write(draft).await? {
                return Ok(Some(pause));
            }
        }
        self.committed(sent);
        Ok(None)
    }

    async fn already(
        &self,
        moment: Moment,
        step: &'static Step,
        place: usize,
        undo: bool,
        sent: Option<(NodeId, StepKey)>,
    ) -> Advance {
        let mut moment = moment;
        let changes = match (&step.undo, undo) {
            (Some(u), true) => (u.changes)(&Outcome::Done),
            (None, true) => Vec::new(),
            (_, false) => (step.settle)(&moment.view(&[]), &Outcome::Done).unwrap_or_default(),
        };
        let row = &mut moment.steps[place];
        row.state = if undo { StepState::Undone } else { StepState::Done };
        row.retry_at = None;
        row.finished_at = Some(self.engine.deps().clock.now_ms());
        let lines = vec![line(
            LogLevel::Info,
            &row.name,
            "Nothing of the app is there any more".into(),
        )];
        let steps = vec![row.clone()];
        let pause = self
            .write(Draft {
                operation: moment.operation,
                steps,
                changes,
                lines,
                percent: None,
            })
            .await?;
        self.committed(sent);
        Ok(pause)
    }

    /// The node is away: nothing was decided, no try was spent.
    async fn offline(&self, mut moment: Moment, place: usize, undo: bool, node: NodeId) -> Advance {
        let why = format!("{} is not connected", moment.node);
        let row = &mut moment.steps[place];
        let told = moment.operation.reason.as_deref() == Some(&why);
        if !told {
            row.reason = Some(why.clone());
            if !undo {
                moment.operation.state = OperationState::Waiting;
            }
            moment.operation.reason = Some(why.clone());
            let lines = vec![line(LogLevel::Warning, &row.name, format!("Waiting: {why}"))];
            let steps = vec![row.clone()];
            if let Some(pause) = self
                .write(Draft {
                    operation: moment.operation,
                    steps,
                    changes: Vec::new(),
                    lines,
                    percent: None,
                })
                .await?
            {
                return Ok(Some(pause));
            }
        }
        Ok(Some(Pause::Offline(node)))
    }

    async fn turn_back(&self, mut moment: Moment) -> Advance {
        moment.operation.state = OperationState::Undoing;
        moment.operation.reason = Some("cancelled".into());
        let lines = vec![line(
            LogLevel::Info,
            "cancel",
            "Cancelled; taking back what was done".into(),
        )];
        self.write(Draft {
            operation: moment.operation,
            steps: Vec::new(),
            changes: Vec::new(),
            lines,
            percent: None,
        })
        .await
    }

    async fn finish(&self, mut moment: Moment, kind: &'static Kind, done: bool) -> Advance {
        let why = why_undone(&moment.operation);
        let view = moment.view(&[]);
        let changes = if done {
            (kind.done)(&view)
        } else {
            (kind.undone)(&view, &why)
        };
        let message = if done {
            format!("{} is done", kind.name)
        } else {
            format!("{} was taken back: {why}", kind.name)
        };
        let level = if done { LogLevel::Info } else { LogLevel::Error };
        let operation = &mut moment.operation;
        operation.state = if done {
            OperationState::Done
        } else {
            OperationState::Undone
        };
        operation.reason = (!done).then_some(why);
        operation.finished_at = Some(self.engine.deps().clock.now_ms());
        let node = operation.node_id;
        let lines = vec![line(level, kind.name, message)];
        let pause = self
            .write(Draft {
                operation: moment.operation,
                steps: Vec::new(),
                changes,
                lines,
                percent: None,
            })
            .await?;
        if let Some(node) = node {
            self.engine.deps().commands.committed(node, self.id, None);
        }
        Ok(pause)
    }

    async fn give_up(&self, moment: Moment, why: String, advice: String) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let mut draft = Draft {
            operation: moment.operation,
            steps: Vec::new(),
            changes: Vec::new(),
            lines: Vec::new(),
            percent: None,
        };
        stuck(&mut draft, why, advice, now);
        self.write(draft).await
    }

    async fn try_write(&self, mut draft: Draft) -> Result<(), RecordError> {
        let deps = self.engine.deps();
        let now = deps.clock.now_ms();
        for event in record::write(&deps.store, &deps.inventories, now, &mut draft).await? {
            deps.bus.publish(event);
        }
        Ok(())
    }

    async fn write(&self, draft: Draft) -> Advance {
        match self.try_write(draft).await {
            Ok(()) => Ok(None),
            Err(RecordError::Store(error)) => Err(error),
            Err(RecordError::Behind) => Ok(Some(Pause::Behind)),
            Err(RecordError::Exhausted(why)) => Err(StoreError::Corrupt(why)),
        }
    }

    fn committed(&self, sent: Option<(NodeId, StepKey)>) {
        if let Some((node, key)) = sent {
            self.engine.deps().commands.committed(node, self.id, Some(key));
        }
    }
}

impl Moment {
    fn view<'v>(&'v self, env: &'v [(EnvName, SecretText)]) -> View<'v> {
        View {
            operation: &self.operation,
            app: &self.app,
            node: &self.node,
            data: &self.data,
            reserved_address: self.reserved_address,
            created: self.app.vmid_confirmed,
            env,
        }
    }
}

/// Why an operation turned around: it stands with the fault, since `reason` may speak of the way back by now.
fn why_undone(operation: &OperationRow) -> String {
    match &operation.error {
        Some(error) => error["reason"].as_str().unwrap_or("it failed").to_owned(),
        None => "cancelled".to_owned(),
    }
}

fn line(level: LogLevel, step: &str, message: String) -> Line {
    Line {
        level,
        step: step.to_owned(),
        message,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn step_failed(step: &Step, fault: &Fault) -> String {
    format!("{} failed: {}", step.name, fault.message)
}

/// Turns an operation around because of a fault.
fn turn(draft: &mut Draft, row: &mut StepRow, why: &str, fault: &Fault) -> Result<(), StoreError> {
    row.state = StepState::Failed;
    row.retry_at = None;
    row.reason = Some(fault.message.clone());
    draft.steps.push(row.clone());
    draft.operation.state = OperationState::Undoing;
    draft.operation.reason = Some(why.to_owned());
    let mut error = serde_json::to_value(fault)?;
    error["reason"] = why.into();
    error["step"] = row.name.clone().into();
    draft.operation.error = Some(error);
    draft.lines.push(line(
        LogLevel::Error,
        &row.name,
        format!("{why}; taking back what was done"),
    ));
    Ok(())
}

/// Ends an operation that the engine cannot bring to an end.
fn stuck(draft: &mut Draft, why: String, advice: String, now: UnixMs) {
    use crate::domain::app_state::Status;
    let operation = &mut draft.operation;
    operation.state = OperationState::Stuck;
    operation.reason = Some(why.clone());
    operation.action = Some(advice.clone());
    operation.finished_at = Some(now);
    draft.changes.push(Change::Status(Status::Error));
    draft.changes.push(Change::Reason(Some(format!("{why}. {advice}"))));
    draft
        .lines
        .push(line(LogLevel::Error, &operation.kind, format!("{why}. {advice}")));
}
