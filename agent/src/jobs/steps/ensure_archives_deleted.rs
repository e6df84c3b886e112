//! Archives are gone, with their logs, notes and records. What has no record of the app is not touched, and what its owner protected in Proxmox stays.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    backup_leftover::{self, End},
    ensure_backed_up::BACKUP,
};
use crate::{
    archives,
    facts::{backups, cluster},
    host::tool,
    pve::{backup_argv, vzdump::VzdumpLog},
};
use proximity_protocol::{
    backup::{ArchiveRef, ArchivesToDelete},
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
    ids::{ArchiveId, StorageId, Vmid},
};
use std::{io, time::Duration};

/// How long removing one may take.
const BOUND: Duration = Duration::from_secs(900);
/// Between two looks at a backup that was told to end.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(act: &Act<'_>, which: &ArchivesToDelete) -> Result<Outcome, Fault> {
    match which {
        ArchivesToDelete::One(wanted) => one(act, wanted).await?,
        ArchivesToDelete::OfThisOperation { target, storage } => of_operation(act, target, storage).await?,
    }
    Ok(Outcome::Done)
}

async fn one(act: &Act<'_>, wanted: &ArchiveRef) -> Result<(), Fault> {
    if backups::find(act.node, &wanted.archive, wanted.vmid).await?.is_none() {
        // Pruned by others, or removed by an earlier try: only the record is left, if that.
        return match archives::require(act.node, wanted) {
            Ok(_) => archives::remove(act.node, &wanted.archive),
            Err(fault) if fault.kind == FaultKind::NotOurs => Ok(()),
            Err(fault) => Err(fault),
        };
    }
    archives::require(act.node, wanted)?;
    remove(act, "free", &wanted.archive, wanted.vmid).await
}

async fn remove(act: &Act<'_>, name: &str, archive: &ArchiveId, vmid: Vmid) -> Result<(), Fault> {
    act.say(&format!("removing backup {archive}"));
    let argv = backup_argv::free(archive);
    let end = act.tool(name, &argv, None, Bound::Wait(BOUND), &[]).await;
    // It ends with zero also when there was nothing: what counts is that there is nothing.
    if backups::find(act.node, archive, vmid).await?.is_none() {
        return archives::remove(act.node, archive);
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!("backup {archive} is still there after it was removed: see its storage in Proxmox"),
        ),
        Ok(end) if end.stderr.contains("protected") => Fault::new(
            FaultKind::NotPossible,
            format!("backup {archive} is protected in Proxmox: take the protection off there first"),
        ),
        Ok(end) => failure(&argv, &end),
        Err(fault) => did_not_happen(fault),
    })
}

async fn of_operation(act: &Act<'_>, target: &Target, storage: &StorageId) -> Result<(), Fault> {
    let unreadable = |error: io::Error| {
        Fault::new(
            FaultKind::Internal,
            format!("the agent's folder of tools cannot be read: {error}"),
        )
    };
    // TERM makes it clean up behind itself, or is not heard (a tar that is under way) and it ends when it is done. Never KILL.
    let mut told = 0;
    loop {
        let running = tool::terminate_all(act.node, act.operation, BACKUP).map_err(unreadable)?;
        if running == 0 {
            break;
        }
        if told == 0 {
            act.say(&format!("ending the backup of container {}", target.vmid));
        }
        told += 1;
        act.node.tools().sleep(LOOK).await;
    }
    let storage = cluster::storage(act.node, storage)?;
    let mut nothing_was_made = true;
    for (said, asked_unix_s) in tool::said_by_all(act.node, act.operation, BACKUP).map_err(unreadable)? {
        let log = VzdumpLog::parse(&said);
        nothing_was_made &= log.failed.is_some() && log.finished_s.is_none();
        // One that has ended by itself has removed its lock: if there is one, it is not its.
        let end = if log.failed.is_some() || log.finished_s.is_some() {
            End::ByItself
        } else {
            End::Killed
        };
        backup_leftover::clean(act, target, &storage, &log, asked_unix_s, end).await?;
    }
    let mut ours: Vec<ArchiveId> = archives::of_operation(act.node, act.operation)?
        .into_iter()
        .map(|record| record.archive)
        .collect();
    // Where it said itself that it failed, its storage need not be there to be asked.
    if !nothing_was_made {
        let marked = backups::marked(act.node, &storage, target.vmid, act.operation).await?;
        ours.extend(marked.into_iter().map(|found| found.archive));
    }
    ours.sort();
    ours.dedup();
    for (n, archive) in ours.iter().enumerate() {
        if backups::find(act.node, archive, target.vmid).await?.is_some() {
            remove(act, &format!("free_{n}"), archive, target.vmid).await?;
        } else {
            archives::remove(act.node, archive)?;
        }
    }
    Ok(())
}
