//! There is a complete archive of the container that this operation made, and a record that says whose it is.

use super::{
    act::{Act, Bound, did_not_happen, failure},
    backup_facts,
    backup_leftover::{self, End},
    ha,
    standing::{self, Container},
};
use crate::{
    archives::{self, ArchiveRecord},
    facts::{
        backups::{self, Found},
        cluster,
    },
    host::files,
    pve::{
        backup_argv,
        storage_cfg::Storage,
        vzdump::{self, Archive, VzdumpLog},
    },
};
use proximity_protocol::{
    backup::{BackupMade, BackupMode, BackupSpec, VolumeBackupFacts, copies_through_snapshots},
    command::Outcome,
    fault::{Fault, FaultKind},
    ids::ArchiveId,
};
use std::time::Duration;

/// The name of the tool's run.
pub(super) const BACKUP: &str = "backup";
/// How long `vzdump` may say nothing: of a large container it packs for hours without a word.
const SILENCE: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn run(act: &Act<'_>, spec: &BackupSpec) -> Result<Outcome, Fault> {
    let vmid = spec.target.vmid;
    act.check_idle(vmid)?;
    let storage = cluster::storage(act.node, &spec.storage)?;
    if !act.has_called(BACKUP) {
        backups::storage(act.node, &spec.storage)?;
        if let Some(made) = made_already(act, spec, &storage).await? {
            return Ok(made);
        }
        let container = standing::require(act.node, &spec.target)?;
        check_possible(act, &container, spec)?;
        container.check_unlocked()?;
        if backups::one_runs(act.node)? {
            return Err(Fault::new(
                FaultKind::Locked,
                "another backup runs on the node (vzdump), which makes one at a time; waiting for its end",
            ));
        }
        act.say(&format!(
            "backing up container {vmid} to {} ({} mode)",
            spec.storage,
            spec.mode.as_str()
        ));
    }
    let volumes = match standing::require(act.node, &spec.target) {
        Ok(container) => backup_facts::of_conf(act.node, &container.conf)?,
        // It was backed up, and is gone since.
        Err(fault) if fault.kind == FaultKind::ContainerMissing => Vec::new(),
        Err(fault) => return Err(fault),
    };
    let argv = backup_argv::vzdump(spec, act.operation);
    let end = act.tool(BACKUP, &argv, Some(vmid), Bound::Wait(SILENCE), &[]).await;
    if let Err(fault) = &end
        && fault.kind == FaultKind::DeadlineExceeded
    {
        // It goes on: nothing of it is a leftover.
        return Err(fault.clone());
    }
    let said = match &end {
        Ok(end) => end.stdout.clone(),
        Err(_) => act.told(BACKUP)?,
    };
    let asked_unix_s = act.asked_unix_s(BACKUP)?;
    let log = VzdumpLog::parse(&said);
    // One that says how it ended has tidied up; of any other the lock is left.
    let by_itself = log.failed.is_some() || log.finished_s.is_some();
    let how = if by_itself { End::ByItself } else { End::Killed };
    backup_leftover::clean(act, &spec.target, &storage, &log, asked_unix_s, how).await?;
    if let Some(found) = complete(act, spec, &storage, &log).await? {
        let record = record(act, spec, &found, &log, volumes);
        archives::write(act.node, &record)?;
        let mut text = said;
        if let Ok(end) = &end
            && !end.success()
        {
            // The archive is whole; what failed came after it (a note, the guest's start, which was done again).
            text.push_str(&end.stderr);
        }
        return Ok(Outcome::BackedUp(Box::new(record.made(tail(text)))));
    }
    Err(match end {
        Ok(end) if end.success() => Fault::new(
            FaultKind::ToolFailed,
            format!(
                "vzdump {vmid} reported success, but there is no archive of it on {}",
                spec.storage
            ),
        )
        .with_detail(&said),
        Ok(end) => {
            let fault = failure(&argv, &end);
            match (&log.failed, fault.kind) {
                (Some(why), FaultKind::ToolFailed) => Fault {
                    message: format!("the backup of container {vmid} failed: {why}"),
                    ..fault
                },
                _ => fault,
            }
        }
        // What was left is removed.
        Err(fault) => did_not_happen(fault),
    })
}

/// An archive of this operation: by its record, or by its notes if the agent was gone before it could write one.
async fn made_already(act: &Act<'_>, spec: &BackupSpec, storage: &Storage) -> Result<Option<Outcome>, Fault> {
    let vmid = spec.target.vmid;
    for record in archives::of_operation(act.node, act.operation)? {
        if let Some(found) = backups::find(act.node, &record.archive, vmid).await? {
            let log = log_of(&found);
            return Ok(Some(Outcome::BackedUp(Box::new(record.made(log)))));
        }
        archives::remove(act.node, &record.archive)?;
    }
    let Some(found) = backups::marked(act.node, storage, vmid, act.operation).await?.pop() else {
        return Ok(None);
    };
    let text = log_of(&found);
    let volumes = match standing::require(act.node, &spec.target) {
        Ok(container) => backup_facts::of_conf(act.node, &container.conf)?,
        Err(_) => Vec::new(),
    };
    let record = record(act, spec, &found, &VzdumpLog::parse(&text), volumes);
    archives::write(act.node, &record)?;
    Ok(Some(Outcome::BackedUp(Box::new(record.made(text)))))
}

/// What Proxmox keeps of a backup's log beside its archive.
fn log_of(found: &Found) -> String {
    let Some(file) = &found.file else { return String::new() };
    let name = file
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = vzdump::format_of(&name).map_or(name.as_str(), |format| &name[..name.len() - format.len() - 1]);
    // Without it there is just no log to show.
    files::tail(&file.with_file_name(format!("{stem}.log")), BackupMade::LOG_MAX as u64).unwrap_or_default()
}

/// Refuses what would fall back or fail in the middle; which other way there is was said before.
fn check_possible(act: &Act<'_>, container: &Container, spec: &BackupSpec) -> Result<(), Fault> {
    let vmid = container.vmid;
    let refused = |why: String| Err(Fault::new(FaultKind::NotPossible, why));
    if !standing::is_running(act.node, vmid)? {
        // Every mode copies what stands still.
        return Ok(());
    }
    match spec.mode {
        BackupMode::Snapshot => {
            let without = backup_facts::of_conf(act.node, &container.conf)?
                .into_iter()
                .find(|volume| volume.left_out.is_none() && !copies_through_snapshots(&volume.storage_kind));
            match without {
                Some(volume) => refused(format!(
                    "container {vmid} cannot be backed up through a snapshot: {} is on a storage of kind {:?}; ask for suspend or stop",
                    volume.key, volume.storage_kind
                )),
                None => Ok(()),
            }
        }
        BackupMode::Stop if ha::managed(act.node, vmid)?.is_some() => refused(format!(
            "container {vmid} is managed by HA, which would start it again in the middle of the backup: ask for suspend or snapshot, or run `ha-manager set ct:{vmid} --state ignored` first"
        )),
        BackupMode::Stop | BackupMode::Suspend => Ok(()),
    }
}

/// The archive that the log names, if it is there. While it is being made it has another name.
async fn complete(
    act: &Act<'_>,
    spec: &BackupSpec,
    storage: &Storage,
    log: &VzdumpLog,
) -> Result<Option<Found>, Fault> {
    let name = match &log.archive {
        None => return Ok(None),
        Some(Archive::File(path)) => path.rsplit('/').next().unwrap_or_default().to_owned(),
        Some(Archive::OnServer(name)) if log.finished_s.is_some() => name.clone(),
        // A server shows a backup that broke off as well, for a while.
        Some(Archive::OnServer(_)) => return Ok(None),
    };
    let archive = ArchiveId::new(format!("{}:backup/{name}", storage.id)).map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("vzdump named its archive {name:?}: {error}"),
        )
    })?;
    // A name is of a second: what has it may be the archive of an earlier backup, which is not made anew by one that failed.
    if archives::read(act.node, &archive)?.is_some_and(|record| record.operation != act.operation) {
        return Ok(None);
    }
    backups::find(act.node, &archive, spec.target.vmid).await
}

fn record(
    act: &Act<'_>,
    spec: &BackupSpec,
    found: &Found,
    log: &VzdumpLog,
    mut volumes: Vec<VolumeBackupFacts>,
) -> ArchiveRecord {
    // What vzdump said that it leaves out counts, whatever the configuration says by now.
    for left_out in &log.left_out {
        if let Some(volume) = volumes.iter_mut().find(|volume| volume.key == left_out.key)
            && volume.left_out.is_none()
        {
            volume.left_out = Some(left_out.why.clone());
        }
    }
    let format = match &found.file {
        Some(_) => vzdump::format_of(found.archive.name()).unwrap_or("tar"),
        None => "pbs-ct",
    };
    ArchiveRecord {
        version: 1,
        archive: found.archive.clone(),
        app: spec.target.owner.app.clone(),
        vmid: spec.target.vmid,
        operation: act.operation,
        format: format.to_owned(),
        size_bytes: found.size_bytes,
        mode: log.mode.unwrap_or(spec.mode),
        volumes,
        duration_s: log.finished_s.unwrap_or(0),
    }
}

fn tail(mut text: String) -> String {
    let mut start = text.len().saturating_sub(BackupMade::LOG_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.drain(..start);
    text
}
