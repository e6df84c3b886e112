//! The container runs.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    ha, standing,
};
use crate::pve::{argv, ha::Requested};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::time::Duration;

/// How long `pct start` may take: it mounts and checks disks.
const BOUND: Duration = Duration::from_secs(300);
/// How long after that the state may take.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn run(act: &Act<'_>, target: &Target) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    let container = standing::require(act.node, target)?;
    let service = ha::managed(act.node, vmid)?;
    if standing::is_running(act.node, vmid)? {
        match &service {
            // HA is about to stop it, and would do so after we have said that it runs.
            Some(service) if service.requested != Requested::Started => {
                ha::comes_to(act, target, false, ha::SETTLE).await?;
            }
            _ => return Ok(Outcome::Done),
        }
    }
    if let Some(service) = &service {
        ha::check_error(vmid, service)?;
    }
    container.check_unlocked()?;
    act.say(&format!("starting container {vmid}"));
    let argv = argv::start(vmid);
    let end = act.tool("start", &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    if service.is_some() && matches!(&end, Ok(end) if end.success()) {
        ha::comes_to(act, target, true, ha::SETTLE).await?;
        return Ok(Outcome::Done);
    }
    let settle = if matches!(&end, Ok(end) if end.success()) {
        SETTLE
    } else {
        Duration::ZERO
    };
    if becomes(act, vmid, true, settle).await? {
        return Ok(Outcome::Done);
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!("container {vmid} was started but does not run: see `pct start {vmid} --debug` on the node"),
        ),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}

/// Whether it comes to run, or to stand still, within the time.
pub(super) async fn becomes(act: &Act<'_>, vmid: Vmid, running: bool, within: Duration) -> Result<bool, Fault> {
    let tools = act.node.tools();
    let limit = tools.uptime() + within;
    loop {
        if standing::is_running(act.node, vmid)? == running {
            return Ok(true);
        }
        if tools.uptime() >= limit {
            return Ok(false);
        }
        tools.sleep(LOOK).await;
    }
}
