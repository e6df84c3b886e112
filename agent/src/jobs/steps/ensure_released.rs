//! An adopted container is nobody's again: its ports are closed, its record is removed, and the container stays as it is.

use super::act::Act;
use crate::{facts::cluster, ownership, publish, pve::cluster::GuestKind};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};

pub(super) async fn run(act: &Act<'_>, target: &Target) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    let record = ownership::read(act.node, vmid)?;
    match &record {
        Some(record) if record.owner != target.owner => {
            return Err(Fault::new(
                FaultKind::NotOurs,
                format!(
                    "container {vmid} is not released: it belongs to app {}",
                    record.owner.app
                ),
            ));
        }
        Some(record) if !record.adopted && !record.of_adopted => {
            return Err(Fault::new(
                FaultKind::PolicyDenied,
                format!("container {vmid} was made by Proximity: it can be destroyed, but not released"),
            ));
        }
        _ => {}
    }
    // Its ports are published where it is.
    if let Some(guest) = cluster::guests(act.node)?.guests.get(&vmid)
        && record.is_some()
        && guest.kind == GuestKind::Container
        && guest.node != act.node.name().as_str()
    {
        return Err(Fault::new(
            FaultKind::MovedToOtherNode,
            format!("container {vmid} is on node {} now", guest.node),
        ));
    }
    publish::unpublish(act.node, vmid, &target.owner, None).await?;
    if record.is_some() {
        act.say(&format!("letting go of container {vmid}, which stays as it is"));
        ownership::remove(act.node, vmid)?;
    }
    Ok(Outcome::Done)
}
