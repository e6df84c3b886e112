//! `start`: a container that is there runs, is healthy, and is published.

use super::{
    acts,
    params::ActionParams,
    step::{Act, Change, Kind, Step, Undo, View},
};
use crate::domain::app_state::Status;
use proximity_protocol::fault::{Fault, FaultKind};

/// Starts an app.
pub static START: Kind = Kind {
    name: "start",
    forward_only: false,
    beside_app: false,
    done: running,
    undone: |view, why| {
        if is_left_as_it_was(view) {
            as_before(view)
        } else {
            failed(view, why)
        }
    },
    advice: |view| {
        format!(
            "On {}, bring container {} into order (`pct start`, `pct config`), then start or delete the app {}.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[
        acts::LOOK,
        Step {
            undo: Some(Undo::plain(stop_if_it_stood, acts::GONE)),
            ..RUN_START
        },
        RUN_SETTINGS,
        RUN_NETWORK,
        RUN_HEALTHY,
        RUN_PUBLISH,
    ],
};

// From stopped to published: also the second half of a restart.
pub(super) const RUN_START: Step = Step {
    undo: Some(Undo::plain(acts::stop_at_once, acts::GONE)),
    ..Step::plain("start", "Start the container", acts::start)
};
pub(super) const RUN_SETTINGS: Step = Step {
    settle: acts::pending_settled,
    ..Step::plain("settings", "See which settings still wait", acts::pending)
};
pub(super) const RUN_NETWORK: Step = Step {
    settle: acts::network_settled,
    ..Step::waiting("network", "Wait for the network", acts::network)
};
pub(super) const RUN_HEALTHY: Step = Step::waiting("healthy", "Wait until the app is healthy", acts::healthy);
pub(super) const RUN_PUBLISH: Step = Step {
    settle: acts::published,
    undo: Some(Undo {
        changes: |_, _| vec![Change::Published(None)],
        ..Undo::plain(acts::unpublish, acts::GONE)
    }),
    ..Step::plain("publish", "Publish the port", acts::publish)
};

/// What ran before is not stopped because it could not be published.
fn stop_if_it_stood(view: &View<'_>) -> Result<Act, Fault> {
    if view.data.was_running == Some(true) {
        Act::nothing("It ran before")
    } else {
        acts::stop_at_once(view)
    }
}

pub(super) fn running(_: &View<'_>) -> Vec<Change> {
    vec![Change::Status(Status::Running), Change::Reason(None)]
}

pub(super) fn failed(_: &View<'_>, why: &str) -> Vec<Change> {
    vec![Change::Status(Status::Error), Change::Reason(Some(why.to_owned()))]
}

/// The status from before the operation.
pub(super) fn as_before(view: &View<'_>) -> Vec<Change> {
    match view.params::<ActionParams>() {
        Ok(params) => vec![Change::Status(params.previous)],
        Err(_) => Vec::new(),
    }
}

/// Whether nothing is to be told of the app itself: somebody changed their mind, or the node could not be looked at. That there is no container of the app is
/// told.
pub(super) fn is_left_as_it_was(view: &View<'_>) -> bool {
    match &view.operation.error {
        None => true,
        Some(error) => error["step"] == acts::LOOK.name && !is_gone(view),
    }
}

/// Whether it failed because there is no container of the app.
pub(super) fn is_gone(view: &View<'_>) -> bool {
    let kind = view.operation.error.as_ref().map(|error| error["kind"].clone());
    let kind = kind.and_then(|kind| serde_json::from_value::<FaultKind>(kind).ok());
    matches!(kind, Some(FaultKind::ContainerMissing | FaultKind::NotOurs))
}
