//! The port to the machine: the only spawner of processes, and where everything else gets its paths from.
//!
//! A tool that changes something (`pct create`, …) outlives the agent: `tool` starts it through a shim (`run_tool`) that writes its output and its
//! end to files, and waits for those. Killed and started again, the agent finds the tool by the name of its folder below `<state>/tools`, and learns
//! how it ended. Short commands that only read, or that replace a whole table in one act, run as plain children with a bound (`short`).
//!
//! What is not here: what to run (`pve`), and what an end means (`jobs::steps`).

pub(crate) mod files;
mod forget;
mod liveness;
mod node;
pub mod run_tool;
pub(crate) mod short;
mod silence;
mod start;
pub(crate) mod tool;
mod tool_dir;
pub(crate) mod usage;

pub use forget::forget;
pub(crate) use forget::running;
pub(crate) use liveness::process_lives;
pub(crate) use node::TableLastSeen;
pub use node::{HostError, NodeContext};
