//! `publish`: the port of a running app leads to its container again. Queued by reconciliation when the node's table lost the entry or the container's
//! address may have changed.

use super::{
    acts, start,
    step::{Kind, Step},
};

/// Publishes a running app again.
pub static PUBLISH: Kind = Kind {
    name: "publish",
    forward_only: false,
    beside_app: false,
    // It runs all the while; `publish` has noted where the port answers.
    done: |_| Vec::new(),
    undone: |view, why| {
        if view.operation.error.is_none() {
            // Cancelled: it goes on running, and reconciliation asks again.
            Vec::new()
        } else {
            start::failed(view, why)
        }
    },
    advice: start::START.advice,
    steps: &[
        start::RUN_NETWORK,
        Step {
            settle: acts::published,
            ..Step::plain("publish", "Publish the port", acts::publish)
        },
    ],
};
