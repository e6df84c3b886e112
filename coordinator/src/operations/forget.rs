//! `forget`: the deletion of an adopted app. The port is closed, the node's record removed, and the container is left as it is, running or not. It only goes
//! forward, as every deletion.

use super::{
    acts, discard,
    step::{Change, Kind, Step},
};

/// Lets go of an adopted container for good.
pub static FORGET: Kind = Kind {
    name: "forget",
    forward_only: true,
    beside_app: false,
    done: |_| vec![Change::FreeReservations, Change::RemoveApp],
    undone: |_, _| Vec::new(),
    advice: |view| match view.app.vmid {
        Some(vmid) => format!(
            "On {node}, look why its record of container {vmid} in /etc/pve/priv/proximity cannot be removed or its port closed (`proximity-agent doctor`); then \
             delete the app {id} again.",
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
            settle: |_, _| Ok(vec![Change::Destroyed]),
            already: acts::GONE,
            ..Step::plain("release", "Let go of the container", acts::release)
        },
        discard::OTHERS,
    ],
};
