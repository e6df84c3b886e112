//! LVM-thin, as its plugin names things: `local-lvm:vm-100-disk-0` is `/dev/<vg>/vm-100-disk-0`, here an image file. A snapshot is a second volume,
//! `snap_vm-100-disk-0_<name>`. The words of `lvcreate` and `lvremove` are from the plugin's source and LVM's manual, not recorded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Storage, Volume, entries};
use crate::call::{Call, Stop};
use crate::layout::Layout;

pub(super) fn folder(storage: &Storage, layout: &Layout) -> PathBuf {
    layout.root().join("dev").join(&storage.vgname)
}

/// `vm-100-disk-0` belongs to 100.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("vm-")?.split('-').next()?.parse().ok()
}

pub(super) fn volumes(storage: &Storage, layout: &Layout) -> io::Result<Vec<Volume>> {
    let found = entries(&folder(storage, layout))?;
    Ok(found
        .into_iter()
        .filter_map(|(name, path)| {
            let vmid = owner(&name)?;
            Some(Volume {
                volid: format!("{}:{name}", storage.id),
                format: "raw".to_owned(),
                content: "rootdir",
                size: fs::metadata(&path).map_or(0, |meta| meta.len()),
                vmid: Some(vmid),
                path,
            })
        })
        .collect())
}

pub(super) fn path(storage: &Storage, layout: &Layout, name: &str) -> Result<PathBuf, Stop> {
    if owner(name).is_none() || name.contains('/') {
        return Err(Stop::die(format!("unable to parse lvm volume name '{name}'")));
    }
    Ok(folder(storage, layout).join(name))
}

pub(super) fn allocate(call: &mut Call<'_>, storage: &Storage, vmid: u32, size: u64) -> Result<String, Stop> {
    let folder = folder(storage, call.layout());
    let failed = |error: io::Error| Stop::die(format!("lvcreate '{}' error: {error}", storage.vgname));
    fs::create_dir_all(&folder).map_err(failed)?;
    let name = (0..)
        .map(|number| format!("vm-{vmid}-disk-{number}"))
        .find(|name| !folder.join(name).exists())
        .unwrap_or_default();
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(folder.join(&name))
        .map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    call.say(&format!("  Logical volume \"{name}\" created."))?;
    super::format_ext4(call, size)?;
    Ok(format!("{}:{name}", storage.id))
}

/// Where the snapshot of a volume lies.
pub(super) fn snapshot(volume: &Path, snapshot: &str) -> PathBuf {
    let name = volume
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    volume.with_file_name(format!("snap_{name}_{snapshot}"))
}
