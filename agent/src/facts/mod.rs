//! Facts and figures of the node, read without forking; one probe per file. "Could not be read" is always told apart from "is not there".
//!
//! [`NodeContext::facts`] says what the node is, [`NodeContext::inventory`] what is on it, its examination what single containers are like, and a
//! [`Sampler`] how busy it is. Nothing here changes anything, and nothing looks through all processes.

pub(crate) mod addresses;
pub(crate) mod backups;
pub(crate) mod bridges;
pub(crate) mod cgroup;
pub(crate) mod cluster;
mod examination;
mod fingerprint;
mod inventory;
mod listening;
mod node_facts;
mod node_figures;
pub(crate) mod processes;
mod pulse;
pub(crate) mod running;
mod sampler;
pub(crate) mod storages;
pub(crate) mod tasks;
#[cfg(test)]
pub(crate) mod testing;
mod traffic;

pub use pulse::Pulse;
pub use sampler::Sampler;

pub(crate) use crate::host::NodeContext;
