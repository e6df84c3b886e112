//! The port to the machine: the only spawner of processes, and where everything else gets its paths from.
//!
//! A tool that changes something (`pct create`, …) outlives the agent: `tool` starts it through a shim (`run_tool`) that writes its output and its
//! end to files, and waits for those. Killed and started again, the agent finds the tool by the name of its folder below `<state>/tools`, and learns
//! how it ended. Short commands that only read, or that replace a whole table in one act, run as plain children with a bound (`short`).
//!
//! The machine itself is a port ([`HostTools`]): time, shims, short commands, connections. [`OwnMachine`] is the one that the agent runs on.
//! The agent's own unit of systemd is started and stopped by `service`, for `join` and `leave`.
//!
//! What is not here: what to run (`pve`), and what an end means (`jobs::steps`).

pub(crate) mod files;
mod forget;
mod liveness;
mod node;
mod own_machine;
mod port;
pub mod run_tool;
pub(crate) mod service;
mod shim;
pub(crate) mod short;
mod silence;
pub(crate) mod sockets;
mod start;
pub(crate) mod stream;
pub(crate) mod tool;
mod tool_dir;
pub(crate) mod usage;

pub use forget::forget;
pub(crate) use forget::running;
pub use liveness::ProcessStamp;
pub(crate) use node::TableLastSeen;
pub use node::{HostError, NodeContext};
pub use own_machine::OwnMachine;
pub(crate) use own_machine::now_unix_ms;
pub use port::{BoxFuture, HostTools, SharedTools};
pub use shim::Shim;
pub use short::{Short, ShortEnd};
pub use tool_dir::{Request, Status};
