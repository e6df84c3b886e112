//! `stop`: the port is closed, then the container shut down. The port stays reserved.

use super::{
    acts,
    params::ActionParams,
    step::{Act, Change, Kind, Step, Undo, View},
};
use crate::domain::app_state::Status;
use proximity_protocol::{command::Outcome, fault::Fault};

/// Stops an app.
pub static STOP: Kind = Kind {
    name: "stop",
    forward_only: false,
    done: |_| vec![Change::Status(Status::Stopped), Change::Reason(None)],
    undone: |view, why| {
        if was_running(view) {
            // It serves as before; the operation says why it could not be stopped.
            vec![Change::Status(Status::Running), Change::Reason(None)]
        } else {
            vec![Change::Status(Status::Error), Change::Reason(Some(why.to_owned()))]
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
    steps: &[
        Step {
            settle: acts::unpublished,
            undo: Some(Undo {
                act: publish_again,
                changes: published_again,
                gone: acts::GONE,
            }),
            ..Step::plain("unpublish", "Close the port", acts::unpublish)
        },
        Step {
            undo: Some(Undo {
                act: start_again,
                changes: |_| Vec::new(),
                gone: acts::GONE,
            }),
            ..Step::plain("stop", "Stop the container", acts::stop)
        },
    ],
};

fn was_running(view: &View<'_>) -> bool {
    view.params::<ActionParams>()
        .is_ok_and(|p| p.previous == Status::Running)
}

pub(super) fn start_again(view: &View<'_>) -> Result<Act, Fault> {
    if was_running(view) {
        acts::start(view)
    } else {
        Act::nothing("It was not running before")
    }
}

pub(super) fn publish_again(view: &View<'_>) -> Result<Act, Fault> {
    if was_running(view) {
        acts::publish(view)
    } else {
        Act::nothing("It was not published before")
    }
}

pub(super) fn published_again(outcome: &Outcome) -> Vec<Change> {
    match outcome {
        Outcome::Published { address } => vec![Change::Published(Some(*address))],
        _ => Vec::new(),
    }
}
