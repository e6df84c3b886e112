//! One file per verb. Each `ensure_…` looks first whether it is so already, checks policy, quorum, ownership, and only then calls a tool.

use crate::host::NodeContext;
use proximity_protocol::{
    command::{Command, Outcome, Progress},
    fault::{Fault, FaultKind},
};
use tokio::sync::mpsc;

/// Where a step tells how far it is. Nobody listening is no fault.
pub type ProgressSink = mpsc::UnboundedSender<Progress>;

/// Executes a command: every check of the node's side is inside. Repeating it after a crash attaches to tools that still run.
pub async fn execute(node: &NodeContext, command: &Command, progress: &ProgressSink) -> Result<Outcome, Fault> {
    let _ = (node, progress);
    Err(Fault::new(FaultKind::UnknownVerb, format!("{} is not built yet", command.verb.name())))
}
