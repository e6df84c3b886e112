//! `backup`: an archive of the container is made and read from its beginning to its end, so that one that is listed can be restored. The app goes on as its mode
//! lets it, and keeps its status: a backup that fails is told in the backup's row. The way back removes whatever was made.

use super::{
    acts,
    params::BackupParams,
    step::{Act, BackupChange, Change, Kind, Step, Undo, View, internal, unexpected},
};
use proximity_protocol::{
    backup::{ArchiveRef, ArchivesToDelete, BackupSpec},
    command::{Outcome, Target, Verb},
    fault::{Fault, FaultKind},
};

/// Makes a backup.
pub static BACKUP: Kind = Kind {
    name: "backup",
    forward_only: false,
    beside_app: true,
    done: |_| vec![Change::Backup(BackupChange::Completed)],
    undone: |_, why| vec![Change::Backup(BackupChange::Failed(why.to_owned()))],
    advice: |view| {
        format!(
            "On {}, look at container {} (`pct config`: a lock, a snapshot called vzdump) and at the storage of the backup (a leftover of vzdump); then make the \
             backup again.",
            view.node,
            view.app.vmid.unwrap_or_default()
        )
    },
    steps: &[
        Step {
            settle: made,
            // It goes on all the same; a second one beside it would wait for it.
            ends: &[FaultKind::DeadlineExceeded],
            undo: Some(Undo::plain(take_back, acts::GONE)),
            ..Step::plain("back_up", "Back the container up", back_up)
        },
        Step {
            settle: tested,
            ..Step::plain("test", "Read the archive to its end", test)
        },
    ],
};

/// The container of which the backup is, whatever is the app's present one.
fn target(view: &View<'_>) -> Result<(BackupParams, Target), Fault> {
    let params: BackupParams = view.params()?;
    let target = view.target()?;
    Ok((params, target))
}

fn back_up(view: &View<'_>) -> Result<Act, Fault> {
    let (params, target) = target(view)?;
    let says = format!(
        "Backing up container {} on {} to {} ({} mode)",
        target.vmid,
        view.node,
        params.storage,
        params.mode.as_str()
    );
    Act::send(
        Verb::EnsureBackedUp(BackupSpec {
            target,
            storage: params.storage,
            mode: params.mode,
            compression: params.compression,
        }),
        says,
    )
}

fn made(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::BackedUp(made) => Ok(vec![Change::Backup(BackupChange::Made(made.clone()))]),
        other => Err(unexpected(other)),
    }
}

fn take_back(view: &View<'_>) -> Result<Act, Fault> {
    let (params, target) = target(view)?;
    let says = format!("Removing what was made of the backup on {}", params.storage);
    Act::send(
        Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation {
            target,
            storage: params.storage,
        }),
        says,
    )
}

fn test(view: &View<'_>) -> Result<Act, Fault> {
    let archive = view
        .data
        .archive
        .clone()
        .ok_or_else(|| internal("the backup has no archive"))?;
    let says = format!("Testing {archive}");
    let archive = ArchiveRef {
        archive,
        app: view.app.id.clone(),
        vmid: view.target()?.vmid,
    };
    Act::send(Verb::TestArchive { archive, sha256: None }, says)
}

fn tested(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Tested(tested) => Ok(vec![Change::Backup(BackupChange::Tested(tested.clone()))]),
        other => Err(unexpected(other)),
    }
}
