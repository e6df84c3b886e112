//! The engine against an in-memory node that can fail, wait, lose answers and go away at every command, and against being dropped at every await point.
#![allow(clippy::unwrap_used)]

pub(crate) mod backups;
mod cancelled;
mod changes;
mod clock;
mod ends;
mod every_step;
mod killed;
mod moves;
pub(crate) mod node;
mod queues;
mod reservations;
mod revoked;
mod standing;
pub(crate) mod world;
