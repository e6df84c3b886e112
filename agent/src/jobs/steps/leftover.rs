//! What a killed `pct create` of ours leaves: a configuration with only `lock: create`, its disk, and perhaps a mount. `unlock` and `destroy
//! --destroy-unreferenced-disks` remove it, once nothing is mounted.

use super::{
    act::{Act, Bound},
    ensure_created::CREATE,
};
use crate::{
    facts::cluster,
    host::tool,
    ownership::OwnershipRecord,
    pve::{argv, tasks::TaskId},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::{fs, io, path::Path, time::Duration};

/// How long each of its tools may take.
const BOUND: Duration = Duration::from_secs(300);
/// A record and its task are written by one clock, but the task counts whole seconds.
const ROUNDING_S: i64 = 2;

/// Whether the half-made container is ours: we wrote a record when the number was free, our tool ran after that and was not told that the number is
/// taken (the record would be gone), and a task on this node began to make the container after that.
pub(super) fn is_ours(act: &Act<'_>, vmid: Vmid, record: &OwnershipRecord) -> Result<bool, Fault> {
    let ran = tool::has_run(act.node, record.operation, CREATE, vmid).map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("the agent's folder of tools cannot be read: {error}"),
        )
    })?;
    if !ran && !record.interrupted {
        return Ok(false);
    }
    let folder = act.node.host().task_log.join("tasks");
    let unreadable = |error: io::Error| {
        Fault::new(
            FaultKind::Internal,
            format!("task logs in {} cannot be read: {error}", folder.display()),
        )
    };
    // The last hexadecimal digit of its start names the folder of a task.
    for digit in "0123456789ABCDEF".chars() {
        let entries = match fs::read_dir(folder.join(digit.to_string())) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        for entry in entries {
            let name = entry.map_err(unreadable)?.file_name();
            let ours = TaskId::parse(&name.to_string_lossy()).is_some_and(|task| {
                task.creates(vmid)
                    && task.node == act.node.name().as_str()
                    && task.started_unix_s + ROUNDING_S >= record.began_unix_s
            });
            if ours {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Removes it. The record stays.
pub(super) async fn remove(act: &Act<'_>, vmid: Vmid) -> Result<(), Fault> {
    act.say(&format!(
        "removing what an interrupted creation of container {vmid} left"
    ));
    unmount(act, vmid).await?;
    // Interrupted itself, it may have unlocked already.
    if cluster::conf(act.node, vmid)?.is_some_and(|conf| conf.get("lock").is_some()) {
        act.must("leftover_unlock", &argv::unlock(vmid), Some(vmid), Bound::Wait(BOUND))
            .await?;
    }
    act.must("leftover_destroy", &argv::destroy(vmid), Some(vmid), Bound::Wait(BOUND))
        .await?;
    Ok(())
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
