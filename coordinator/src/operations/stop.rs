//! `stop`: the port is closed, then the container shut down. The port stays reserved.

use super::{
    acts,
    params::ActionParams,
    start,
    step::{Act, Change, Kind, Step, Undo, View},
};
use crate::domain::app_state::Status;
use proximity_protocol::{
    command::Outcome,
    fault::{Fault, FaultKind},
};

/// Stops an app.
pub static STOP: Kind = Kind {
    name: "stop",
    forward_only: false,
    beside_app: false,
    done: |_| vec![Change::Status(Status::Stopped), Change::Reason(None)],
    undone: |view, why| {
        let looked = view
            .operation
            .error
            .as_ref()
            .is_none_or(|error| error["step"] != acts::LOOK.name);
        if start::is_left_as_it_was(view) || (looked && was_status(view, Status::Running) && was_running(view)) {
            // It is as before; the operation says why it could not be stopped.
            start::as_before(view)
        } else {
            start::failed(view, why)
        }
    },
    advice: |view| {
        format!(
            "On {}, bring container {} into order (`pct status`, `pct stop`), then stop, start or delete the app {}.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[acts::LOOK, UNPUBLISH, STOP_CONTAINER],
};

// From published to stopped, and back if it fails: also the first half of a migration.
pub(super) const UNPUBLISH: Step = Step {
    settle: acts::unpublished,
    undo: Some(Undo {
        changes: published_again,
        ..Undo::plain(publish_again, ANOTHER_ADDRESS)
    }),
    ..Step::plain("unpublish", "Close the port", acts::unpublish)
};
pub(super) const STOP_CONTAINER: Step = Step {
    undo: Some(Undo::plain(start_again, &[])),
    ..Step::plain("stop", "Stop the container", acts::stop)
};

/// Started again it may have got another address by DHCP. It runs; reconciliation publishes its port to where it is now.
pub(super) const ANOTHER_ADDRESS: &[FaultKind] = &[FaultKind::NotOurs];

fn was_status(view: &View<'_>, status: Status) -> bool {
    view.params::<ActionParams>().is_ok_and(|p| p.previous == status)
}

/// An operation that an earlier version began has not looked.
pub(super) fn was_running(view: &View<'_>) -> bool {
    view.data
        .was_running
        .unwrap_or_else(|| was_status(view, Status::Running))
}

pub(super) fn start_again(view: &View<'_>) -> Result<Act, Fault> {
    if was_running(view) {
        acts::start(view)
    } else {
        Act::nothing("It was not running before")
    }
}

pub(super) fn publish_again(view: &View<'_>) -> Result<Act, Fault> {
    if view.data.was_published.unwrap_or_else(|| was_running(view)) {
        acts::publish(view)
    } else {
        Act::nothing("It was not published before")
    }
}

pub(super) fn published_again(_: &View<'_>, outcome: &Outcome) -> Vec<Change> {
    match outcome {
        Outcome::Published { address } => vec![Change::Published(Some(*address))],
        _ => Vec::new(),
    }
}
