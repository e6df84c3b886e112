//! The archive of a backup: of a snapshot, of a frozen container, or of one that stands still.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::settings::{Settings, tool};
use super::{LxcBody, archive, child, remove, volumes};
use crate::archive::CONFIG;
use crate::body::{Body, BodyError, Ct, Packing, io_at};

pub(super) fn pack(body: &LxcBody, ct: &Ct<'_>, target: &Path, packing: &Packing<'_>) -> Result<u64, BodyError> {
    let also: Vec<PathBuf> = volumes::disks(ct)?
        .into_iter()
        .filter(|disk| disk.backup && !disk.inside.as_os_str().is_empty())
        .map(|disk| disk.inside)
        .collect();
    let config = ct.layout.lxc_dir(ct.vmid).join("vzdump-config");
    remove(&config)?;
    write_config(&config, packing.config)?;
    let pack = |root: &Path| archive::pack(root, &also, &config, packing.squeezer, target, ct.interrupted);
    let packed = still(body, ct, packing, pack);
    packed.and_then(|bytes| remove(&config).map(|()| bytes))
}

fn still(
    body: &LxcBody,
    ct: &Ct<'_>,
    packing: &Packing<'_>,
    pack: impl Fn(&Path) -> Result<u64, BodyError>,
) -> Result<u64, BodyError> {
    if let Some(name) = packing.snapshot {
        let disks: Vec<_> = volumes::kept(ct, name)?
            .into_iter()
            .filter(|disk| disk.backup)
            .collect();
        let packed = volumes::mount_beside(ct, &disks).and_then(|root| pack(&root));
        let released = volumes::release_beside(ct);
        return packed.and_then(|bytes| released.map(|()| bytes));
    }
    if body.is_running(ct.layout, ct.vmid) {
        let settings = Settings::of(ct.layout)?;
        child::run(tool(&settings, ct.layout, ct.vmid, "lxc-freeze"))?;
        let packed = pack(&volumes::tree(ct));
        let thawed = child::run(tool(&settings, ct.layout, ct.vmid, "lxc-unfreeze"));
        return packed.and_then(|bytes| thawed.map(|_| bytes));
    }
    let packed = volumes::mount(ct, |disk| disk.backup).and_then(|root| pack(&root));
    let released = volumes::release(ct);
    packed.and_then(|bytes| released.map(|()| bytes))
}

/// Where the container's own root, a user of the machine without rights, can read it.
fn write_config(folder: &Path, text: &str) -> Result<(), BodyError> {
    let path = folder.join(CONFIG);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io_at(parent))?;
    }
    fs::write(&path, text).map_err(io_at(&path))?;
    for shown in path.ancestors().take_while(|shown| shown.starts_with(folder)) {
        let mode = if shown.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(shown, fs::Permissions::from_mode(mode)).map_err(io_at(shown))?;
    }
    Ok(())
}
