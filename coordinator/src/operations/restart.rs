//! `restart`: down and up again. What cannot be brought down goes on serving; what does not come up again is left stopped, unpublished and in `error`, from
//! where it can be started.

use super::{
    acts, start,
    step::{Act, Kind, Step, Undo, View},
    stop,
};
use proximity_protocol::fault::Fault;

/// Restarts an app.
pub static RESTART: Kind = Kind {
    name: "restart",
    forward_only: false,
    beside_app: false,
    done: start::running,
    undone: |view, why| {
        if start::is_left_as_it_was(view) || serves_again(view) {
            start::as_before(view)
        } else {
            start::failed(view, why)
        }
    },
    advice: start::START.advice,
    steps: &[
        acts::LOOK,
        Step {
            settle: acts::unpublished,
            undo: Some(Undo {
                changes: stop::published_again,
                ..Undo::plain(|view| back(view, stop::publish_again), stop::ANOTHER_ADDRESS)
            }),
            ..Step::plain("unpublish", "Close the port", acts::unpublish)
        },
        Step {
            undo: Some(Undo::plain(|view| back(view, stop::start_again), &[])),
            ..Step::plain("stop", "Stop the container", acts::stop)
        },
        start::RUN_START,
        start::RUN_SETTINGS,
        start::RUN_NETWORK,
        start::RUN_HEALTHY,
        start::RUN_PUBLISH,
    ],
};

/// Whether it failed on the way down (or was cancelled), so that it can go on as before. What failed on the way up would only fail again.
fn serves_again(view: &View<'_>) -> bool {
    match &view.operation.error {
        None => true,
        Some(error) => matches!(error["step"].as_str(), Some("unpublish" | "stop")),
    }
}

fn back(view: &View<'_>, act: fn(&View<'_>) -> Result<Act, Fault>) -> Result<Act, Fault> {
    if serves_again(view) {
        act(view)
    } else {
        Act::nothing("It stays down")
    }
}
