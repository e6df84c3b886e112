//! What a dead backup of ours left: the guest stopped (of stop mode), its lock and its snapshot (after a power loss), half an archive and the folder beside
//! it. Whose it is says the log of our own tool: the times and names in it are those of the files. What another backup left is never touched.

use super::{
    act::{Act, Bound},
    ensure_started::becomes,
    standing,
};
use crate::{
    facts::{backups, cluster},
    pve::{argv, backup_argv, storage_cfg::Storage, volumes, vzdump::VzdumpLog},
};
use proximity_protocol::{
    backup::BackupMode,
    command::Target,
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

/// How long each of its tools may take.
const BOUND: Duration = Duration::from_secs(600);
/// Snapshots and folders have times in whole seconds.
const ROUNDING_S: i64 = 2;
/// The snapshot that `vzdump` makes.
const SNAPSHOT: &str = "vzdump";

/// How the tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself: it has tidied up as far as it does.
    ByItself,
    /// Killed, or the machine went down.
    Killed,
}

/// Removes it, and starts a guest again that was stopped for its backup. `asked_unix_s`: when the backup was asked for.
pub(super) async fn clean(
    act: &Act<'_>,
    target: &Target,
    storage: &Storage,
    log: &VzdumpLog,
    asked_unix_s: i64,
    end: End,
) -> Result<(), Fault> {
    if !log.began {
        return Ok(());
    }
    let vmid = target.vmid;
    for (n, path) in half_made(act, storage, log, vmid, asked_unix_s)?
        .into_iter()
        .enumerate()
    {
        act.say(&format!("removing what an interrupted backup left: {}", path.display()));
        act.must(
            &format!("leftover_remove_{n}"),
            &backup_argv::remove(&path),
            Some(vmid),
            Bound::Wait(BOUND),
        )
        .await?;
    }
    // A container that has moved away or is gone meanwhile has nothing of this left.
    let Ok(container) = standing::require(act.node, target) else {
        return Ok(());
    };
    // While another backup runs, a lock may be its.
    let alone = !backups::one_runs(act.node)?;
    if end == End::Killed && alone && container.conf.get("lock") == Some("backup") {
        act.say(&format!("unlocking container {vmid} after an interrupted backup"));
        act.must("leftover_unlock", &argv::unlock(vmid), Some(vmid), Bound::Wait(BOUND))
            .await?;
    }
    if alone && is_our_snapshot(act, vmid, asked_unix_s)? {
        act.say(&format!(
            "removing the snapshot of an interrupted backup of container {vmid}"
        ));
        let argv = backup_argv::drop_snapshot(vmid, SNAPSHOT);
        act.must("leftover_snapshot", &argv, Some(vmid), Bound::Wait(BOUND))
            .await?;
    }
    start_again(act, vmid, log).await
}

/// Files and folders that bear the name of this backup and are no archive.
fn half_made(
    act: &Act<'_>,
    storage: &Storage,
    log: &VzdumpLog,
    vmid: Vmid,
    asked_unix_s: i64,
) -> Result<Vec<PathBuf>, Fault> {
    let Some(folder) = backups::folder(act.node, storage) else {
        return temporary_folders(act, vmid, asked_unix_s);
    };
    let Some(stem) = log.stem(vmid) else {
        return Ok(Vec::new());
    };
    // Of a compressed archive it may be called after its compression as well.
    let names = ["tar.dat", "tar.zst.dat", "tar.gz.dat", "tar.lzo.dat", "tmp"];
    Ok(names
        .into_iter()
        .map(|end| folder.join(format!("{stem}.{end}")))
        .filter(|path| path.symlink_metadata().is_ok())
        .collect())
}

/// `/var/tmp/vzdumptmp<pid>_<vmid>` of a backup without a folder of its own, not older than ours; while none runs.
fn temporary_folders(act: &Act<'_>, vmid: Vmid, asked_unix_s: i64) -> Result<Vec<PathBuf>, Fault> {
    if backups::one_runs(act.node)? {
        return Ok(Vec::new());
    }
    let folder = act.node.machine_path("/var/tmp");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Fault::new(
                FaultKind::Internal,
                format!("{} cannot be looked through: {error}", folder.display()),
            ));
        }
    };
    let begin_s = u64::try_from(asked_unix_s - ROUNDING_S).unwrap_or(0);
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let names = name.is_some_and(|name| {
            name.strip_prefix("vzdumptmp")
                .and_then(|rest| rest.strip_suffix(&format!("_{vmid}")))
                .is_some_and(|pid| pid.parse::<u32>().is_ok())
        });
        let made = path.symlink_metadata().and_then(|meta| meta.modified()).ok();
        names && made.is_some_and(|made| made >= UNIX_EPOCH + Duration::from_secs(begin_s))
    };
    Ok(entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_ours)
        .collect())
}

/// Whether `[vzdump]` in the configuration was made after this backup was asked for. Its tool has ended, so nobody uses it.
fn is_our_snapshot(act: &Act<'_>, vmid: Vmid, asked_unix_s: i64) -> Result<bool, Fault> {
    let text = cluster::conf_text(act.node, vmid)?.unwrap_or_default();
    Ok(volumes::snapshot_time(&text, SNAPSHOT).is_some_and(|made_s| made_s + ROUNDING_S >= asked_unix_s))
}

async fn start_again(act: &Act<'_>, vmid: Vmid, log: &VzdumpLog) -> Result<(), Fault> {
    if log.mode != Some(BackupMode::Stop) || log.was_running != Some(true) || standing::is_running(act.node, vmid)? {
        return Ok(());
    }
    act.say(&format!(
        "starting container {vmid} again, which an interrupted backup left stopped"
    ));
    let argv = argv::start(vmid);
    let end = act
        .tool("leftover_start", &argv, Some(vmid), Bound::Wait(BOUND), &[])
        .await;
    if becomes(act, vmid, true, Duration::ZERO).await? {
        return Ok(());
    }
    Err(match end {
        Ok(end) => super::act::failure(&argv, &end),
        Err(fault) => fault,
    })
}
