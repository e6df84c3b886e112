//! `restart`: down and up again. What fails leaves the app stopped, unpublished and in `error`, from where it can be started.

use super::{
    acts, start,
    step::{Kind, Step},
};

/// Restarts an app.
pub static RESTART: Kind = Kind {
    name: "restart",
    forward_only: false,
    done: start::running,
    undone: start::failed,
    advice: start::START.advice,
    steps: &[
        Step {
            settle: acts::unpublished,
            ..Step::plain("unpublish", "Close the port", acts::unpublish)
        },
        Step::plain("stop", "Stop the container", acts::stop),
        start::RUN_START,
        start::RUN_NETWORK,
        start::RUN_HEALTHY,
        start::RUN_PUBLISH,
    ],
};
