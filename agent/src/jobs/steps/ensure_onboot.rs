//! Whether a container starts with its node. Of two of the same app only one may: the other has its address. That is the only key of an adopted container that is
//! ever written.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    standing,
};
use crate::pve::{conf::Conf, restore_argv};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};
use std::time::Duration;

/// How long `pct set` may take: it waits 10 s for the configuration's lock.
const BOUND: Duration = Duration::from_secs(120);

pub(super) async fn run(act: &Act<'_>, target: &Target, onboot: bool) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    let container = standing::require(act.node, target)?;
    let is_so = |conf: &Conf| (conf.get("onboot") == Some("1")) == onboot;
    if is_so(&container.conf) {
        return Ok(Outcome::Done);
    }
    container.check_unlocked()?;
    act.say(&format!(
        "container {vmid} {} with its node from now on",
        if onboot { "starts" } else { "does not start" }
    ));
    let argv = restore_argv::onboot(vmid, onboot);
    let end = act.tool("onboot", &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    if is_so(&standing::require(act.node, target)?.conf) {
        return Ok(Outcome::Done);
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!("pct set {vmid} reported success, but onboot is not as asked: see `pct config {vmid}` on the node"),
        ),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}
