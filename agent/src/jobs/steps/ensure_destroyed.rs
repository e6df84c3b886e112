//! The container, its volumes, its published ports and its ownership record are gone. What is not ours is refused, and what was adopted unless the node's
//! own policy allows it.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    ensure_stopped, ha, leftover,
    standing::{self, Container, Standing},
};
use crate::{facts::cluster, ownership, policy::Policy, publish, pve::argv};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};
use std::time::Duration;

/// The name of the tool's run.
pub(super) const DESTROY: &str = "destroy";
/// Removing big volumes takes its time.
const BOUND: Duration = Duration::from_secs(900);

pub(super) async fn run(act: &Act<'_>, target: &Target) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle_outside(vmid)?;
    if standing::is_replaced(act.node, target)? {
        publish::unpublish(act.node, vmid, &target.owner, None).await?;
        ownership::remove(act.node, vmid)?;
        return Err(Fault::new(
            FaultKind::NotOurs,
            format!("container {vmid} is not touched: it was made by somebody else after ours was gone"),
        ));
    }
    if standing::has_lost_its_record(act.node, target)? {
        return Err(Fault::new(
            FaultKind::InDoubt,
            format!(
                "container {vmid} on {node} has the tag of Proximity, but its ownership record /etc/pve/priv/proximity/{vmid} is gone, so it is not \
                 touched: if it is the app's, destroy it there (`pct destroy {vmid}`); if it is not, take the tag off (`pct set {vmid} --tags ''`)",
                node = act.node.name()
            ),
        ));
    }
    if let Standing::Ours(container) = standing::look(act.node, target)? {
        ha::refuse_destroying(act.node, vmid)?;
        if container.record.adopted {
            let file = &act.node.config().paths.policy;
            Policy::load(file)?.check_destroying_adopted(file, act.node.name().as_str())?;
        }
        publish::unpublish(act.node, vmid, &target.owner, None).await?;
        destroy(act, &container).await?;
    } else {
        publish::unpublish(act.node, vmid, &target.owner, None).await?;
    }
    match standing::look(act.node, target)? {
        Standing::Missing(Some(_)) => ownership::remove(act.node, vmid)?,
        Standing::Missing(None) => {}
        Standing::Ours(_) => {
            return Err(Fault::new(
                FaultKind::ToolFailed,
                format!("container {vmid} is still there after it was destroyed: see its tasks in Proxmox"),
            ));
        }
    }
    Ok(Outcome::Done)
}

async fn destroy(act: &Act<'_>, container: &Container) -> Result<(), Fault> {
    let vmid = container.vmid;
    if container.conf.is_half_made() {
        if !leftover::is_ours(act, vmid, &container.record)? {
            return Err(Fault::new(
                FaultKind::NotOurs,
                format!("container {vmid} is not touched: somebody else is making it"),
            ));
        }
        return leftover::remove(act, vmid).await;
    }
    if container.conf.is_being_destroyed() {
        return leftover::finish_destroying(act, container).await;
    }
    container.check_unlocked()?;
    if container.conf.get("protection") == Some("1") {
        return Err(Fault::new(
            FaultKind::PolicyDenied,
            format!("container {vmid} is protected: switch its protection off in Proxmox first"),
        ));
    }
    if standing::is_running(act.node, vmid)? {
        ensure_stopped::stop(act, vmid).await?;
    }
    act.say(&format!("destroying container {vmid}"));
    let argv = argv::destroy(vmid);
    let end = act.tool(DESTROY, &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    match cluster::conf(act.node, vmid)? {
        None => return Ok(()),
        // It was broken off in its middle.
        Some(conf) if conf.is_being_destroyed() && matches!(&end, Err(fault) if fault.kind == FaultKind::InDoubt) => {
            let left = Container {
                conf,
                record: container.record.clone(),
                ..*container
            };
            return leftover::finish_destroying(act, &left).await;
        }
        Some(_) => {}
    }
    Err(match end {
        Ok(end) if end.success() => return Ok(()),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}
