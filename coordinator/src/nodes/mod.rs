//! Ports to the nodes. `quic` is the only implementation in the product; it is the only room that knows quinn.
//!
//! Engine and services see these two traits, so that tests can put a fleet of a thousand simulated nodes behind them.

pub mod inventories;
pub mod quic;

use proximity_protocol::{
    command::{Command, Outcome, Progress, Verb},
    fault::Fault,
    ids::{NodeId, OperationId, StepKey},
};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::sync::{broadcast, mpsc};

/// A boxed future, so that the traits can be objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a command brought no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No agent of that node is connected: nothing was sent. Unreachable is not gone.
    #[error("the node's agent is not connected")]
    Offline,
    /// The stream ended before `Finished`: the act may have happened. Send the same command again, with the same step key, to learn.
    #[error("the connection was lost before the answer came")]
    Lost,
    /// The agent's own answer.
    #[error("{0}")]
    Fault(#[from] Fault),
}

/// Sends commands.
pub trait NodeCommands: Send + Sync + 'static {
    /// Sends one command and waits for its end, however long that takes; progress goes to `progress` if somebody listens. Dropping the future does not
    /// stop the act on the node.
    fn execute(
        &self,
        node: NodeId,
        command: Command,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'_, Result<Outcome, CommandError>>;
    /// Tells the agent that the result is committed (`None`: of all steps), so that it may forget it. Best effort: Hello settles what is lost.
    fn committed(&self, node: NodeId, operation: OperationId, step: Option<StepKey>);
    /// Asks the agent to give up waiting in a command of the operation, which is about to be taken back. Best effort.
    fn cancel(&self, node: NodeId, operation: OperationId);
    /// Whether a command would be sent now.
    fn is_online(&self, node: NodeId) -> bool;
    /// Comings and goings.
    fn changes(&self) -> broadcast::Receiver<NodeChange>;
}

/// Asks about nodes.
pub trait NodeQueries: Send + Sync + 'static {
    /// Whether the node's agent is connected.
    fn is_online(&self, node: NodeId) -> bool;
    /// Every connected node.
    fn online(&self) -> Vec<NodeId>;
    /// Round-trip time of the link; `None` if it is not connected.
    fn round_trip(&self, node: NodeId) -> Option<Duration>;
    /// Asks for fresh facts and an inventory and waits until they are stored.
    fn refresh(&self, node: NodeId) -> BoxFuture<'_, Result<(), CommandError>>;
    /// Asks a question (a verb that reads only) and waits for the answer, at most `bound`: then it is [`CommandError::Lost`].
    fn look(&self, node: NodeId, verb: Verb, bound: Duration) -> BoxFuture<'_, Result<Outcome, CommandError>>;
    /// Closes the link of a revoked node now.
    fn disconnect(&self, node: NodeId, code: u32, reason: &str);
    /// What the node's agent has shown itself with; `None`: it is not connected.
    fn shown(&self, _node: NodeId) -> Option<Shown> {
        None
    }
    /// Asks the agent to replace its key now. Best effort: its next Welcome says it again.
    fn renew_now(&self, _node: NodeId) {}
}

/// What an agent has shown itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Serial of its certificate, hexadecimal.
    pub serial: String,
    /// Whether it can replace its key when it is asked to, and follow from root to root.
    pub follows: bool,
}

/// A node came or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeChange {
    /// Welcome was sent.
    Online(NodeId),
    /// The last connection is gone.
    Offline(NodeId),
}

/// Shared port for commands.
pub type SharedCommands = Arc<dyn NodeCommands>;
/// Shared port for questions.
pub type SharedQueries = Arc<dyn NodeQueries>;
