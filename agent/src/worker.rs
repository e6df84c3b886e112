//! The agent without its link: published ports stand, jobs go on, and what is on the node can be told. `assemble` puts identity and link before it; the
//! crash campaign of the project's tests puts a coordinator in the same process before it.

use crate::{
    facts::{Pulse, Sampler},
    host::NodeContext,
    jobs::{
        BoxFuture, JobResult, Replies, Steps,
        journal::{Journal, JournalError, NotWritten},
        machine::Jobs,
        steps,
    },
    link::NodeView,
    publish,
};
use proximity_protocol::{
    command::{Command, Progress},
    event::Notice,
    fault::Fault,
    hello::OpenJob,
    ids::{Epoch, OperationId},
    metrics::Sample,
    observed::{Inventory, NodeFacts},
};
use std::{io, sync::Arc};
use tokio::sync::mpsc;

/// Why the work cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The operating system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// The work of one node. Cheap to clone. Its jobs are tasks of the runtime that it was opened in, and end with that.
#[derive(Clone)]
pub struct Worker {
    port: Arc<Port>,
    jobs: Jobs,
}

impl Worker {
    /// Sets the published ports, reads the journal, and takes every open job up again. `coordinator` is the fingerprint of its CA: the epochs of another
    /// coordinator mean nothing to this one.
    ///
    /// # Errors
    /// When the journal cannot be used, or a thread cannot be started.
    pub async fn open(node: NodeContext, coordinator: String) -> Result<Self, WorkerError> {
        // Before the link and without it, and before the journal, which may be damaged: apps keep their ports through a reboot, whatever else is wrong.
        match publish::restore(&node).await {
            Ok(count) => tracing::info!(count, "published ports stand"),
            Err(fault) => tracing::error!(%fault, "published ports could not be set"),
        }
        let journal = Journal::open(&node.config().paths.state)?;
        let port = Arc::new(Port(node));
        let jobs = Jobs::resume(journal, coordinator, port.clone()).map_err(WorkerError::Thread)?;
        Ok(Self { port, jobs })
    }

    /// The node.
    pub fn node(&self) -> &NodeContext {
        &self.port.0
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    pub(crate) fn view(&self) -> Arc<dyn NodeView> {
        self.port.clone()
    }

    /// A command came in.
    pub async fn execute(&self, command: Command) -> Replies {
        Replies::to(&self.jobs, command).await
    }

    /// A notice came in.
    ///
    /// # Errors
    /// When it concerns jobs and could not be recorded; it is told again at the next Hello.
    pub async fn notice(&self, notice: &Notice) -> Result<(), NotWritten> {
        self.jobs.on_notice(notice).await
    }

    /// The coordinator told its run: older ones are refused from now on.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub async fn welcome(&self, epoch: Epoch) -> Result<(), NotWritten> {
        self.jobs.raise_epoch(epoch).await
    }

    /// The newest run of the coordinator that was seen.
    pub fn epoch(&self) -> Epoch {
        self.jobs.epoch()
    }

    /// Jobs that the coordinator has not committed.
    pub fn open_jobs(&self) -> Vec<OpenJob> {
        self.jobs.open_jobs()
    }

    /// How many writes are on their way to the journal's disk.
    pub fn unwritten(&self) -> usize {
        self.jobs.unwritten()
    }

    /// How many wait for a file system to tell how large it is.
    pub fn measuring(&self) -> usize {
        self.node().usage().awaited()
    }

    /// What the node is.
    ///
    /// # Errors
    /// Which file cannot be read.
    pub async fn facts(&self) -> Result<NodeFacts, Fault> {
        self.node().facts().await
    }

    /// What is on the node.
    pub async fn inventory(&self) -> Inventory {
        self.node().inventory().await
    }

    /// Looks whether the published ports still stand and sets them again if not; how many were set again.
    ///
    /// # Errors
    /// When the table cannot be looked at or set.
    pub async fn repair_published(&self) -> Result<u32, Fault> {
        publish::repair(self.node()).await
    }
}

/// The node behind the ports of the other rooms.
struct Port(NodeContext);

impl Steps for Port {
    fn execute<'a>(
        &'a self,
        command: &'a Command,
        progress: &'a mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'a, JobResult> {
        Box::pin(steps::execute(&self.0, command, progress))
    }

    fn forget(&self, operation: OperationId) {
        steps::forget(&self.0, operation);
    }
}

impl NodeView for Port {
    fn facts(&self) -> BoxFuture<'_, Result<NodeFacts, Fault>> {
        Box::pin(self.0.facts())
    }

    fn inventory(&self) -> BoxFuture<'_, Inventory> {
        Box::pin(self.0.inventory())
    }

    fn pulse(&self) -> BoxFuture<'_, Pulse> {
        Box::pin(self.0.pulse())
    }

    fn sampler(&self) -> Box<dyn FnMut() -> Sample + Send> {
        let mut sampler: Sampler = self.0.sampler();
        Box::new(move || sampler.sample())
    }
}
