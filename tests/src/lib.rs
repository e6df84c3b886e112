//! What the project's own tests and its demo stand on: the product's real executables as separate processes, on simulated Proxmox nodes.
//!
//! - [`programs`]: builds the executables and finds them.
//! - [`process`]: one child process: its log, its end, `kill -9`.
//! - [`fleet`]: a coordinator and some nodes in a folder of their own; start, stop, kill, and start again, each on its own.
//! - [`inside`]: the same within one process, by clocks that a test turns ([`turned_clock`]).
//! - [`impostor`]: a coordinator that is not the product's and may say anything; [`authority`] is what it shows and gives.
//! - [`puppet`]: an agent that is not the product's.
//! - [`recording`]: frames of a real conversation, kept as text; [`relay`] stands between the two sides and writes them down.
//! - [`api`]: the HTTP API as a client sees it.
//! - [`wrong_clock`]: a process whose clock is set wrong.
//! - [`wire`]: two network namespaces and what passes between them.
//! - [`campaign`]: random operations while everything fails.
//! - [`world`]: what must hold whatever happened: one owner for each VMID, port and address, no container without app, nothing left.
//!
//! Nothing here waits for a time to pass: it waits for a state, and says after a bounded time which state did not come.

pub mod api;
pub mod authority;
pub mod campaign;
pub mod fleet;
pub mod impostor;
pub mod inside;
pub mod process;
pub mod programs;
pub mod puppet;
pub mod recording;
pub mod relay;
pub mod turned_clock;
pub mod wire;
pub mod world;
pub mod wrong_clock;
