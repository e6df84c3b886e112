//! A job while it runs, and what watches it.

use super::JobResult;
use proximity_protocol::command::{Command, Progress};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Lines of progress that a slow watcher may fall behind; older ones are skipped, the result never is.
const PROGRESS_KEPT: usize = 256;
/// Characters of a line of progress.
const MESSAGE_MAX: usize = 500;

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Phase {
    /// Its intention is on the way to the disk.
    Journaling,
    /// Its intention is on the disk.
    Accepted,
    /// It has ended, and the result is on the disk (or the fault says that it is not).
    Finished(JobResult),
}

/// One job. The machine drives it, any number of streams watch it.
pub(crate) struct Running {
    /// What is done.
    pub(crate) command: Command,
    /// Stop when that is safe.
    pub(crate) cancel: CancellationToken,
    forget: AtomicBool,
    phase: watch::Sender<Phase>,
    progress: broadcast::Sender<Progress>,
}

impl Running {
    pub(crate) fn new(command: Command, phase: Phase) -> Self {
        Self {
            command,
            cancel: CancellationToken::new(),
            forget: AtomicBool::new(false),
            phase: watch::Sender::new(phase),
            progress: broadcast::Sender::new(PROGRESS_KEPT),
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            progress: self.progress.subscribe(),
            phase: self.phase.subscribe(),
        }
    }

    pub(crate) fn tell(&self, mut progress: Progress) {
        if let Some((cut, _)) = progress.message.char_indices().nth(MESSAGE_MAX) {
            progress.message.truncate(cut);
        }
        // An error means that nobody watches.
        let _ = self.progress.send(progress);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The coordinator wants no result of it.
    pub(crate) fn forget_when_done(&self) {
        self.forget.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_unwanted(&self) -> bool {
        self.forget.load(Ordering::SeqCst)
    }
}

/// What a watcher hears next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum News {
    /// How far it is.
    Progress(Progress),
    /// The end.
    Finished(JobResult),
    /// The agent stops; the job will be taken up again by its next run.
    Abandoned,
}

/// A view of a running job.
pub(crate) struct Watch {
    progress: broadcast::Receiver<Progress>,
    phase: watch::Receiver<Phase>,
}

impl Watch {
    /// Waits until the intention is on the disk. `Err` is the end of a job whose intention did not get there, `Ok(false)` means that the agent stops.
    pub(crate) async fn accepted(&mut self) -> Result<bool, JobResult> {
        match self.phase.wait_for(|phase| *phase != Phase::Journaling).await {
            Err(_) => Ok(false),
            Ok(phase) => match &*phase {
                // A fault that came before `Accepted` and one that came quickly after look alike here, and mean the same to the coordinator.
                Phase::Finished(result) => Err(result.clone()),
                Phase::Accepted | Phase::Journaling => Ok(true),
            },
        }
    }

    /// The next piece of news, in order; the end comes last.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            let line = tokio::select! {
                biased;
                line = self.progress.recv() => line,
                ended = self.phase.wait_for(|phase| matches!(phase, Phase::Finished(_))) => return match ended.as_deref() {
                    Ok(Phase::Finished(result)) => News::Finished(result.clone()),
                    _ => News::Abandoned,
                },
            };
            match line {
                Ok(progress) => return News::Progress(progress),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => {
                    return match &*self.phase.borrow() {
                        Phase::Finished(result) => News::Finished(result.clone()),
                        Phase::Journaling | Phase::Accepted => News::Abandoned,
                    };
                }
            }
        }
    }
}
