//! `verify`: proves that a backup can be restored. A container is made of it beside the app's, without any network, started, looked at from inside, and destroyed.
//! The app is not touched. What fails is told in the backup's row.

use super::{
    acts,
    restore::{
        can_be_made, healthy_target, look, made, make, new, side, start_target, stop_new, take_away, test, tested,
    },
    step::{Act, BackupChange, Change, Kind, SideChange, Step, Undo, View},
};
use proximity_protocol::{
    backup::RestoredNetwork,
    command::Verb,
    fault::{Fault, FaultKind},
};

/// Tries a backup out.
pub static VERIFY: Kind = Kind {
    name: "verify",
    forward_only: false,
    beside_app: true,
    done: |_| {
        vec![
            Change::Side(SideChange::Gone),
            Change::Backup(BackupChange::Restored { proven: true }),
        ]
    },
    undone: |view, why| {
        vec![
            Change::Side(SideChange::Gone),
            Change::Backup(BackupChange::not_restored(view, why)),
        ]
    },
    advice: |view| {
        let trial = side(view).map(|side| side.vmid.to_string()).unwrap_or_default();
        format!(
            "On {}, look at container {trial}, in which the backup was tried out (`pct config {trial}`: a lock, a storage that is away), and put right what stands in \
             the way; then let the operation go on.",
            view.node
        )
    },
    steps: &[
        Step {
            settle: |view, outcome| can_be_made(view, outcome).map(|_| Vec::new()),
            chooses: &[FaultKind::VmidTaken],
            ..Step::plain("reserve", "Look at the backup and the place for a container", |view| {
                look(view, None)
            })
        },
        Step {
            settle: tested,
            ..Step::plain("test", "Read the archive to its end", test)
        },
        Step {
            settle: made,
            chooses: &[FaultKind::VmidTaken],
            undo: Some(Undo::plain(take_away, acts::GONE)),
            ..Step::plain("restore", "Make a container without network of the backup", |view| {
                make(view, RestoredNetwork::Cut)
            })
        },
        Step {
            undo: Some(Undo::plain(stop_new, acts::GONE)),
            ..Step::plain("start", "Start it", |view| start_target(view, new(view)?))
        },
        Step {
            ends: &[FaultKind::Unhealthy],
            ..Step::waiting("files", "See that its files are there", files)
        },
        Step {
            ends: &[FaultKind::Unhealthy],
            ..Step::waiting("healthy", "Wait until the app in it is healthy", healthy)
        },
        Step {
            already: acts::GONE,
            ..Step::plain("destroy", "Remove the container", take_away)
        },
    ],
};

fn files(view: &View<'_>) -> Result<Act, Fault> {
    let target = new(view)?;
    let says = format!("Looking at the files in container {}", target.vmid);
    Act::send(Verb::CheckFiles { target, timeout_s: 60 }, says)
}

fn healthy(view: &View<'_>) -> Result<Act, Fault> {
    if view.app.adopted {
        return Act::nothing("An adopted container has no health check of ours; its files are there");
    }
    healthy_target(view, new(view)?)
}
