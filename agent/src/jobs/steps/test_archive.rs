//! The archive can be read: decompressed and walked through to its end, and its file is the one that it was. A backup server keeps no file: there the
//! configuration is read, and the server verifies its chunks itself.

use super::act::Act;
use crate::{
    archives,
    facts::backups,
    host::stream::{StreamError, read_through},
    pve::{
        tar::Walk,
        vzdump::{decompressor, format_of},
    },
};
use data_encoding::HEXLOWER;
use proximity_protocol::{
    backup::{ArchiveRef, ArchiveTested},
    command::Outcome,
    fault::{Fault, FaultKind},
};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) async fn run(act: &Act<'_>, wanted: &ArchiveRef, sha256: Option<[u8; 32]>) -> Result<Outcome, Fault> {
    let archive = &wanted.archive;
    let Some(found) = backups::find(act.node, archive, wanted.vmid).await? else {
        return Err(missing(wanted));
    };
    archives::require(act.node, wanted)?;
    let Some(file) = found.file else {
        backups::saved_config(act.node, archive).await?;
        return Ok(Outcome::Tested(ArchiveTested {
            sha256: None,
            entries: None,
        }));
    };
    act.say(&format!("testing backup {archive}"));
    let program = format_of(archive.name())
        .and_then(decompressor)
        .map(|program| act.node.program(program));
    let walk = Arc::new(Mutex::new(Some(Walk::new())));
    let walking = Arc::clone(&walk);
    let step = move |piece: &[u8]| match walking.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        Some(walk) => walk.push(piece).map_err(|error| error.to_string()),
        None => Ok(()),
    };
    let finish = move || match walk.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(walk) => walk.finish().map_err(|error| error.to_string()),
        None => Ok(0),
    };
    let damaged = |why: String| Fault::new(FaultKind::ArchiveDamaged, format!("backup {archive} is damaged: {why}"));
    let (sum, entries) = read_through(file, program, step, finish)
        .await
        .map_err(|error| match error {
            StreamError::Damaged(why) | StreamError::Content(why) => damaged(why),
            error @ StreamError::Read { .. } => Fault::new(FaultKind::StorageUnavailable, error.to_string()),
            error @ (StreamError::Program { .. } | StreamError::GivenUp) => {
                Fault::new(FaultKind::Internal, error.to_string())
            }
        })?;
    if let Some(before) = sha256
        && before != sum
    {
        return Err(damaged(format!(
            "its checksum was {} and is {} now",
            HEXLOWER.encode(&before),
            HEXLOWER.encode(&sum)
        )));
    }
    Ok(Outcome::Tested(ArchiveTested {
        sha256: Some(sum),
        entries: Some(entries),
    }))
}

/// It was pruned.
pub(super) fn missing(wanted: &ArchiveRef) -> Fault {
    Fault::new(
        FaultKind::ArchiveMissing,
        format!(
            "backup {} is not on its storage any more: somebody else removed it",
            wanted.archive
        ),
    )
}
