//! One file per verb. Each `ensure_…` looks first whether it is so already and only then calls a tool; after the tool it looks again, because the state
//! of the node decides and not what a tool says.
//!
//! [`execute`] is the only way in. Before a step runs, it validates every number again, asks the node's own policy, and refuses what would change
//! something while the cluster is not quorate. Which container may be touched is decided in `standing`, from the ownership record alone.
//!
//! A step may be repeated at any time, also after the agent was killed in the middle: its tools are found again by name (see `host::tool`).

mod act;
mod address_probe;
mod await_healthy;
mod await_network;
mod backup_facts;
mod backup_leftover;
mod check_files;
mod confirm;
mod ensure_adopted;
mod ensure_archives_deleted;
mod ensure_backed_up;
mod ensure_configured;
mod ensure_created;
mod ensure_destroyed;
mod ensure_grown;
mod ensure_migrated;
mod ensure_onboot;
mod ensure_published;
mod ensure_released;
mod ensure_restored;
mod ensure_started;
mod ensure_stopped;
mod ensure_template;
mod ha;
mod half_made;
mod install_recipe;
mod leftover;
mod lost;
mod making;
mod moving;
mod recipe_script;
mod rewrite_values;
mod standing;
mod test_archive;
mod validate;

use crate::{
    facts::cluster,
    host::{self, NodeContext},
    policy::Policy,
};
use act::Act;
use proximity_protocol::{
    command::{Command, Outcome, Progress, Verb},
    fault::{Fault, FaultKind},
    ids::OperationId,
};
use tokio::sync::mpsc;

/// Where a step tells how far it is. Nobody listening is no fault.
pub type ProgressSink = mpsc::UnboundedSender<Progress>;

/// Executes a command: every check of the node's side is inside. Repeating it after a crash attaches to tools that still run.
pub async fn execute(node: &NodeContext, command: &Command, progress: &ProgressSink) -> Result<Outcome, Fault> {
    validate::check(&command.verb)?;
    if command.verb == Verb::Inventory {
        return Ok(Outcome::Inventory(Box::new(node.inventory().await)));
    }
    if command.verb == Verb::Records {
        return Ok(Outcome::Records(node.records()?));
    }
    if let Verb::Examine { only } = command.verb {
        // A policy that cannot be read is told with each container instead of hiding them.
        if let Ok(policy) = Policy::load(&node.config().paths.policy) {
            policy.check_name(&command.verb)?;
        }
        return Ok(Outcome::Examined(Box::new(node.examine(only).await)));
    }
    Policy::load(&node.config().paths.policy)?.check(&command.verb)?;
    if !command.verb.reads_only() && !cluster::members(node)?.quorate {
        return Err(Fault::new(
            FaultKind::NotQuorate,
            "the cluster has no quorum: nothing is changed on this node until it has",
        ));
    }
    let act = Act {
        node,
        operation: command.operation,
        step: &command.step,
        progress,
    };
    let result = match run(&act, &command.verb).await {
        Err(fault) => Err(standing::explain(node, &command.verb, fault)),
        done => done,
    };
    if result.as_ref().is_err_and(|fault| fault.kind.waits()) {
        act.forget_ended();
    }
    result
}

/// The coordinator has committed all that was done for the operation: what its tools left may go, but not what it proves.
pub(crate) fn forget(node: &NodeContext, operation: OperationId) {
    match half_made::keep(node, operation) {
        Ok(()) => host::forget(node, operation),
        Err(fault) => {
            tracing::warn!(%fault, operation_id = %operation, "results of tools are kept; the next commit tries again");
        }
    }
}

async fn run(act: &Act<'_>, verb: &Verb) -> Result<Outcome, Fault> {
    match verb {
        Verb::Inventory => Ok(Outcome::Inventory(Box::new(act.node.inventory().await))),
        Verb::Records => Ok(Outcome::Records(act.node.records()?)),
        Verb::Examine { only } => Ok(Outcome::Examined(Box::new(act.node.examine(*only).await))),
        Verb::Confirm(confirm) => confirm::run(act, confirm).await,
        Verb::EnsureTemplate { storage, prefix } => ensure_template::run(act, storage, prefix).await,
        Verb::EnsureCreated(spec) => ensure_created::run(act, spec).await,
        Verb::EnsureStarted(target) => ensure_started::run(act, target).await,
        Verb::EnsureStopped { target, timeout_s } => ensure_stopped::run(act, target, *timeout_s).await,
        Verb::AwaitNetwork {
            target,
            expect,
            timeout_s,
        } => await_network::run(act, target, *expect, *timeout_s).await,
        Verb::InstallRecipe { target, recipe } => install_recipe::run(act, target, recipe).await,
        Verb::AwaitHealthy { target, timeout_s } => await_healthy::run(act, target, *timeout_s).await,
        Verb::EnsurePublished {
            target,
            public_port,
            address,
            port,
        } => ensure_published::run(act, target, *public_port, *address, *port).await,
        Verb::EnsureUnpublished { target, public_port } => ensure_published::undo(act, target, *public_port).await,
        Verb::EnsureDestroyed(target) => ensure_destroyed::run(act, target).await,
        Verb::EnsureAdopted(target) => ensure_adopted::run(act, target).await,
        Verb::EnsureReleased(target) => ensure_released::run(act, target).await,
        Verb::EnsureConfigured { target, settings } => ensure_configured::run(act, target, settings).await,
        Verb::EnsureGrown { target, disk_gb } => ensure_grown::run(act, target, *disk_gb).await,
        Verb::RewriteValues { target, values } => rewrite_values::run(act, target, values).await,
        Verb::EnsureMigrated { target, to } => ensure_migrated::run(act, target, to).await,
        Verb::BackupFacts(question) => backup_facts::run(act, question).await,
        Verb::EnsureBackedUp(spec) => ensure_backed_up::run(act, spec).await,
        Verb::TestArchive { archive, sha256 } => test_archive::run(act, archive, *sha256).await,
        Verb::EnsureArchivesDeleted(which) => ensure_archives_deleted::run(act, which).await,
        Verb::EnsureRestored(spec) => ensure_restored::run(act, spec).await,
        Verb::CheckFiles { target, timeout_s } => check_files::run(act, target, *timeout_s).await,
        Verb::EnsureOnboot { target, onboot } => ensure_onboot::run(act, target, *onboot).await,
    }
}
