//! `discard`: the container that was kept when another took its place goes, once the new one is seen to be healthy. One that was there before its app is only let
//! go. It works beside the app; what cannot be removed now is kept, and tried again later.

use super::{
    acts,
    params::{DEFAULT_HEALTH_TIMEOUT_S, DiscardParams},
    restore::healthy_target,
    step::{Act, Change, Kind, SideChange, Step, View, internal},
    submit::{self, Requester},
};
use crate::{
    clock::UnixMs,
    store::{
        Connection, StoreError,
        apps::AppRow,
        side_containers::{self, SideRow},
    },
};
use proximity_protocol::{command::Verb, fault::Fault, ids::OperationId};

/// Removes a container that is kept beside an app.
pub static DISCARD: Kind = Kind {
    name: "discard",
    forward_only: false,
    beside_app: true,
    done: |_| Vec::new(),
    undone: |view, why| match view.params::<DiscardParams>() {
        Ok(params) => vec![Change::Side(SideChange::Stays(params.vmid, why.to_owned()))],
        Err(_) => Vec::new(),
    },
    advice: |view| {
        format!(
            "On {}, look at the container that is to go (`pct config`), then ask again.",
            view.node
        )
    },
    steps: &[
        Step::waiting("healthy", "See that the app is healthy without it", healthy),
        Step {
            settle: |view, _| {
                let params: DiscardParams = view.params()?;
                Ok(vec![Change::Side(SideChange::Removed(params.vmid))])
            },
            already: acts::GONE,
            ..Step::plain("discard", "Remove the container", discard)
        },
    ],
};

/// Queues it; wake the engine after the commit.
pub(crate) async fn queue(
    tx: &mut Connection,
    now: UnixMs,
    app: &AppRow,
    mut side: SideRow,
    checks_health: bool,
    by: &Requester,
) -> Result<OperationId, StoreError> {
    let params = serde_json::to_value(DiscardParams {
        health_timeout_s: DEFAULT_HEALTH_TIMEOUT_S,
        previous: app.status,
        vmid: side.vmid,
        checks_health,
    })?;
    side.operation_id = submit::queue_at(&mut *tx, now, &DISCARD, app, side.node_id, params, by).await?;
    side_containers::update(tx, &side).await?;
    Ok(side.operation_id)
}

fn healthy(view: &View<'_>) -> Result<Act, Fault> {
    let params: DiscardParams = view.params()?;
    if !params.checks_health || view.app.adopted {
        return Act::nothing("It was asked for");
    }
    // The app is perhaps on another node than what is to go.
    Ok(healthy_target(view, view.target()?)?.at(view.app.node_id))
}

fn discard(view: &View<'_>) -> Result<Act, Fault> {
    let params: DiscardParams = view.params()?;
    match view.side.iter().find(|side| side.vmid == params.vmid) {
        Some(side) => remove(side),
        None => Act::nothing("It is gone already"),
    }
}

/// Takes away a container beside an app's: one that was there before it is only let go.
fn remove(side: &SideRow) -> Result<Act, Fault> {
    let target = side.target();
    let act = if side.adopted {
        let says = format!("Letting go of container {}; it stays as it is", target.vmid);
        Act::send(Verb::EnsureReleased(target), says)
    } else {
        let says = format!("Removing container {}", target.vmid);
        Act::send(Verb::EnsureDestroyed(target), says)
    };
    Ok(act?.at(side.node_id))
}

/// The last step of what removes an app: again and again, until nothing is beside it.
pub(super) const OTHERS: Step = Step {
    settle: |view, _| match view.side.first() {
        Some(side) => Ok(vec![Change::Side(SideChange::Removed(side.vmid))]),
        None => Err(internal("a container was removed that the registry does not have")),
    },
    already: acts::GONE,
    repeats: true,
    ..Step::plain("others", "Remove what was kept beside it", |view| {
        match view.side.first() {
            Some(side) => remove(side),
            None => Act::nothing(""),
        }
    })
};
