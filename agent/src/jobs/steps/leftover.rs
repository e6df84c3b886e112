//! What a killed tool of ours leaves. Of `pct create` and `pct restore`: a configuration with only `lock: create`, its disk, and perhaps a mount. Of `pct destroy`: a
//! configuration with `lock: destroyed`, and what it had not come to. `unlock` and `destroy --destroy-unreferenced-disks` remove it, once nothing is mounted.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    ensure_destroyed::DESTROY,
    half_made,
    making::CREATE,
    standing::Container,
};
use crate::{
    facts::{cluster, tasks},
    host::tool,
    ownership::OwnershipRecord,
    pve::argv::{self, Argv},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{OperationId, Vmid},
};
use std::{fs, path::Path, time::Duration};

/// How long each of its tools may take.
const BOUND: Duration = Duration::from_secs(300);
/// A record and its task are written by one clock, but the task counts whole seconds.
const ROUNDING_S: i64 = 2;

/// Whether the half-made container is ours: we wrote a record when the number was free, our tool ran after that and was not told that the number is
/// taken (the record would be gone), and a task on this node began to make the container after that.
pub(super) fn is_ours(act: &Act<'_>, vmid: Vmid, record: &OwnershipRecord) -> Result<bool, Fault> {
    let known = record.interrupted
        || half_made::is_noted(act.node, vmid, record)?
        || has_run(act, record.operation, CREATE, vmid)?;
    if !known {
        return Ok(false);
    }
    for kind in ["vzcreate", "vzrestore"] {
        let mut tasks = tasks::of(act.node, kind, vmid)?.into_iter();
        if tasks.any(|task| task.id.started_unix_s + ROUNDING_S >= record.began_unix_s) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes it. The record stays.
pub(super) async fn remove(act: &Act<'_>, vmid: Vmid) -> Result<(), Fault> {
    check_not_destroyed_now(act, vmid)?;
    act.say(&format!(
        "removing what an interrupted creation of container {vmid} left"
    ));
    clear(act, vmid, &argv::destroy(vmid)).await?;
    half_made::forget(act.node, vmid)
}

/// Finishes a destruction that was broken off. Somebody else's that goes on is waited for.
pub(super) async fn finish_destroying(act: &Act<'_>, container: &Container) -> Result<(), Fault> {
    let vmid = container.vmid;
    check_not_destroyed_now(act, vmid)?;
    act.say(&format!(
        "finishing the destruction of container {vmid}, which was interrupted"
    ));
    // Of what has no volumes any more it cannot be told whose it was: disks of its number are only looked for after our own tool.
    let ours = !container.conf.is_half_destroyed() || has_run(act, act.operation, DESTROY, vmid)?;
    let argv = if ours {
        argv::destroy(vmid)
    } else {
        argv::destroy_empty(vmid)
    };
    clear(act, vmid, &argv).await
}

fn check_not_destroyed_now(act: &Act<'_>, vmid: Vmid) -> Result<(), Fault> {
    if tasks::is_running(act.node, "vzdestroy", vmid)? {
        return Err(Fault::new(
            FaultKind::Locked,
            format!("container {vmid} is being destroyed by a task of Proxmox; waiting for its end"),
        ));
    }
    Ok(())
}

fn has_run(act: &Act<'_>, operation: OperationId, name: &str, vmid: Vmid) -> Result<bool, Fault> {
    tool::has_run(act.node, operation, name, vmid).map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("the agent's folder of tools cannot be read: {error}"),
        )
    })
}

/// Unmounts, unlocks and destroys; that the configuration is gone is what counts.
async fn clear(act: &Act<'_>, vmid: Vmid, destroy: &Argv) -> Result<(), Fault> {
    unmount(act, vmid).await?;
    // Interrupted itself, it may have unlocked already.
    if cluster::conf(act.node, vmid)?.is_some_and(|conf| conf.get("lock").is_some()) {
        act.must("leftover_unlock", &argv::unlock(vmid), Some(vmid), Bound::Wait(BOUND))
            .await?;
    }
    let end = act
        .tool("leftover_destroy", destroy, Some(vmid), Bound::Wait(BOUND), &[])
        .await;
    if cluster::conf(act.node, vmid)?.is_none() {
        return Ok(());
    }
    match end {
        Ok(end) if end.success() => Ok(()),
        Ok(end) => Err(failure(destroy, &end)),
        Err(fault) => Err(did_not_happen(fault)),
    }
}

/// A disk that stays mounted stays in use after its file is gone. It runs as a tool, in the machine's own mount namespace.
async fn unmount(act: &Act<'_>, vmid: Vmid) -> Result<(), Fault> {
    let below = act.node.host().lxc.join(vmid.to_string());
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("/proc/self/mounts cannot be read: {error}"),
        )
    })?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let points: Vec<&Path> = points.filter(|point| point.starts_with(&below)).collect();
    // The newest first: mounts may lie in each other.
    for (n, point) in points.into_iter().rev().enumerate() {
        let argv = argv::unmount(point);
        act.must(&format!("leftover_unmount_{n}"), &argv, Some(vmid), Bound::Wait(BOUND))
            .await?;
    }
    Ok(())
}
