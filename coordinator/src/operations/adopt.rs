//! `adopt`: a container that somebody else made becomes an app's. Its port is published as any app's is; the container itself is not changed, on the way there
//! and back, and nothing runs inside it. One that stands still stays so: its port is published when it is started.

use super::{
    acts,
    step::{Act, Change, Kind, Step, Undo, View, unexpected},
};
use crate::domain::app_state::Status;
use proximity_protocol::{
    command::{Outcome, Verb},
    fault::{Fault, FaultKind},
};

/// Adopts a container.
pub static ADOPT: Kind = Kind {
    name: "adopt",
    forward_only: false,
    beside_app: false,
    done: |view| {
        let status = if runs(view) { Status::Running } else { Status::Stopped };
        vec![Change::Status(status), Change::Reason(None)]
    },
    undone: |_, why| {
        vec![
            Change::FreeReservations,
            Change::Status(Status::Error),
            Change::Reason(Some(why.to_owned())),
        ]
    },
    advice: |view| {
        format!(
            "On {}, look at container {} (`pct config`, `pct status`: a lock, a migration) and at /etc/pve/priv/proximity; then delete the app {}, which lets go of the \
             container and leaves it as it is.",
            view.node,
            view.app.vmid.unwrap_or_default(),
            view.app.id
        )
    },
    steps: &[
        Step {
            settle: adopted,
            undo: Some(Undo {
                changes: |_, _| vec![Change::Destroyed],
                ..Undo::plain(acts::release, acts::GONE)
            }),
            ..Step::plain("adopt", "Take the container over", adopt)
        },
        Step {
            settle: acts::network_settled,
            ..Step::waiting("network", "Find the container's address", |view| {
                if_it_runs(view, acts::network)
            })
        },
        Step {
            settle: acts::published,
            chooses: &[FaultKind::PortTaken],
            undo: Some(Undo {
                changes: |_, _| vec![Change::Published(None)],
                ..Undo::plain(acts::unpublish, acts::GONE)
            }),
            ..Step::plain("publish", "Publish the port", |view| if_it_runs(view, acts::publish))
        },
    ],
};

fn runs(view: &View<'_>) -> bool {
    view.data.was_running == Some(true)
}

fn if_it_runs(view: &View<'_>, act: fn(&View<'_>) -> Result<Act, Fault>) -> Result<Act, Fault> {
    if runs(view) {
        act(view)
    } else {
        Act::nothing("The container does not run; its port is published when it is started")
    }
}

fn adopt(view: &View<'_>) -> Result<Act, Fault> {
    let target = view.target()?;
    let says = format!(
        "Taking over container {} on {}; it stays as it is",
        target.vmid, view.node
    );
    Act::send(Verb::EnsureAdopted(target), says)
}

fn adopted(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Adopted(found) => Ok(vec![
            Change::Adopted {
                mac: found.mac.clone(),
                configuration: found.configuration.clone(),
            },
            Change::Stood {
                running: found.running,
                published: false,
            },
        ]),
        other => Err(unexpected(other)),
    }
}
