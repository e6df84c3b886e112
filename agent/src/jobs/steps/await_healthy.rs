//! The recipe's `health` succeeds: repeated with growing pauses until it does or the time is over.

use super::{
    act::{Act, Bound},
    standing,
};
use crate::pve::argv;
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    spec::RECIPE_DIR,
};
use std::time::Duration;

/// The first pause; each is half longer than the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long one check may take.
const BOUND: Duration = Duration::from_secs(120);
/// The name of the run: of a check only the last matters.
const CHECK: &str = "health";

pub(super) async fn run(act: &Act<'_>, target: &Target, timeout_s: u32) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    let tools = act.node.tools();
    let limit = tools.uptime() + Duration::from_secs(timeout_s.into());
    let argv = argv::run_script(vmid, &format!("{RECIPE_DIR}/health"));
    let mut pause = FIRST_PAUSE;
    standing::require_running(act.node, target)?.check_made("nothing is run in it")?;
    act.say("waiting for the app to be healthy");
    loop {
        standing::require_running(act.node, target)?;
        let end = act.tool(CHECK, &argv, None, Bound::Wait(BOUND), &[]).await;
        // A check that hangs keeps its result; the next try of the step attaches to it.
        if !matches!(&end, Err(fault) if fault.kind == FaultKind::DeadlineExceeded) {
            act.discard(CHECK);
        }
        let text = match end {
            Ok(end) if end.success() => return Ok(Outcome::Done),
            Ok(end) => format!("{}\n{}", end.stdout, end.stderr),
            Err(fault) if fault.kind == FaultKind::InDoubt => fault.message,
            Err(fault) => return Err(fault),
        };
        if tools.uptime() + pause >= limit {
            standing::require_running(act.node, target)?;
            let last = text
                .lines()
                .rev()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .unwrap_or("it says nothing");
            return Err(Fault::new(
                FaultKind::Unhealthy,
                format!("the app is not healthy after {timeout_s} s: {last}"),
            )
            .with_detail(&text));
        }
        tools.sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}
