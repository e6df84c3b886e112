//! The container is on another node of its cluster. It is moved while it stands still, and `pct migrate` takes its configuration and its local volumes along; the
//! ownership record is there already, in the cluster's own file system. Where the container is, is what `.vmlist` says, before and after.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    moving, standing,
};
use crate::{
    facts::{cluster, tasks},
    host::tool::ToolEnd,
    pve::{argv, ha::Requested},
};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::{NodeName, Vmid},
};
use std::time::Duration;

/// How long `pct migrate` may tell nothing. It tells how much of a volume it has copied.
const BOUND: Duration = Duration::from_secs(1_800);
/// How long `pct unlock` may take.
const UNLOCK: Duration = Duration::from_secs(60);
/// The name of the tool's run.
const MIGRATE: &str = "migrate";

pub(super) async fn run(act: &Act<'_>, target: &Target, to: &NodeName) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    let container = match standing::require(act.node, target) {
        // The record is ours: `require` has seen that before it saw the place.
        Err(fault) if fault.kind == FaultKind::MovedToOtherNode && is_on(act, vmid, to)? => {
            moving::forget(act.node, vmid)?;
            return Ok(Outcome::Done);
        }
        other => other?,
    };
    // What an earlier try has left goes first, also on the way back, which has nothing else to do: nothing else of the operation could act on the container.
    let container = if !act.has_called(MIGRATE) && moving::is_noted(act.node, vmid, act.operation)? {
        unlock(act, vmid).await?;
        standing::require(act.node, target)?
    } else {
        container
    };
    if act.node.name() == to {
        return Ok(Outcome::Done);
    }
    container.check_made("it is not moved")?;
    if cluster::ha_service(act.node, vmid)?.is_some_and(|service| service.requested != Requested::Ignored) {
        return Err(Fault::new(
            FaultKind::PolicyDenied,
            format!("container {vmid} is managed by HA, which alone moves it: ha-manager migrate ct:{vmid} {to}"),
        ));
    }
    // Once it was called, the lock is its own.
    if !act.has_called(MIGRATE) {
        container.check_unlocked()?;
        if standing::is_running(act.node, vmid)? {
            return Err(Fault::new(
                FaultKind::ToolFailed,
                format!("container {vmid} runs, and is moved only while it does not"),
            ));
        }
        moving::note(act.node, vmid, act.operation)?;
        act.say(&format!("moving container {vmid} to {to}"));
    }
    let argv = argv::migrate(vmid, to);
    let end = act.tool(MIGRATE, &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    if is_on(act, vmid, to)? {
        moving::forget(act.node, vmid)?;
        return Ok(Outcome::Done);
    }
    // Moved by somebody else meanwhile: that is told, and the operation follows.
    standing::require(act.node, target)?;
    unlock(act, vmid).await?;
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!(
                "pct migrate {vmid} {to} reported success, but the container is still here: see its task in Proxmox"
            ),
        ),
        Ok(end) => aborted(&failure(&argv, &end), &end),
        Err(fault) => did_not_happen(fault),
    })
}

/// The tool takes its lock away whether it succeeds or not, unless it is killed. It was not locked before, so a lock of that kind is what our tool has left,
/// and everybody would wait for it for ever; a migration of somebody else's that has begun since has a task that runs. The note stays until the lock is gone.
async fn unlock(act: &Act<'_>, vmid: Vmid) -> Result<(), Fault> {
    let locked = cluster::conf(act.node, vmid)?.is_some_and(|conf| conf.get("lock") == Some("migrate"));
    if !locked {
        return moving::forget(act.node, vmid);
    }
    if tasks::is_running(act.node, "vzmigrate", vmid)? {
        return Ok(());
    }
    act.say(&format!(
        "taking away the lock that a broken off move of container {vmid} has left"
    ));
    act.must("leftover_unlock", &argv::unlock(vmid), Some(vmid), Bound::Wait(UNLOCK))
        .await?;
    moving::forget(act.node, vmid)
}

fn is_on(act: &Act<'_>, vmid: Vmid, node: &NodeName) -> Result<bool, Fault> {
    let guests = cluster::guests(act.node)?.guests;
    Ok(guests.get(&vmid).is_some_and(|guest| guest.node == node.as_str()))
}

/// The tool's last words are "migration aborted"; why stands in its log: `2024-… ERROR: migration aborted (duration 00:00:01): why`.
fn aborted(fault: &Fault, end: &ToolEnd) -> Fault {
    let why = end
        .stdout
        .lines()
        .chain(end.stderr.lines())
        .find_map(|line| line.split_once("ERROR: migration aborted (")?.1.split_once("): "));
    match why {
        Some((_, why)) => Fault {
            message: format!("{}: {}", fault.message, why.trim()),
            ..fault.clone()
        },
        None => fault.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_migration_was_aborted_is_taken_from_its_log() {
        let end = |stdout: &str| ToolEnd {
            code: Some(255),
            stdout: stdout.into(),
            stderr: "migration aborted\n".into(),
        };
        let fault = Fault::new(FaultKind::ToolFailed, "pct migrate failed: migration aborted");
        let log = "2026-01-01 10:00:00 starting migration of CT 100 to node 'pve2' (192.0.2.2)\n\
                   2026-01-01 10:00:01 ERROR: migration aborted (duration 00:00:01): no such storage\n";
        let told = aborted(&fault, &end(log)).message;
        assert_eq!(told, "pct migrate failed: migration aborted: no such storage");
        assert_eq!(aborted(&fault, &end("")).message, fault.message);
    }
}
