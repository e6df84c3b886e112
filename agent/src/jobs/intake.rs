//! What becomes of a command that comes in: pure decisions.

use super::JobResult;
use proximity_protocol::{
    command::{Command, Verb},
    fault::{Fault, FaultKind},
    ids::Epoch,
};

/// What is known of the job that a command names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known<'a> {
    /// Nothing.
    Nothing,
    /// It runs, for this command.
    Running(&'a Command),
    /// It has ended so.
    Finished(&'a JobResult),
}

/// What to do about a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    /// Write the intention, then act.
    Begin,
    /// Only look, and answer; nothing is written.
    Look,
    /// Watch the job that runs already.
    Attach,
    /// Tell the recorded result.
    Answer(JobResult),
    /// Do nothing.
    Refuse(Fault),
}

/// Decides. `newest` is the newest epoch seen; a command that shows a newer one raises it, whatever is decided here.
pub(crate) fn decide(command: &Command, newest: Epoch, known: Known<'_>, stopping: bool) -> Decision {
    if command.epoch < newest {
        return Decision::Refuse(Fault::new(
            FaultKind::OldEpoch,
            format!(
                "the command comes from run {} of the coordinator, but run {newest} has been seen: only the newest is obeyed",
                command.epoch
            ),
        ));
    }
    match known {
        Known::Finished(result) => return Decision::Answer(result.clone()),
        Known::Running(running) if running.verb == command.verb => return Decision::Attach,
        Known::Running(running) => {
            return Decision::Refuse(Fault::new(
                FaultKind::Malformed,
                format!(
                    "operation {} step {} runs already with another content ({})",
                    command.operation,
                    command.step,
                    running.verb.name()
                ),
            ));
        }
        Known::Nothing => {}
    }
    if stopping {
        return Decision::Refuse(Fault::new(
            FaultKind::ShuttingDown,
            "the agent is stopping and takes no new work",
        ));
    }
    match check(&command.verb) {
        Err(fault) => Decision::Refuse(fault),
        Ok(()) if command.verb.reads_only() => Decision::Look,
        Ok(()) => Decision::Begin,
    }
}

/// Checks every number and size of a verb: well-formed text is checked by its types, bounds are not.
pub(crate) fn check(verb: &Verb) -> Result<(), Fault> {
    let malformed = |message: String| Fault::new(FaultKind::Malformed, message);
    let within = |name: &str, value: u64, min: u64, max: u64| {
        if (min..=max).contains(&value) {
            Ok(())
        } else {
            Err(malformed(format!("{} is {value}, allowed is {min} to {max}", name)))
        }
    };
    match verb {
        Verb::Inventory
        | Verb::Records
        | Verb::Examine { .. }
        | Verb::EnsureTemplate { .. }
        | Verb::EnsureStarted(_)
        | Verb::EnsureDestroyed(_)
        | Verb::BackupFacts(_)
        | Verb::EnsureBackedUp(_)
        | Verb::TestArchive { .. }
        | Verb::EnsureArchivesDeleted(_)
        | Verb::EnsureRestored(_)
        | Verb::EnsureOnboot { .. }
        | Verb::CheckFiles { .. }
        | Verb::EnsureAdopted(_)
        | Verb::EnsureReleased(_)
        | Verb::EnsureMigrated { .. } => Ok(()),
        Verb::EnsureConfigured { settings, .. } => settings.check().map_err(|error| malformed(error.to_string())),
        Verb::EnsureGrown { disk_gb, .. } => within("disk_gb", (*disk_gb).into(), 1, 10_240),
        Verb::RewriteValues { values, .. } => values.check().map_err(|error| malformed(error.to_string())),
        Verb::Confirm(confirm) => within("public_port", confirm.public_port.into(), 1, 65_535),
        Verb::EnsureCreated(spec) => spec.check().map_err(|error| malformed(error.to_string())),
        Verb::EnsureStopped { timeout_s, .. } => within("timeout_s", (*timeout_s).into(), 0, 600),
        Verb::AwaitNetwork { timeout_s, .. } => within("timeout_s", (*timeout_s).into(), 1, 600),
        Verb::InstallRecipe { recipe, .. } => recipe.check().map_err(|error| malformed(error.to_string())),
        Verb::AwaitHealthy { timeout_s, .. } => within("timeout_s", (*timeout_s).into(), 1, 3_600),
        Verb::EnsurePublished {
            public_port,
            address,
            port,
            ..
        } => {
            within("public_port", (*public_port).into(), 1, 65_535)?;
            within("port", (*port).into(), 1, 65_535)?;
            if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
                return Err(malformed(format!("{address} is not the address of a container")));
            }
            Ok(())
        }
        Verb::EnsureUnpublished { public_port, .. } => within("public_port", (*public_port).into(), 1, 65_535),
    }
}

/// Whether dropping the verb in the middle leaves nothing half done: it only waits.
pub(crate) fn only_waits(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::AwaitNetwork { .. } | Verb::AwaitHealthy { .. } | Verb::CheckFiles { .. }
    )
}

/// Whether most of it is waiting for what runs inside a container.
pub(crate) fn installs(verb: &Verb) -> bool {
    matches!(verb, Verb::InstallRecipe { .. } | Verb::RewriteValues { .. })
}

/// Whether a cancelled operation need not wait for its end: it only waits or reads, or what it leaves behind goes with what is taken back next. The tool of an
/// installation goes on until the container is stopped, that of a backup until it is told to end.
pub(crate) fn may_be_left(verb: &Verb) -> bool {
    only_waits(verb)
        || matches!(
            verb,
            Verb::InstallRecipe { .. } | Verb::EnsureBackedUp(_) | Verb::TestArchive { .. }
        )
}
