//! `delete`: port, containers and reservations go, then the app's row. There is no way back, so it only goes forward: a fault is tried again, and in the end
//! the operator is told what stands in the way.

use super::{
    acts, discard,
    step::{Change, Kind, Step},
};

/// Removes an app for good.
pub static DELETE: Kind = Kind {
    name: "delete",
    forward_only: true,
    beside_app: false,
    done: |_| vec![Change::FreeReservations, Change::RemoveApp],
    undone: |_, _| Vec::new(),
    advice: |view| match view.app.vmid {
        Some(vmid) => format!(
            "On {node}, look at container {vmid} (`pct config {vmid}`: a lock, a protection flag, a storage that is full or away) and remove what stands in \
             the way; then delete the app {id} again.",
            node = view.node,
            id = view.app.id
        ),
        None => format!("Delete the app {} again.", view.app.id),
    },
    steps: &[
        Step {
            settle: acts::unpublished,
            already: acts::GONE,
            ..Step::plain("unpublish", "Close the port", acts::unpublish)
        },
        Step {
            already: acts::GONE,
            ..Step::plain("stop", "Stop the container", acts::stop)
        },
        Step {
            settle: |_, _| Ok(vec![Change::Destroyed]),
            already: acts::GONE,
            ..Step::plain("destroy", "Remove the container", acts::destroy)
        },
        discard::OTHERS,
    ],
};
