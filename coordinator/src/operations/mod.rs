//! Long work: operations, which are sagas of steps over idempotent `ensure_…` verbs.
//!
//! How one flows through: a service inserts the app, its reservations, the operation and its steps in one transaction ([`submit`]) and wakes the [`Engine`].
//! The engine runs one task per operation. The task looks at the rows, decides what comes next ([`recovery`], pure), asks the step what to send (pure), writes
//! that the step is running, sends, and writes the outcome together with what it changes. Nothing is held in memory that the rows do not say, so a crash
//! anywhere costs nothing: a command whose answer was not recorded is sent again with the same key, and the agent answers with what it has recorded.
//!
//! How many commands a node gets at a time, and who comes first, is decided in `seats`: a seat is held for one command, not for an operation.
//!
//! What a fault leads to is decided in [`retry`]: waiting (somebody else's lock; no try is spent), trying again, choosing another VMID, port or address,
//! following a container that moved to another node of its cluster (`follow`), taking back, or giving up with the operator's action named. A node that is
//! away is waited for, one that was revoked is not (`revoked`).
//!
//! An app may have containers beside the one that serves: one that a restore makes, one that it has replaced, one in which a backup is tried out. They stand in
//! `side_containers`, and what an operation changes of them is written by `side_record`, what it changes of backups by `backup_record`.
//!
//! What this room does not do: it decides nothing about who may do what (services do), and it never concludes from silence that something is gone.

pub mod adopt;
pub mod backup;
pub mod backup_delete;
pub mod clone;
pub mod configure;
pub mod delete;
pub mod deploy;
pub mod discard;
pub mod engine;
pub mod forget;
pub mod migrate;
pub mod params;
pub mod publish;
pub mod record;
pub mod recovery;
pub mod reserve;
pub mod restart;
pub mod restore;
pub mod retry;
pub mod start;
pub mod step;
pub mod stop;
pub mod submit;
pub mod surroundings;
pub mod verify;

mod acts;
pub(crate) mod backup_record;
mod drive;
mod environment;
mod finish;
pub(crate) mod follow;
mod quiet;
mod revoked;
mod seats;
mod send;
mod settle;
mod side_record;
#[cfg(test)]
pub(crate) mod tests;
mod turn;

pub use engine::{Engine, EngineDeps};
pub use retry::EngineSettings;

/// Every kind of operation. Append only: names stand in the registry.
pub static KINDS: &[&step::Kind] = &[
    &deploy::DEPLOY,
    &start::START,
    &stop::STOP,
    &restart::RESTART,
    &delete::DELETE,
    &publish::PUBLISH,
    &adopt::ADOPT,
    &forget::FORGET,
    &configure::CONFIGURE,
    &migrate::MIGRATE,
    &backup::BACKUP,
    &backup_delete::BACKUP_DELETE,
    &restore::RESTORE,
    &discard::DISCARD,
    &verify::VERIFY,
    &clone::CLONE,
];

/// The kind of that name.
pub fn kind(name: &str) -> Option<&'static step::Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}
