//! Runs a script of the recipe inside the container.
//!
//! `run`, a script of our own, runs it and leaves a file inside that says how it ended: so that is known also when the tool that ran it was lost.

use super::{
    act::{Act, Bound, did_not_happen},
    standing,
};
use crate::{facts::processes, host::tool::ToolEnd, pve::argv};
use proximity_protocol::{
    command::Target,
    fault::{Fault, FaultKind},
    spec::RECIPE_DIR,
};
use std::time::Duration;

/// How long showing a file may take.
const SHOW: Duration = Duration::from_secs(120);
/// Between two looks at a script that goes on without a tool.
const LOOK: Duration = Duration::from_secs(1);
/// Runs the script that its second argument names, and keeps its exit code under the name of the run, which is the first.
pub(super) const RUN: &str = "#!/bin/sh
folder=/var/lib/proximity/recipe
rm -f \"$folder/end\"
/bin/sh \"$folder/$2\"
code=$?
echo \"$1 $code\" > \"$folder/end.new\" && sync \"$folder/end.new\"
mv \"$folder/end.new\" \"$folder/end\"
exit $code
";

/// A script of the recipe, and how to speak of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script<'a> {
    /// Name of the tool that runs it.
    pub(super) tool: &'a str,
    /// Below the recipe's folder.
    pub(super) path: &'a str,
    /// "the app's … failed".
    pub(super) what: &'a str,
    /// How long it may tell nothing.
    pub(super) silence: Duration,
}

/// Runs it to its end, which must be a good one. `secrets` are kept out of what is told.
pub(super) async fn run(act: &Act<'_>, target: &Target, script: &Script<'_>, secrets: &[&str]) -> Result<(), Fault> {
    let vmid = target.vmid;
    let what = script.what;
    let name = format!("{}-{}", act.operation, act.step);
    let argv = argv::run_script_with(vmid, &format!("{RECIPE_DIR}/run"), [&name, script.path]);
    let end = act
        .tool(script.tool, &argv, Some(vmid), Bound::Wait(script.silence), secrets)
        .await;
    let end = match end {
        Err(fault) if fault.kind == FaultKind::InDoubt => lost(act, target, &name, script, fault).await?,
        other => other?,
    };
    if end.success() {
        return Ok(());
    }
    if !standing::is_running(act.node, vmid)? {
        return Err(Fault::new(
            FaultKind::ContainerStopped,
            format!("container {vmid} stopped during its app's {what}"),
        ));
    }
    let text = format!("{}\n{}", end.stdout, end.stderr);
    let code = end
        .code
        .map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    Err(Fault::new(
        FaultKind::RecipeFailed,
        format!("the app's {what} failed with {code}: {}", last_line(&text)),
    )
    .with_detail(&text))
}

/// How a script ended whose tool left no result: it may go on inside the container, and leaves a file there at its end.
async fn lost(act: &Act<'_>, target: &Target, name: &str, script: &Script<'_>, fault: Fault) -> Result<ToolEnd, Fault> {
    let vmid = target.vmid;
    let what = script.what;
    standing::require_running(act.node, target)?;
    let tools = act.node.tools();
    let (mut told, mut since) = (act.told(script.tool)?, tools.uptime());
    while processes::any_with_word(act.node, vmid, name) {
        let now = act.told(script.tool)?;
        if now != told {
            (told, since) = (now, tools.uptime());
        } else if tools.uptime().saturating_sub(since) > script.silence {
            return Err(Fault::new(
                FaultKind::DeadlineExceeded,
                format!(
                    "the app's {what} in container {vmid} has told nothing for {} s; it goes on",
                    script.silence.as_secs()
                ),
            ));
        }
        tools.sleep(LOOK).await;
    }
    let argv = argv::show_file(vmid, &format!("{RECIPE_DIR}/end"));
    let end = act.repeatable("ended", &argv, None, Bound::Wait(SHOW)).await?;
    let code = end
        .success()
        .then(|| end.stdout.trim().strip_prefix(name)?.trim().parse::<i32>().ok())
        .flatten();
    match code {
        Some(code) => Ok(ToolEnd {
            code: Some(code),
            stdout: act.told(script.tool)?,
            stderr: String::new(),
        }),
        None => Err(did_not_happen(Fault {
            message: format!("the app's {what} was interrupted before its end: {}", fault.message),
            ..fault
        })),
    }
}

fn last_line(text: &str) -> &str {
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("it said nothing")
}
