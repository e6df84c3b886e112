//! Runs each job once, in order per container, and several containers at a time.

use super::{
    JobKey, JobResult, Steps,
    intake::{self, Decision, Known},
    journal::{Journal, NotWritten, Writer},
    lanes::{Lanes, Turn},
    record::{Entry, Record},
    running::{Phase, Running, Watch},
};
use proximity_protocol::{
    command::{Command, Progress},
    event::Notice,
    fault::{Fault, FaultKind},
    hello::OpenJob,
    ids::{Epoch, OperationId},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::{Semaphore, mpsc};
use tracing::Instrument;

/// Jobs that act at the same time: each may be a `pct` that loads a Perl world for seconds.
const ACTING_MAX: usize = 8;
/// Jobs that install at the same time: after some copies they wait for what runs inside a container, for minutes, and must keep nobody from acting.
const INSTALLING_MAX: usize = 16;
/// Jobs that wait for something at the same time; they cost next to nothing.
const WAITING_MAX: usize = 256;

/// What became of a command.
pub(crate) enum Submission {
    /// The end is known: refused, recorded, or just looked up.
    Answer(JobResult),
    /// It runs.
    Watch(Watch),
}

enum Slot {
    Running(Arc<Running>),
    Finished(JobResult),
}

struct Table {
    epoch: Epoch,
    jobs: HashMap<JobKey, Slot>,
    stopping: bool,
}

struct Inner {
    steps: Arc<dyn Steps>,
    journal: Writer,
    coordinator: String,
    table: Mutex<Table>,
    lanes: Lanes,
    acting: Semaphore,
    installing: Semaphore,
    waiting: Semaphore,
}

/// All jobs of the node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Jobs {
    inner: Arc<Inner>,
}

impl Jobs {
    /// Takes the journal over and runs every intention without a result again. `coordinator` is the fingerprint of its CA: the epochs of another
    /// coordinator mean nothing to this one.
    pub(crate) fn resume(journal: Journal, coordinator: String, steps: Arc<dyn Steps>) -> io::Result<Self> {
        let state = journal.state();
        let epoch = if state.coordinator == coordinator {
            state.epoch
        } else {
            Epoch(0)
        };
        let mut open = Vec::new();
        let mut jobs = HashMap::new();
        for (key, entry) in state.in_order() {
            let slot = match entry {
                Entry::Finished(result) => Slot::Finished(result.clone()),
                Entry::Open(command) => {
                    let running = Arc::new(Running::new((**command).clone(), Phase::Accepted));
                    open.push(running.clone());
                    Slot::Running(running)
                }
            };
            jobs.insert(key.clone(), slot);
        }
        let inner = Inner {
            steps,
            journal: Writer::start(journal)?,
            coordinator,
            table: Mutex::new(Table {
                epoch,
                jobs,
                stopping: false,
            }),
            lanes: Lanes::default(),
            acting: Semaphore::new(ACTING_MAX),
            installing: Semaphore::new(INSTALLING_MAX),
            waiting: Semaphore::new(WAITING_MAX),
        };
        let this = Self { inner: Arc::new(inner) };
        for running in open {
            tracing::info!(operation_id = %running.command.operation, step = %running.command.step, verb = running.command.verb.name(), "takes an open job up again");
            let turn = this.queue(&running);
            this.spawn(running, turn);
        }
        Ok(this)
    }

    /// A command came in. Returns as soon as it is decided; for a new job the intention may still be on its way to the disk.
    pub(crate) async fn submit(&self, command: Command) -> Submission {
        let key = JobKey::of(&command);
        let mut records = Vec::new();
        let begun = {
            let mut table = self.table();
            let known = match table.jobs.get(&key) {
                None => Known::Nothing,
                Some(Slot::Running(running)) => Known::Running(&running.command),
                Some(Slot::Finished(result)) => Known::Finished(result),
            };
            let decision = intake::decide(&command, table.epoch, known, table.stopping);
            if command.epoch > table.epoch {
                table.epoch = command.epoch;
                records.push(self.epoch_record(command.epoch));
            }
            match decision {
                Decision::Refuse(fault) => {
                    tracing::warn!(operation_id = %command.operation, step = %command.step, verb = command.verb.name(), %fault, "refuses a command");
                    return Submission::Answer(Err(fault));
                }
                Decision::Answer(result) => return Submission::Answer(result),
                Decision::Attach => match table.jobs.get(&key) {
                    Some(Slot::Running(running)) => return Submission::Watch(running.watch()),
                    _ => unreachable!("Attach is decided only for a running job, under the same lock"),
                },
                Decision::Look => None,
                Decision::Begin => {
                    let running = Arc::new(Running::new(command.clone(), Phase::Journaling));
                    table.jobs.insert(key.clone(), Slot::Running(running.clone()));
                    let turn = self.queue(&running);
                    Some((running, turn))
                }
            }
        };
        let Some((running, turn)) = begun else {
            return Submission::Answer(self.look(command, records).await);
        };
        let watch = running.watch();
        records.push(Record::Intention {
            command: Box::new(command),
        });
        // A task of its own: the stream that brought the command may go away at any moment.
        let this = self.clone();
        tokio::spawn(async move {
            match this.inner.journal.write(records).await {
                Ok(()) => {
                    running.enter(Phase::Accepted);
                    this.spawn(running, turn);
                }
                Err(error) => {
                    this.table().jobs.remove(&key);
                    running.enter(Phase::Finished(Err(unwritten(error))));
                }
            }
        });
        Submission::Watch(watch)
    }

    async fn look(&self, command: Command, records: Vec<Record>) -> JobResult {
        if !records.is_empty() {
            self.inner.journal.write(records).await.map_err(unwritten)?;
        }
        // Nobody hears the progress of a look.
        let (progress, _) = mpsc::unbounded_channel();
        self.inner.steps.execute(&command, &progress).await
    }

    /// The coordinator told its run at Welcome: from now on older ones are refused.
    pub(crate) async fn raise_epoch(&self, epoch: Epoch) -> Result<(), NotWritten> {
        let record = {
            let mut table = self.table();
            if epoch <= table.epoch {
                return Ok(());
            }
            table.epoch = epoch;
            self.epoch_record(epoch)
        };
        self.inner.journal.write(vec![record]).await
    }

    /// The newest epoch seen.
    pub(crate) fn epoch(&self) -> Epoch {
        self.table().epoch
    }

    /// Jobs that the coordinator has not committed, for Hello.
    pub(crate) fn open_jobs(&self) -> Vec<OpenJob> {
        let table = self.table();
        let mut open: Vec<OpenJob> = table
            .jobs
            .iter()
            .map(|(key, slot)| OpenJob {
                operation: key.operation,
                step: key.step.clone(),
                finished: matches!(slot, Slot::Finished(_)),
            })
            .collect();
        open.sort_by(|a, b| (a.operation, &a.step).cmp(&(b.operation, &b.step)));
        open
    }

    /// How many writes are on their way to the disk.
    pub(crate) fn unwritten(&self) -> usize {
        self.inner.journal.pending()
    }

    /// Takes no new work from now on. Running jobs stay in the journal for the next run of the agent.
    pub(crate) fn stop_intake(&self) {
        self.table().stopping = true;
    }

    /// A notice that concerns jobs; others are ignored.
    pub(crate) async fn on_notice(&self, notice: &Notice) -> Result<(), NotWritten> {
        match notice {
            Notice::Committed { operation, step } => {
                let concerned =
                    |key: &JobKey| key.operation == *operation && step.as_ref().is_none_or(|s| *s == key.step);
                let mut forgotten = Vec::new();
                for (key, slot) in &self.table().jobs {
                    match slot {
                        _ if !concerned(key) => {}
                        Slot::Running(running) => running.forget_when_done(),
                        Slot::Finished(_) => forgotten.push(key.clone()),
                    }
                }
                // A task of its own: the connection that brought the notice may end at any moment, and memory must not say something else than the disk.
                let (this, operation) = (self.clone(), *operation);
                let done = tokio::spawn(async move { this.forget(operation, forgotten).await });
                done.await.unwrap_or_else(|error| {
                    Err(NotWritten(format!("forgetting a committed result broke off: {error}")))
                })
            }
            Notice::Cancel { operation } => {
                for (key, slot) in &self.table().jobs {
                    if let Slot::Running(running) = slot
                        && key.operation == *operation
                    {
                        running.cancel.cancel();
                    }
                }
                Ok(())
            }
            // No matter of jobs.
            Notice::Refresh
            | Notice::MayRenew
            | Notice::Renewed(_)
            | Notice::NotRenewed(_)
            | Notice::Roots(_)
            | Notice::RenewNow => Ok(()),
        }
    }

    /// Drops results that the coordinator has committed.
    async fn forget(&self, operation: OperationId, jobs: Vec<JobKey>) -> Result<(), NotWritten> {
        if !jobs.is_empty() {
            let record = |job: &JobKey| Record::Forgotten { job: job.clone() };
            // What cannot be forgotten on the disk stays here too, and is told at the next Hello: an intention that only the disk knows would be
            // carried out by the agent's next run.
            self.inner.journal.write(jobs.iter().map(record).collect()).await?;
        }
        // Under the lock, so that no new act of the operation begins while its leftovers are marked.
        let mut table = self.table();
        for key in &jobs {
            table.jobs.remove(key);
        }
        if !table.jobs.keys().any(|key| key.operation == operation) {
            self.inner.steps.forget(operation);
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner
            .table
            .lock()
            .expect("no code panics while it holds the table")
    }

    fn epoch_record(&self, epoch: Epoch) -> Record {
        Record::Epoch {
            coordinator: self.inner.coordinator.clone(),
            epoch,
        }
    }

    fn queue(&self, running: &Running) -> Option<Turn> {
        running.command.verb.vmid().map(|vmid| self.inner.lanes.queue(vmid))
    }

    fn spawn(&self, running: Arc<Running>, turn: Option<Turn>) {
        let command = &running.command;
        let span = tracing::info_span!("job", operation_id = %command.operation, step = %command.step, verb = command.verb.name(), app_id = command.verb.app().map(tracing::field::display));
        let this = self.clone();
        tokio::spawn(
            async move {
                let result = this.run(&running, turn.as_ref()).await;
                this.finish(&running, result).await;
                // The next act on the container begins only when this one's result is on the disk.
                drop(turn);
            }
            .instrument(span),
        );
    }

    async fn run(&self, running: &Arc<Running>, turn: Option<&Turn>) -> JobResult {
        let only_waits = intake::only_waits(&running.command.verb);
        if turn.is_some_and(Turn::must_wait) {
            running.tell(Progress {
                message: "waits for another act on the same container".into(),
                percent: None,
            });
        }
        let seat = async {
            if let Some(turn) = turn {
                turn.comes().await;
            }
            let seats = if only_waits {
                &self.inner.waiting
            } else if intake::installs(&running.command.verb) {
                &self.inner.installing
            } else {
                &self.inner.acting
            };
            seats.acquire().await.expect("the semaphore is never closed")
        };
        let _seat = tokio::select! {
            biased;
            () = running.cancel.cancelled() => return Err(Fault::new(FaultKind::Cancelled, "cancelled before it began")),
            seat = seat => seat,
        };
        tracing::info!("begins");
        let (progress, mut lines) = mpsc::unbounded_channel();
        // On a task of its own, so that a panic in a step ends the job and not the agent's record of it.
        let (steps, job) = (self.inner.steps.clone(), running.clone());
        let mut task = tokio::spawn(async move { steps.execute(&job.command, &progress).await }.in_current_span());
        let ended = loop {
            tokio::select! {
                biased;
                Some(line) = lines.recv() => running.tell(line),
                () = running.cancel.cancelled(), if intake::may_be_left(&running.command.verb) => {
                    task.abort();
                    break Err(Fault::new(FaultKind::Cancelled, "cancelled while it waited"));
                }
                ended = &mut task => break ended.unwrap_or_else(|error| {
                    tracing::error!(%error, "the step broke off");
                    Err(Fault::new(FaultKind::InDoubt, "the agent's step broke off by a fault of its own; the agent's log says where"))
                }),
            }
        };
        while let Ok(line) = lines.try_recv() {
            running.tell(line);
        }
        ended
    }

    async fn finish(&self, running: &Arc<Running>, result: JobResult) {
        let key = JobKey::of(&running.command);
        match &result {
            Ok(_) => tracing::info!("done"),
            Err(fault) => tracing::warn!(kind = ?fault.kind, %fault, "not done"),
        }
        // A fault that only waits is not the end of a try: the same try is to act again when it is asked for again.
        let keep = !running.is_unwanted() && !matches!(&result, Err(fault) if fault.kind.waits());
        let record = if keep {
            Record::Result {
                job: key.clone(),
                result: result.clone(),
            }
        } else {
            Record::Forgotten { job: key.clone() }
        };
        let told = match self.inner.journal.write(vec![record]).await {
            Ok(()) => {
                let mut table = self.table();
                if !keep {
                    table.jobs.remove(&key);
                    // Committed while it ran, it may be the last of its operation: what its tools left goes too.
                    if running.is_unwanted() && !table.jobs.keys().any(|other| other.operation == key.operation) {
                        self.inner.steps.forget(key.operation);
                    }
                } else {
                    table.jobs.insert(key.clone(), Slot::Finished(result.clone()));
                }
                result
            }
            Err(error) => {
                tracing::error!(%error, "the result could not be recorded; the next try looks what is so");
                // On the disk it is still intended. It stays known until the coordinator has committed it, so that it is forgotten there as well.
                let told = Err(unwritten(error));
                self.table().jobs.insert(key.clone(), Slot::Finished(told.clone()));
                told
            }
        };
        // The notice may have come while the result was being written.
        if keep && running.is_unwanted() {
            let notice = Notice::Committed {
                operation: key.operation,
                step: Some(key.step),
            };
            if let Err(error) = self.on_notice(&notice).await {
                tracing::warn!(%error, "could not drop a committed result");
            }
        }
        running.enter(Phase::Finished(told));
    }
}

fn unwritten(error: NotWritten) -> Fault {
    Fault::new(
        FaultKind::Internal,
        format!("the agent cannot keep its journal: {error}"),
    )
}
