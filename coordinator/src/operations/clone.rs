//! `clone`: a new app with a copy of another's container, on the same node or on one of its host that reaches the same storage. The copy is a backup of the source,
//! which goes on as the backup's mode lets it, made into a container under the new app's number, name and address; the archive goes once it has served. Nothing
//! of the source changes.

use super::{
    acts, deploy,
    params::CloneParams,
    restore::healthy_target,
    start,
    step::{Act, Change, Kind, Step, Undo, View, internal, unexpected},
};
use crate::domain::app_state::Status;
use proximity_protocol::{
    backup::{ArchiveRef, ArchivesToDelete, BackupSpec, RestoreSpec, RestoredNetwork},
    command::{Outcome, Verb},
    fault::{Fault, FaultKind},
    ids::Hostname,
    spec::Settings,
};

/// Makes an app of another.
pub static CLONE: Kind = Kind {
    name: "clone",
    forward_only: false,
    beside_app: false,
    done: |_| vec![Change::Status(Status::Running), Change::Reason(None)],
    undone: |_, why| {
        vec![
            Change::FreeReservations,
            Change::Status(Status::Error),
            Change::Reason(Some(why.to_owned())),
        ]
    },
    advice: |view| {
        format!(
            "On {}, look at container {} (`pct config`, `pct status`) and at the storage of the copy, and remove what stands in the way; then delete the app {}: that \
             removes what is left and frees its VMID, port and address.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[
        Step {
            chooses: &[FaultKind::VmidTaken, FaultKind::PortTaken, FaultKind::AddressTaken],
            ..Step::plain("reserve", "Confirm VMID, port and address on the node", reserve)
        },
        Step {
            settle: |_, outcome| match outcome {
                Outcome::BackedUp(made) => Ok(vec![Change::Archive(made.archive.clone())]),
                other => Err(unexpected(other)),
            },
            // It goes on all the same; a second one beside it would wait for it.
            ends: &[FaultKind::DeadlineExceeded],
            undo: Some(Undo::plain(tidy, acts::GONE)),
            ..Step::plain("copy", "Copy the container of the other app", copy)
        },
        Step {
            settle: deploy::created,
            chooses: &[FaultKind::VmidTaken],
            undo: Some(Undo {
                changes: |_, _| vec![Change::Destroyed],
                ..Undo::plain(acts::destroy, acts::GONE)
            }),
            ..Step::plain("create", "Make a container of the copy", create)
        },
        Step::plain("tidy", "Remove the copy", tidy),
        start::RUN_START,
        start::RUN_NETWORK,
        Step {
            ends: &[FaultKind::Unhealthy],
            ..Step::waiting("healthy", "Wait until the app is healthy", |view| {
                healthy_target(view, view.target()?)
            })
        },
        Step {
            chooses: &[FaultKind::PortTaken],
            ..start::RUN_PUBLISH
        },
        Step::plain("arm", "Let the container start with its node", |view| {
            let target = view.target()?;
            let says = format!("Container {} starts with {} from now on", target.vmid, view.node);
            Act::send(Verb::EnsureOnboot { target, onboot: true }, says)
        }),
    ],
};

fn params(view: &View<'_>) -> Result<CloneParams, Fault> {
    view.params()
}

fn reserve(view: &View<'_>) -> Result<Act, Fault> {
    deploy::confirm(view, params(view)?.network.bridge)
}

fn copy(view: &View<'_>) -> Result<Act, Fault> {
    let params = params(view)?;
    let says = format!(
        "Copying container {} of {} to {} ({} mode)",
        params.source.vmid,
        params.source.owner.app,
        params.copy_storage,
        params.mode.as_str()
    );
    let act = Act::send(
        Verb::EnsureBackedUp(BackupSpec {
            target: params.source,
            storage: params.copy_storage,
            mode: params.mode,
            compression: params.compression,
        }),
        says,
    );
    Ok(act?.at(params.source_node))
}

/// Of what was copied nothing is left.
fn tidy(view: &View<'_>) -> Result<Act, Fault> {
    let params = params(view)?;
    let says = format!("Removing the copy from {}", params.copy_storage);
    let act = Act::send(
        Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation {
            target: params.source,
            storage: params.copy_storage,
        }),
        says,
    );
    Ok(act?.at(params.source_node))
}

fn create(view: &View<'_>) -> Result<Act, Fault> {
    let params = params(view)?;
    let target = view.target()?;
    let resources = &view.app.resources;
    let archive = view
        .data
        .archive
        .clone()
        .ok_or_else(|| internal("the step before made no copy"))?;
    let hostname =
        Hostname::new(&view.app.hostname).map_err(|e| internal(format!("the registry holds a bad host name: {e}")))?;
    let says = format!(
        "Making container {} of the copy on {} ({})",
        target.vmid, view.node, resources.storage
    );
    Act::send(
        Verb::EnsureRestored(RestoreSpec {
            vmid: target.vmid,
            owner: target.owner,
            archive: ArchiveRef {
                archive,
                app: params.source.owner.app,
                vmid: params.source.vmid,
            },
            storage: resources.storage.clone(),
            hostname: Some(hostname),
            network: RestoredNetwork::Replaced(deploy::network(view, params.network)?),
            settings: Settings {
                cpu_cores: Some(resources.cpu_cores),
                memory_mb: Some(resources.memory_mb),
                swap_mb: Some(resources.swap_mb),
            },
            disk_gb: Some(resources.disk_gb),
            of_adopted: false,
        }),
        says,
    )
}
