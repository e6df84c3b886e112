//! What belongs to an archive, and removing older archives: by `--prune-backups`, else by what the storage says, unless `--remove 0`.

use std::fs;
use std::path::{Path, PathBuf};

use super::info;
use crate::call::{Call, Stop};
use crate::storage;

/// The files that belong to an archive: log and notes.
pub(crate) fn companions(archive: &Path) -> Vec<PathBuf> {
    let name = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = name.split(".tar").next().unwrap_or(&name).to_owned();
    vec![
        archive.with_file_name(format!("{stem}.log")),
        archive.with_file_name(format!("{name}.notes")),
    ]
}

pub(super) fn prune(call: &mut Call<'_>, vmid: u32, storage_id: Option<&str>) -> Result<(), Stop> {
    let Some(id) = storage_id else { return Ok(()) };
    if call.args.get("remove") == Some("0") {
        return Ok(());
    }
    let rule = match call.args.get("prune-backups") {
        Some(rule) => rule.to_owned(),
        None => storage::find(call.layout(), id)?.prune,
    };
    if rule.is_empty() || rule == "keep-all=1" {
        return Ok(());
    }
    let Some(keep) = rule
        .strip_prefix("keep-last=")
        .and_then(|number| number.parse::<usize>().ok())
    else {
        return Err(Stop::NotSimulated(format!("--prune-backups {rule}")));
    };
    info(call, &format!("prune older backups with retention: {rule}"))?;
    let layout = call.layout().clone();
    let held = storage::find(&layout, id)?
        .volumes(&layout)
        .map_err(|error| Stop::die(error.to_string()))?;
    let backups: Vec<_> = held
        .into_iter()
        .filter(|volume| volume.content == "backup" && volume.vmid == Some(vmid))
        .collect();
    let surplus = backups.len().saturating_sub(keep);
    for volume in &backups[..surplus] {
        info(call, &format!("removing backup '{}'", volume.volid))?;
        storage::free(&layout, &volume.volid)?;
        for companion in companions(&volume.path) {
            // Companions may be missing.
            let _ = fs::remove_file(companion);
        }
    }
    info(
        call,
        &format!("pruned {surplus} backup(s) not covered by keep-retention policy"),
    )
}
