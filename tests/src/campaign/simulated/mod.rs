//! The campaign's depth in virtual time: coordinator, agents and simulated nodes in one process, each in a runtime of its own that moves only when it is told
//! to. What is real: the coordinator's registry, engine, reconciliation and use cases; the agents' journal, job machine, steps, tool folders and published
//! ports; the simulator's tools. What is not: sockets, processes, and the passing of time.
//!
//! - [`run`] is one run, [`moves`] what can happen next, [`requests`] and [`changes`] what users ask for, [`troubles`] what goes wrong by itself, [`finish`] the end of it.
//! - [`coordinator`], [`node`]: one life of each process, in [`lockstep`]; [`hub`]: the links between them; [`machine`] and [`tools`]: what agents run on.
//! - [`time`], [`turns`], [`schedule`], [`ledger`]: when, who first, what, and what was promised.
//!
//! Everything is decided by the seed's dice, one decision after the other, so a seed is a run: it can be repeated exactly.

pub mod changes;
pub mod coordinator;
pub mod finish;
pub mod hub;
pub mod ledger;
pub mod lockstep;
pub mod machine;
pub mod moves;
pub mod node;
pub mod requests;
pub mod run;
pub mod schedule;
pub mod time;
pub mod tools;
pub mod troubles;
pub mod turns;

pub use requests::{Way, way};
pub use run::Run;
pub use schedule::digest;
