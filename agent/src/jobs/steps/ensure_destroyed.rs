//! The container, its volumes, its published ports and its ownership record are gone. What is not ours is refused.

use super::{
    act::{Act, Bound, failure},
    ensure_stopped, leftover,
    standing::{self, Container, Standing},
};
use crate::{facts::cluster, ownership, publish, pve::argv};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};
use std::time::Duration;

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
    if let Standing::Ours(container) = standing::look(act.node, target)? {
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
    let end = act.tool("destroy", &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    if cluster::conf(act.node, vmid)?.is_none() {
        return Ok(());
    }
    Err(match end {
        Ok(end) if end.success() => return Ok(()),
        Ok(end) => failure(&argv, &end),
        Err(fault) if fault.kind == FaultKind::InDoubt => Fault {
            kind: FaultKind::ToolFailed,
            ..fault
        },
        Err(fault) => fault,
    })
}
