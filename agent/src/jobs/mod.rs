//! What the coordinator asked for, done once.
//!
//! A command comes in through `machine::Jobs::submit`. `intake` decides, purely, whether it is refused, answered from the record, attached to the
//! running job, or new. A new one is written to the `journal` (fsync) as an intention, run through its step, and its result is written before anyone
//! hears of it. At start every intention without a result is run again: steps find what is there already, and a tool that is still running is found
//! under its name. A result stays until the coordinator says that it is committed.
//!
//! This room knows no link: a job goes on, and is resolved after a restart, with nobody listening. It does not judge policy, quorum or ownership
//! either; the steps do, right before they act.

pub(crate) mod intake;
pub(crate) mod journal;
mod lanes;
pub(crate) mod machine;
mod record;
mod replies;
pub(crate) mod running;
pub mod steps;
#[cfg(test)]
mod tests;

use proximity_protocol::{
    command::{Command, Outcome, Progress},
    fault::Fault,
    ids::{OperationId, StepKey},
};
use serde::{Deserialize, Serialize};
use std::fmt;
use tokio::sync::mpsc;

pub(crate) use crate::host::BoxFuture;
pub use journal::{JournalError, NotWritten};
pub use replies::Replies;

/// What a job ends with.
pub(crate) type JobResult = Result<Outcome, Fault>;

/// The port to the verbs.
pub(crate) trait Steps: Send + Sync + 'static {
    /// Does what `command` says, or finds it done. May be called again for the same command after a crash.
    fn execute<'a>(
        &'a self,
        command: &'a Command,
        progress: &'a mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'a, JobResult>;

    /// The coordinator has committed all that was done for the operation: what was kept for a repetition may go. Called while no act of it can begin, so
    /// it must not take long.
    fn forget(&self, operation: OperationId);
}

/// The name of a job: one act of one operation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct JobKey {
    /// The operation.
    pub(crate) operation: OperationId,
    /// The act.
    pub(crate) step: StepKey,
}

impl JobKey {
    /// The job that `command` names.
    pub(crate) fn of(command: &Command) -> Self {
        Self {
            operation: command.operation,
            step: command.step.clone(),
        }
    }
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.operation, self.step)
    }
}
