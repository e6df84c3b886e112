//! A Proxmox Backup Server as its plugin shows it: backups only, `pbs:backup/ct/100/2026-11-22T20:11:12Z`, no archive file. What the server keeps lies in
//! `<root>/pbs/<storage>/ct/<id>/<time>/` (in a cluster, in its folder): the tar as `data`, `notes`, and `offline` beside `ct` while it does not answer. Words are from source, not recorded.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Storage, Volume, entries};
use crate::call::Stop;
use crate::layout::Layout;

/// What a backup is kept in.
pub(crate) const DATA: &str = "data";
/// Its notes.
pub(crate) const NOTES: &str = "notes";

pub(super) fn server(storage: &Storage, layout: &Layout) -> PathBuf {
    folder(layout, &storage.id)
}

/// What the server of a storage keeps.
pub(crate) fn folder(layout: &Layout, storage: &str) -> PathBuf {
    let place = layout.info().cluster.as_deref().unwrap_or(layout.root());
    place.join("pbs").join(storage)
}

pub(super) fn check_online(storage: &Storage, layout: &Layout) -> Result<(), Stop> {
    if server(storage, layout).join("offline").exists() {
        return Err(Stop::die(format!(
            "{}: error fetching datastores - 500 Can't connect to {}:8007 (Connection refused)",
            storage.id, storage.id
        )));
    }
    Ok(())
}

pub(super) fn volumes(storage: &Storage, layout: &Layout) -> io::Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    for (vmid, folder) in entries(&server(storage, layout).join("ct"))? {
        for (time, path) in entries(&folder)? {
            volumes.push(Volume {
                volid: format!("{}:backup/ct/{vmid}/{time}", storage.id),
                format: "pbs-ct".to_owned(),
                content: "backup",
                size: fs::metadata(path.join(DATA)).map_or(0, |meta| meta.len()),
                vmid: vmid.parse().ok(),
                path,
            });
        }
    }
    Ok(volumes)
}

/// The folder of a backup; `name` is `backup/ct/100/2026-11-22T20:11:12Z`.
pub(super) fn path(storage: &Storage, layout: &Layout, name: &str) -> Result<PathBuf, Stop> {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["backup", "ct", vmid, time] if vmid.parse::<u32>().is_ok() && !time.is_empty() && !time.starts_with('.') => {
            Ok(server(storage, layout).join("ct").join(vmid).join(time))
        }
        _ => Err(Stop::die(format!("unable to parse PBS volume name '{name}'"))),
    }
}
