//! `migrate`: to another node of the cluster, stopped for the time of the move. What ran before runs there again and is published there; what cannot be brought up
//! there goes back to where it served.

use super::{
    acts,
    params::MigrateParams,
    start,
    step::{Act, Change, Kind, Step, Undo, View},
    stop,
};
use crate::domain::app_state::Status;
use proximity_protocol::{
    command::Verb,
    fault::Fault,
    ids::{NodeId, NodeName},
};

/// Moves an app.
pub static MIGRATE: Kind = Kind {
    name: "migrate",
    forward_only: false,
    beside_app: false,
    done: |view| {
        let status = if stop::was_running(view) {
            Status::Running
        } else {
            Status::Stopped
        };
        vec![Change::Status(status), Change::Reason(None)]
    },
    undone: |view, why| {
        if start::is_gone(view) {
            start::failed(view, why)
        } else {
            start::as_before(view)
        }
    },
    advice: |view| {
        format!(
            "See on which node container {} is (`pvesh get /cluster/resources --type vm`) and bring it into order there (`pct status`, `pct unlock` if a \
             migration left its lock; {} was asked last), then start, stop or delete the app {}.",
            view.app.vmid.unwrap_or_default(),
            view.node,
            view.app.id
        )
    },
    steps: &[
        acts::LOOK,
        stop::UNPUBLISH,
        stop::STOP_CONTAINER,
        Step {
            settle: |view, _| {
                let params: MigrateParams = view.params()?;
                Ok(vec![Change::Moved(params.to)])
            },
            undo: Some(Undo {
                changes: |view, _| {
                    let params = view.params::<MigrateParams>();
                    params
                        .map(|params| vec![Change::Moved(params.from)])
                        .unwrap_or_default()
                },
                ..Undo::plain(home, acts::GONE)
            }),
            ..Step::plain("migrate", "Move the container", away)
        },
        Step {
            act: |view| if_it_ran(view, acts::start),
            undo: Some(Undo::plain(|view| if_it_ran(view, acts::stop_at_once), acts::GONE)),
            ..start::RUN_START
        },
        start::RUN_SETTINGS,
        Step {
            act: |view| if_it_ran(view, acts::network),
            ..start::RUN_NETWORK
        },
        Step {
            act: |view| if_it_ran(view, acts::healthy),
            ..start::RUN_HEALTHY
        },
        Step {
            act: |view| if_it_ran(view, acts::publish),
            ..start::RUN_PUBLISH
        },
    ],
};

fn if_it_ran(view: &View<'_>, act: fn(&View<'_>) -> Result<Act, Fault>) -> Result<Act, Fault> {
    if stop::was_running(view) {
        act(view)
    } else {
        Act::nothing("It was not running before")
    }
}

fn away(view: &View<'_>) -> Result<Act, Fault> {
    let params: MigrateParams = view.params()?;
    go(view, params.to, params.to_name)
}

fn home(view: &View<'_>) -> Result<Act, Fault> {
    let params: MigrateParams = view.params()?;
    go(view, params.from, params.from_name)
}

fn go(view: &View<'_>, node: NodeId, to: NodeName) -> Result<Act, Fault> {
    let target = view.target()?;
    let says = if view.operation.node_id == Some(node) {
        format!("Seeing that container {} is on {to}", target.vmid)
    } else {
        format!("Moving container {} from {} to {to}", target.vmid, view.node)
    };
    Act::send(Verb::EnsureMigrated { target, to }, says)
}
