//! The container does not run: it is asked first, and stopped if it does not listen.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    ensure_started::becomes,
    ha, standing,
};
use crate::pve::argv;
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::time::Duration;

/// `pct shutdown` takes its time beyond its own timeout (14 s for 4 s were seen).
const EXTRA: Duration = Duration::from_secs(60);
/// How long `pct stop` may take.
const BOUND: Duration = Duration::from_secs(120);
/// How long after that the state may take.
const SETTLE: Duration = Duration::from_secs(30);

pub(super) async fn run(act: &Act<'_>, target: &Target, timeout_s: u32) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle_outside(vmid)?;
    let container = standing::require(act.node, target)?;
    let service = ha::managed(act.node, vmid)?;
    if !standing::is_running(act.node, vmid)? {
        if let Some(service) = &service {
            ha::refuse_standing(vmid, service)?;
        }
        return Ok(Outcome::Done);
    }
    container.check_unlocked()?;
    if let Some(service) = &service {
        ha::check_error(vmid, service)?;
        return by_ha(act, target, timeout_s).await;
    }
    if timeout_s > 0 {
        act.say(&format!("shutting container {vmid} down"));
        let bound = Bound::Wait(Duration::from_secs(timeout_s.into()) + EXTRA);
        let argv = argv::shutdown(vmid, timeout_s);
        match act.tool("shutdown", &argv, Some(vmid), bound, &[]).await {
            // Not heard within its time: that is what `pct stop` is for.
            Ok(end) if end.success() || failure(&argv, &end).kind == FaultKind::ToolFailed => {}
            Ok(end) if standing::is_running(act.node, vmid)? => return Err(failure(&argv, &end)),
            Ok(_) => {}
            Err(fault) if fault.kind == FaultKind::InDoubt => {}
            Err(fault) => return Err(fault),
        }
        if !standing::is_running(act.node, vmid)? {
            return Ok(Outcome::Done);
        }
    }
    stop(act, vmid).await.map(|()| Outcome::Done)
}

/// HA stops it: within its time, or at once.
async fn by_ha(act: &Act<'_>, target: &Target, timeout_s: u32) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    let (name, argv) = match timeout_s {
        0 => ("stop", argv::stop(vmid)),
        _ => ("shutdown", argv::shutdown(vmid, timeout_s)),
    };
    act.say(&format!("asking Proxmox's HA to stop container {vmid}"));
    let end = act.tool(name, &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    match end {
        Ok(end) if !end.success() && standing::is_running(act.node, vmid)? => return Err(failure(&argv, &end)),
        Err(fault) if fault.kind != FaultKind::InDoubt => return Err(fault),
        // Whether the request was queued, or it stands already, the state tells.
        Ok(_) | Err(_) => {}
    }
    let within = Duration::from_secs(timeout_s.into()) + ha::SETTLE;
    ha::comes_to(act, target, false, within).await?;
    Ok(Outcome::Done)
}

/// Stops it at once.
pub(super) async fn stop(act: &Act<'_>, vmid: Vmid) -> Result<(), Fault> {
    act.say(&format!("stopping container {vmid}"));
    let argv = argv::stop(vmid);
    let end = act.tool("stop", &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    let settle = if matches!(&end, Ok(end) if end.success()) {
        SETTLE
    } else {
        Duration::ZERO
    };
    if becomes(act, vmid, false, settle).await? {
        return Ok(());
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!("container {vmid} was stopped but still runs: see its state in Proxmox"),
        ),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}
