//! The root volume is at least as large as wanted. It is never made smaller, so there is no way back. `pct resize` ends with zero also when the file system
//! on the volume did not follow, so both are looked at afterwards.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    standing::{self, Container},
};
use crate::{
    facts::{cluster, processes},
    pve::argv,
};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::{StorageId, Vmid},
};
use std::time::Duration;

const GIB: u64 = 1 << 30;
/// How long `pct resize` may take: it checks the file system of a stopped container first.
const BOUND: Duration = Duration::from_secs(1_800);
/// How long the container's file system may take to say how large it is.
const STATVFS: Duration = Duration::from_secs(5);
/// What it says when only the volume has grown (PVE::API2::LXC).
const NOT_FOLLOWED: &str = "Failed to update the container's filesystem";

pub(super) async fn run(act: &Act<'_>, target: &Target, disk_gb: u32) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    act.check_idle(vmid)?;
    let container = standing::require(act.node, target)?;
    container.check_made("its disk is not changed")?;
    let wanted = u64::from(disk_gb) * GIB;
    if size(&container)? >= wanted {
        return finish(act, &container).await;
    }
    container.check_unlocked()?;
    act.say(&format!("growing the disk of container {vmid} to {disk_gb} GB"));
    let argv = argv::resize(vmid, disk_gb);
    let end = act.tool("resize", &argv, Some(vmid), Bound::Wait(BOUND), &[]).await;
    let after = standing::require(act.node, target)?;
    if size(&after)? >= wanted {
        if let Ok(end) = &end
            && format!("{}\n{}", end.stdout, end.stderr).contains(NOT_FOLLOWED)
        {
            return Err(not_followed(vmid).with_detail(&end.stdout));
        }
        return finish(act, &after).await;
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!("pct resize {vmid} reported success, but the disk is as large as before: see its task in Proxmox"),
        ),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}

fn size(container: &Container) -> Result<u64, Fault> {
    container.conf.root_size_bytes().ok_or_else(|| {
        Fault::new(
            FaultKind::StorageUnavailable,
            format!(
                "the root volume of container {} has no size of its own: its storage gives it room as long as there is some",
                container.vmid
            ),
        )
    })
}

async fn finish(act: &Act<'_>, container: &Container) -> Result<Outcome, Fault> {
    let bytes = size(container)?;
    if has_own_file_system(act, container)?
        && standing::is_running(act.node, container.vmid)?
        && let Some(pid) = processes::init_pid(act.node, container.vmid)
    {
        let root = act.node.proc(&format!("{pid}/root"));
        let figures = act.node.usage().now(&root, STATVFS).await;
        // ext4 keeps some percents of the volume for itself.
        if figures.is_some_and(|figures| figures.total_bytes < bytes / 100 * 85) {
            return Err(not_followed(container.vmid));
        }
    }
    Ok(Outcome::Grown {
        disk_gb: u32::try_from(bytes / GIB).unwrap_or(u32::MAX),
    })
}

/// Whether the volume is a block device or an image with a file system on it. A subvolume's size is a quota, and its file system is as large as it is.
fn has_own_file_system(act: &Act<'_>, container: &Container) -> Result<bool, Fault> {
    let volume = container.conf.root_volume().unwrap_or_default();
    if volume.ends_with(".raw") {
        return Ok(true);
    }
    let storage = volume.split(':').next().and_then(|id| StorageId::new(id).ok());
    Ok(match storage {
        Some(id) => matches!(
            cluster::storage(act.node, &id)?.kind.as_str(),
            "lvm" | "lvmthin" | "rbd" | "iscsi" | "iscsidirect"
        ),
        None => false,
    })
}

/// Not a fault to try again: the next look would find the volume as large as asked.
fn not_followed(vmid: Vmid) -> Fault {
    Fault::new(
        FaultKind::StorageUnavailable,
        format!(
            "the volume of container {vmid} has grown, but the file system on it has not followed: stop the container, run `pct fsck {vmid}` and resize2fs on its volume"
        ),
    )
}
