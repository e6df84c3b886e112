//! `start`: a container that is there runs, is healthy, and is published.

use super::{
    acts,
    step::{Change, Kind, Step, Undo, View},
};
use crate::domain::app_state::Status;

/// Starts an app.
pub static START: Kind = Kind {
    name: "start",
    forward_only: false,
    done: running,
    undone: failed,
    advice: |view| {
        format!(
            "On {}, bring container {} into order (`pct start`, `pct config`), then start or delete the app {}.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[RUN_START, RUN_NETWORK, RUN_HEALTHY, RUN_PUBLISH],
};

// From stopped to published: also the second half of a restart.
pub(super) const RUN_START: Step = Step {
    undo: Some(Undo {
        act: acts::stop_at_once,
        changes: |_| Vec::new(),
        gone: acts::GONE,
    }),
    ..Step::plain("start", "Start the container", acts::start)
};
pub(super) const RUN_NETWORK: Step = Step {
    settle: acts::network_settled,
    ..Step::waiting("network", "Wait for the network", acts::network)
};
pub(super) const RUN_HEALTHY: Step = Step::waiting("healthy", "Wait until the app is healthy", acts::healthy);
pub(super) const RUN_PUBLISH: Step = Step {
    settle: acts::published,
    undo: Some(Undo {
        act: acts::unpublish,
        changes: |_| vec![Change::Published(None)],
        gone: acts::GONE,
    }),
    ..Step::plain("publish", "Publish the port", acts::publish)
};

pub(super) fn running(_: &View<'_>) -> Vec<Change> {
    vec![Change::Status(Status::Running), Change::Reason(None)]
}

pub(super) fn failed(_: &View<'_>, why: &str) -> Vec<Change> {
    vec![Change::Status(Status::Error), Change::Reason(Some(why.to_owned()))]
}
