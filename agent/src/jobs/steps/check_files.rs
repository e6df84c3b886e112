//! A container that was started answers, and the files of a system are in it: what a backup of an unknown app can be looked at for.

use super::{
    act::{Act, Bound},
    standing,
};
use crate::pve::argv;
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};
use std::time::Duration;

/// Every Linux system has this one.
const FILE: &str = "/etc/passwd";
/// The name of the run: only the last look matters.
const LOOK: &str = "files";
/// How long one look may take.
const BOUND: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(act: &Act<'_>, target: &Target, timeout_s: u32) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    let tools = act.node.tools();
    let limit = tools.uptime() + Duration::from_secs(timeout_s.into());
    let argv = argv::is_file(vmid, FILE);
    act.say("looking at the files of the container");
    loop {
        standing::require_running(act.node, target)?;
        let end = act.tool(LOOK, &argv, None, Bound::Wait(BOUND), &[]).await;
        act.discard(LOOK);
        let why = match end {
            Ok(end) if end.success() => return Ok(Outcome::Done),
            Ok(end) => format!("{}\n{}", end.stdout, end.stderr),
            Err(fault) if fault.kind == FaultKind::InDoubt => fault.message,
            Err(fault) => return Err(fault),
        };
        if tools.uptime() + PAUSE >= limit {
            return Err(Fault::new(
                FaultKind::Unhealthy,
                format!("container {vmid} does not answer, or has no {FILE}, after {timeout_s} s"),
            )
            .with_detail(&why));
        }
        tools.sleep(PAUSE).await;
    }
}
