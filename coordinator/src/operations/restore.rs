//! `restore`: the app comes back from a backup, in a new container beside the one that it has. The backup is read to its end, the new container is made and looked
//! at while the old one serves; then the old one is stopped, the new one started with the same address, and when it is healthy the app is the new one. Whatever
//! fails before that takes the new one away again and starts the old one.
//!
//! What was stopped stays stopped: its new container is looked at, and not started. The old container is kept (`side_containers`) and goes later, by `discard`.

use super::{
    acts,
    params::{ActionParams, RestoreParams},
    start,
    step::{Act, BackupChange, Change, Kind, SideChange, Step, Undo, View, internal, unexpected},
    stop,
};
use crate::{
    domain::{app_state::Status, side_containers::SideRole},
    store::side_containers::SideRow,
};
use proximity_protocol::{
    backup::{ArchiveRef, BackupFacts, BackupQuestion, PlaceQuestion, RestoreSpec, RestoredNetwork},
    command::{Outcome, Target, Verb},
    fault::{Fault, FaultKind},
    ids::Hostname,
};

/// Brings an app back from a backup.
pub static RESTORE: Kind = Kind {
    name: "restore",
    forward_only: false,
    beside_app: false,
    done: |view| {
        let runs = runs_afterwards(view);
        let status = if runs { Status::Running } else { Status::Stopped };
        vec![
            Change::Side(SideChange::TakesOver),
            Change::Backup(BackupChange::Restored {
                proven: runs && !view.app.adopted,
            }),
            Change::Status(status),
            Change::Reason(None),
        ]
    },
    undone: |view, why| {
        let mut changes = vec![
            Change::Side(SideChange::Gone),
            Change::Backup(BackupChange::not_restored(view, why)),
        ];
        changes.extend(start::as_before(view));
        if view.params::<ActionParams>().is_ok_and(|p| p.previous == Status::Error) {
            changes.push(Change::Reason(Some(why.to_owned())));
        }
        changes
    },
    advice: |view| {
        let new = side(view).map(|side| side.vmid.to_string()).unwrap_or_default();
        format!(
            "On {}, look at container {new} that was to take the place of {} (`pct config {new}`) and at the storages of both (a lock, a storage that is full or \
             away), put right what stands in the way, then let the operation go on, or abandon it and start the app {}.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[
        Step {
            settle: looked,
            chooses: &[FaultKind::VmidTaken],
            ..Step::plain(
                "reserve",
                "Look at the backup, the container and the place for a new one",
                reserve,
            )
        },
        Step {
            settle: tested,
            ..Step::plain("test", "Read the archive to its end", test)
        },
        Step {
            settle: made,
            chooses: &[FaultKind::VmidTaken],
            undo: Some(Undo::plain(take_away, acts::GONE)),
            ..Step::plain("restore", "Make a container of the backup", restore)
        },
        Step {
            already: acts::GONE,
            ..stop::UNPUBLISH
        },
        Step {
            undo: Some(Undo::plain(unretire, acts::GONE)),
            ..Step::plain("retire", "Keep the old container from starting with its node", retire)
        },
        Step {
            act: |view| if_old(view, acts::stop),
            undo: Some(Undo::plain(|view| if_old(view, stop::start_again), &[])),
            ..stop::STOP_CONTAINER
        },
        Step {
            undo: Some(Undo::plain(stop_new, acts::GONE)),
            ..Step::plain("start", "Start the new container", |view| if_runs(view, start_target))
        },
        Step {
            settle: |_, outcome| match outcome {
                Outcome::Network { address } => Ok(vec![Change::Side(SideChange::Address(*address))]),
                other => Err(unexpected(other)),
            },
            ..Step::waiting("network", "Wait for the network", network)
        },
        Step {
            // The old one serves again instead of waiting for further tries.
            ends: &[FaultKind::Unhealthy],
            ..Step::waiting("healthy", "Wait until the app is healthy", healthy)
        },
        Step {
            settle: |_, outcome| match outcome {
                Outcome::Published { address } => Ok(vec![Change::Side(SideChange::Published(*address))]),
                other => Err(unexpected(other)),
            },
            undo: Some(Undo::plain(unpublish, acts::GONE)),
            ..Step::plain("publish", "Publish the port", publish)
        },
        Step::plain("arm", "Let the new container start with its node", arm),
    ],
};

/// The container beside the app's that this operation makes.
pub(super) fn side<'v>(view: &'v View<'_>) -> Result<&'v SideRow, Fault> {
    view.side
        .iter()
        .find(|side| side.operation_id == view.operation.id && side.role != SideRole::Previous)
        .ok_or_else(|| internal("the registry holds no number for the new container"))
}

pub(super) fn new(view: &View<'_>) -> Result<Target, Fault> {
    side(view).map(SideRow::target)
}

fn params(view: &View<'_>) -> Result<RestoreParams, Fault> {
    view.params()
}

/// Whether it serves when it has ended: as it did before, whatever of it is there.
fn runs_afterwards(view: &View<'_>) -> bool {
    params(view).is_ok_and(|params| params.previous != Status::Stopped)
}

fn has_old(view: &View<'_>) -> bool {
    params(view).is_ok_and(|params| params.has_old) && !view.data.old_is_gone
}

fn archive(view: &View<'_>, params: &RestoreParams) -> ArchiveRef {
    ArchiveRef {
        archive: params.archive.clone(),
        app: view.app.id.clone(),
        vmid: params.archive_vmid,
    }
}

fn if_old(view: &View<'_>, act: fn(&View<'_>) -> Result<Act, Fault>) -> Result<Act, Fault> {
    if has_old(view) {
        act(view)
    } else {
        Act::nothing("There is no container any more that it takes the place of")
    }
}

fn reserve(view: &View<'_>) -> Result<Act, Fault> {
    let old = if params(view)?.has_old {
        view.target_if_any()?
    } else {
        None
    };
    look(view, old)
}

/// Asks whether a container can be made of the archive, and how the old one stands.
pub(super) fn look(view: &View<'_>, old: Option<Target>) -> Result<Act, Fault> {
    let params = params(view)?;
    if let Some(node) = params.archive_node
        && view.operation.node_id != Some(node)
    {
        return Err(Fault::new(
            FaultKind::NotPossible,
            format!(
                "the backup is on a storage that only the node reaches that made it, and the app is on {} now: move the app back there first",
                view.node
            ),
        ));
    }
    let new = new(view)?;
    let says = format!(
        "Looking at {} and whether container {} can be made of it on {}",
        params.archive, new.vmid, view.node
    );
    Act::send(
        Verb::BackupFacts(BackupQuestion {
            target: old,
            storage: None,
            archive: Some(archive(view, &params)),
            place: Some(PlaceQuestion {
                vmid: new.vmid,
                owner: new.owner,
                storage: params.storage,
                bridge: None,
            }),
        }),
        says,
    )
}

/// Whether one can.
pub(super) fn can_be_made<'o>(view: &View<'_>, outcome: &'o Outcome) -> Result<&'o BackupFacts, Fault> {
    let Outcome::BackupFacts(facts) = outcome else {
        return Err(unexpected(outcome));
    };
    let params = params(view)?;
    let Some(archive) = &facts.archive else {
        return Err(Fault::new(
            FaultKind::ArchiveMissing,
            format!(
                "backup {} is not on its storage any more: somebody else removed it",
                params.archive
            ),
        ));
    };
    match &archive.refused {
        Some(why) => Err(Fault::new(
            FaultKind::NotPossible,
            format!("no container is made of backup {}: {why}", params.archive),
        )),
        None => Ok(facts),
    }
}

fn looked(view: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    let old = can_be_made(view, outcome)?.container.as_ref();
    let running = old.is_some_and(|old| old.running);
    Ok(vec![
        Change::Stood {
            running,
            // What ran is published; if it was not, reconciliation would have done it.
            published: running,
        },
        Change::Side(SideChange::OldStood {
            gone: old.is_none(),
            onboot: old.is_some_and(|old| old.onboot),
        }),
    ])
}

pub(super) fn test(view: &View<'_>) -> Result<Act, Fault> {
    let params = params(view)?;
    let says = format!("Testing {}", params.archive);
    let archive = archive(view, &params);
    Act::send(
        Verb::TestArchive {
            archive,
            sha256: params.sha256,
        },
        says,
    )
}

pub(super) fn tested(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Tested(tested) => Ok(vec![Change::Backup(BackupChange::Tested(tested.clone()))]),
        other => Err(unexpected(other)),
    }
}

fn restore(view: &View<'_>) -> Result<Act, Fault> {
    let network = match view.target_if_any()? {
        Some(old) if has_old(view) => RestoredNetwork::Of(old),
        _ => RestoredNetwork::AsSaved,
    };
    make(view, network)
}

/// Makes the new container with that network.
pub(super) fn make(view: &View<'_>, network: RestoredNetwork) -> Result<Act, Fault> {
    let params = params(view)?;
    let new = new(view)?;
    let says = format!(
        "Making container {} of {} on {} ({})",
        new.vmid, params.archive, view.node, params.storage
    );
    let archive = archive(view, &params);
    let hostname =
        Hostname::new(&view.app.hostname).map_err(|e| internal(format!("the registry holds a bad host name: {e}")))?;
    Act::send(
        Verb::EnsureRestored(RestoreSpec {
            vmid: new.vmid,
            owner: new.owner,
            archive,
            storage: params.storage,
            hostname: (!view.app.adopted).then_some(hostname),
            network,
            settings: params.settings,
            disk_gb: params.disk_gb,
            of_adopted: view.app.adopted,
        }),
        says,
    )
}

pub(super) fn made(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Created { mac } => Ok(vec![Change::Side(SideChange::Made(mac.clone()))]),
        other => Err(unexpected(other)),
    }
}

pub(super) fn take_away(view: &View<'_>) -> Result<Act, Fault> {
    let target = new(view)?;
    let says = format!("Removing container {} from {}", target.vmid, view.node);
    Act::send(Verb::EnsureDestroyed(target), says)
}

fn onboot(view: &View<'_>, target: Target, onboot: bool) -> Result<Act, Fault> {
    let says = format!(
        "Container {} {} with {} from now on",
        target.vmid,
        if onboot { "starts" } else { "does not start" },
        view.node
    );
    Act::send(Verb::EnsureOnboot { target, onboot }, says)
}

fn retire(view: &View<'_>) -> Result<Act, Fault> {
    if_old(view, |view| onboot(view, view.target()?, false))
}

fn unretire(view: &View<'_>) -> Result<Act, Fault> {
    if view.data.was_onboot == Some(true) {
        if_old(view, |view| onboot(view, view.target()?, true))
    } else {
        Act::nothing("It did not start with its node before")
    }
}

fn arm(view: &View<'_>) -> Result<Act, Fault> {
    if has_old(view) && view.data.was_onboot == Some(false) {
        return Act::nothing("The old one did not start with its node either");
    }
    onboot(view, new(view)?, true)
}

fn if_runs(view: &View<'_>, act: fn(&View<'_>, Target) -> Result<Act, Fault>) -> Result<Act, Fault> {
    if runs_afterwards(view) {
        act(view, new(view)?)
    } else {
        Act::nothing("The app was stopped before, and stays so")
    }
}

pub(super) fn start_target(view: &View<'_>, target: Target) -> Result<Act, Fault> {
    let says = format!("Starting container {} on {}", target.vmid, view.node);
    Act::send(Verb::EnsureStarted(target), says)
}

pub(super) fn stop_new(view: &View<'_>) -> Result<Act, Fault> {
    let target = new(view)?;
    let says = format!("Stopping container {} on {}", target.vmid, view.node);
    Act::send(Verb::EnsureStopped { target, timeout_s: 0 }, says)
}

fn network(view: &View<'_>) -> Result<Act, Fault> {
    if_runs(view, |view, target| {
        let says = format!("Waiting until container {} has its address", target.vmid);
        Act::send(
            Verb::AwaitNetwork {
                target,
                expect: view.reserved_address,
                timeout_s: view.data.timeouts.network_s,
            },
            says,
        )
    })
}

fn healthy(view: &View<'_>) -> Result<Act, Fault> {
    if view.app.adopted {
        return Act::nothing("An adopted container has no health check of ours");
    }
    if_runs(view, healthy_target)
}

pub(super) fn healthy_target(view: &View<'_>, target: Target) -> Result<Act, Fault> {
    let params: ActionParams = view.params()?;
    let timeout_s = params.health_timeout_s;
    let says = format!("Waiting until {} is healthy (at most {timeout_s} s)", view.app.name);
    Act::send(Verb::AwaitHealthy { target, timeout_s }, says)
}

fn publish(view: &View<'_>) -> Result<Act, Fault> {
    if_runs(view, |view, target| {
        let address = view.data.side_address.or(view.app.ip_address);
        let (Some(public_port), Some(address)) = (view.app.public_port, address) else {
            return Err(internal(format!(
                "{} has no port or no address to publish",
                view.app.hostname
            )));
        };
        let port = view.app.internal_port;
        let says = format!("Publishing port {public_port} of {} to {address}:{port}", view.node);
        Act::send(
            Verb::EnsurePublished {
                target,
                public_port,
                address,
                port,
            },
            says,
        )
    })
}

fn unpublish(view: &View<'_>) -> Result<Act, Fault> {
    let Some(public_port) = view.app.public_port else {
        return Act::nothing("No port was published");
    };
    let target = new(view)?;
    let says = format!("Closing port {public_port} of {}", view.node);
    Act::send(Verb::EnsureUnpublished { target, public_port }, says)
}
