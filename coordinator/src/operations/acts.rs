//! The acts that several kinds share.

use super::{
    params::ActionParams,
    step::{Act, Change, Step, View, unexpected},
};
use proximity_protocol::{
    command::{Outcome, Verb},
    fault::{Fault, FaultKind},
    observed::{Inventory, RunState},
};

/// Nothing of ours is there, says the node's own ownership record: what was to be taken away is away.
pub(crate) const GONE: &[FaultKind] = &[FaultKind::ContainerMissing, FaultKind::NotOurs, FaultKind::VmidTaken];

/// Remembers how the container stands before anything is changed: what is taken back later is brought back to that, whatever the registry believed. A missing
/// container is found here, where nothing has to be taken back.
pub(crate) const LOOK: Step = Step {
    settle: looked,
    ..Step::plain("look", "See how the container stands", look)
};

fn look(view: &View<'_>) -> Result<Act, Fault> {
    let says = format!("Looking at container {} on {}", view.target()?.vmid, view.node);
    Act::send(Verb::Inventory, says)
}

fn looked(view: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    let Outcome::Inventory(inventory) = outcome else {
        return Err(unexpected(outcome));
    };
    let target = view.target()?;
    let Some(container) = inventory.containers.iter().find(|c| c.vmid == target.vmid) else {
        return Err(absent(view, inventory));
    };
    match &container.owner {
        Some(owner) if *owner == target.owner => {}
        _ if !inventory.unreadable.is_empty() => return Err(unread(view, inventory)),
        _ => {
            let why = format!("container {} on {} is not this app's", target.vmid, view.node);
            return Err(Fault::new(FaultKind::NotOurs, why));
        }
    }
    let running = match container.state {
        RunState::Running => true,
        RunState::Stopped => false,
        RunState::Unknown => return Err(unread(view, inventory)),
    };
    let published = inventory
        .published
        .iter()
        .any(|p| Some(p.public_port) == view.app.public_port && p.owner == target.owner);
    Ok(vec![Change::Stood { running, published }])
}

fn absent(view: &View<'_>, inventory: &Inventory) -> Fault {
    let vmid = view.app.vmid.unwrap_or_default();
    if let Some((_, node)) = inventory.elsewhere.iter().find(|(v, _)| v.get() == vmid) {
        let why = format!("container {vmid} is on node {node} now");
        return Fault::new(FaultKind::MovedToOtherNode, why);
    }
    if inventory.is_evidence_of_absence() {
        let why = format!("container {vmid} does not exist any more on {}", view.node);
        return Fault::new(FaultKind::ContainerMissing, why);
    }
    unread(view, inventory)
}

fn unread(view: &View<'_>, inventory: &Inventory) -> Fault {
    let why = if inventory.quorate {
        inventory.unreadable.join("; ")
    } else {
        "its cluster has no quorum".into()
    };
    Fault::new(
        FaultKind::Internal,
        format!(
            "{} cannot tell how container {} stands: {why}",
            view.node,
            view.app.vmid.unwrap_or_default()
        ),
    )
}

pub(crate) fn start(view: &View<'_>) -> Result<Act, Fault> {
    let target = view.target()?;
    let says = format!("Starting container {} on {}", target.vmid, view.node);
    Act::send(Verb::EnsureStarted(target), says)
}

pub(crate) fn stop(view: &View<'_>) -> Result<Act, Fault> {
    stop_within(view, view.data.timeouts.shutdown_s)
}

pub(crate) fn stop_at_once(view: &View<'_>) -> Result<Act, Fault> {
    stop_within(view, 0)
}

fn stop_within(view: &View<'_>, timeout_s: u32) -> Result<Act, Fault> {
    let Some(target) = view.target_if_any()? else {
        return Act::nothing(format!("There is no container on {}", view.node));
    };
    let says = format!("Stopping container {} on {}", target.vmid, view.node);
    Act::send(Verb::EnsureStopped { target, timeout_s }, says)
}

pub(crate) fn network(view: &View<'_>) -> Result<Act, Fault> {
    let target = view.target()?;
    let says = match view.reserved_address {
        Some(address) => format!("Waiting until container {} has its address {address}", target.vmid),
        None => format!("Waiting until container {} has an address", target.vmid),
    };
    Act::send(
        Verb::AwaitNetwork {
            target,
            expect: view.reserved_address,
            timeout_s: view.data.timeouts.network_s,
        },
        says,
    )
}

pub(crate) fn network_settled(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Network { address } => Ok(vec![Change::Address(*address)]),
        other => Err(unexpected(other)),
    }
}

/// Health of an app that has been deployed before.
pub(crate) fn healthy(view: &View<'_>) -> Result<Act, Fault> {
    if view.app.adopted {
        return Act::nothing("An adopted container has no health check of ours");
    }
    let params: ActionParams = view.params()?;
    healthy_within(view, params.health_timeout_s)
}

pub(crate) fn healthy_within(view: &View<'_>, timeout_s: u32) -> Result<Act, Fault> {
    let says = format!("Waiting until {} is healthy (at most {timeout_s} s)", view.app.name);
    Act::send(
        Verb::AwaitHealthy {
            target: view.target()?,
            timeout_s,
        },
        says,
    )
}

pub(crate) fn publish(view: &View<'_>) -> Result<Act, Fault> {
    let target = view.target()?;
    let (Some(public_port), Some(address)) = (view.app.public_port, view.app.ip_address) else {
        return Err(Fault::new(
            FaultKind::ContainerMissing,
            format!(
                "{} has no port or no address to publish; delete it and create it again",
                view.app.hostname
            ),
        ));
    };
    let port = view.app.internal_port;
    let says = format!("Publishing port {public_port} of {} to {address}:{port}", view.node);
    Act::send(
        Verb::EnsurePublished {
            target,
            public_port,
            address,
            port,
        },
        says,
    )
}

pub(crate) fn published(_: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    match outcome {
        Outcome::Published { address } => Ok(vec![Change::Published(Some(*address))]),
        other => Err(unexpected(other)),
    }
}

pub(crate) fn unpublish(view: &View<'_>) -> Result<Act, Fault> {
    let (Some(target), Some(public_port)) = (view.target_if_any()?, view.app.public_port) else {
        return Act::nothing(format!("No port is published on {}", view.node));
    };
    let says = format!("Closing port {public_port} of {}", view.node);
    Act::send(Verb::EnsureUnpublished { target, public_port }, says)
}

pub(crate) fn unpublished(_: &View<'_>, _: &Outcome) -> Result<Vec<Change>, Fault> {
    Ok(vec![Change::Published(None)])
}

pub(crate) fn destroy(view: &View<'_>) -> Result<Act, Fault> {
    let Some(target) = view.target_if_any()? else {
        return Act::nothing(format!("There is no container on {}", view.node));
    };
    let says = format!("Removing container {} from {}", target.vmid, view.node);
    Act::send(Verb::EnsureDestroyed(target), says)
}

pub(crate) fn release(view: &View<'_>) -> Result<Act, Fault> {
    let Some(target) = view.target_if_any()? else {
        return Act::nothing(format!("There is no container on {}", view.node));
    };
    let says = format!(
        "Letting go of container {} on {}; it stays as it is",
        target.vmid, view.node
    );
    Act::send(Verb::EnsureReleased(target), says)
}

/// Asks which settings still wait, if any did.
pub(crate) fn pending(view: &View<'_>) -> Result<Act, Fault> {
    if view.app.pending_restart.is_empty() {
        return Act::nothing("");
    }
    let target = view.target()?;
    let says = format!("Looking which settings of container {} still wait", target.vmid);
    Act::send(
        Verb::Examine {
            only: Some(target.vmid),
        },
        says,
    )
}

pub(crate) fn pending_settled(view: &View<'_>, outcome: &Outcome) -> Result<Vec<Change>, Fault> {
    let Outcome::Examined(examination) = outcome else {
        return Err(unexpected(outcome));
    };
    let vmid = view.target()?.vmid;
    match examination.containers.iter().find(|c| c.vmid == vmid) {
        Some(container) => Ok(vec![Change::Pending(container.pending.clone())]),
        // What waits is a note in the app; a start does not fail for want of it.
        None => Ok(Vec::new()),
    }
}
