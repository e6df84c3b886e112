//! Storages of `/etc/pve/storage.cfg`: kinds `dir`, `btrfs` and `nfs` here, [`lvmthin`] and [`pbs`] in files of their own; their volumes, sizes and folders.

mod lvmthin;
pub(crate) mod pbs;
mod sizes;

pub(crate) use sizes::{format_size, parse_size};

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::call::{Call, Stop};
use crate::layout::Layout;

pub(crate) const KIB: u64 = 1024;
pub(crate) const GIB: u64 = 1024 * 1024 * 1024;

/// One entry of `storage.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) path: String,
    pub(crate) content: Vec<String>,
    shared: bool,
    pub(crate) vgname: String,
    /// `prune-backups`: what `vzdump` removes unless told not to.
    pub(crate) prune: String,
}

/// One volume of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) volid: String,
    pub(crate) format: String,
    pub(crate) content: &'static str,
    pub(crate) size: u64,
    pub(crate) vmid: Option<u32>,
    pub(crate) path: PathBuf,
}

/// All storages, in the order of the file.
pub(crate) fn all(layout: &Layout) -> Result<Vec<Storage>, Stop> {
    let path = layout.pve().join("storage.cfg");
    let text = fs::read_to_string(&path).map_err(|error| Stop::die(format!("/etc/pve/storage.cfg: {error}")))?;
    let mut storages: Vec<Storage> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if !line.starts_with([' ', '\t']) {
            if let Some((kind, id)) = trimmed.split_once(':') {
                storages.push(Storage {
                    id: id.trim().to_owned(),
                    kind: kind.to_owned(),
                    path: match kind {
                        "nfs" => format!("/mnt/pve/{}", id.trim()),
                        _ => String::new(),
                    },
                    content: Vec::new(),
                    shared: kind == "nfs",
                    vgname: String::new(),
                    prune: String::new(),
                });
            }
        } else if let (Some(storage), Some((key, value))) = (storages.last_mut(), trimmed.split_once([' ', '\t'])) {
            match key {
                "path" => value.trim().clone_into(&mut storage.path),
                "shared" => storage.shared = value.trim() == "1",
                "vgname" => value.trim().clone_into(&mut storage.vgname),
                "prune-backups" => value.trim().clone_into(&mut storage.prune),
                "content" => storage.content = value.trim().split(',').map(str::to_owned).collect(),
                _ => {}
            }
        }
    }
    Ok(storages)
}

/// One storage, or the words for a missing one.
pub(crate) fn find(layout: &Layout, id: &str) -> Result<Storage, Stop> {
    all(layout)?
        .into_iter()
        .find(|storage| storage.id == id)
        .ok_or_else(|| Stop::die(format!("storage '{id}' does not exist")))
}

impl Storage {
    /// Whether every node of the cluster sees the same.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Fails as activating it would: a folder that is not mounted, a server that does not answer.
    pub(crate) fn activate(&self, layout: &Layout) -> Result<(), Stop> {
        match self.kind.as_str() {
            "pbs" => pbs::check_online(self, layout),
            "lvmthin" => Ok(()),
            _ if layout.host_path(&self.path).is_dir() => Ok(()),
            "nfs" | "cifs" => Err(Stop::die(format!("storage '{}' is not online", self.id))),
            _ => Err(Stop::die(format!(
                "unable to activate storage '{}' - directory '{}' does not exist or is unreachable",
                self.id, self.path
            ))),
        }
    }

    /// Whether containers on it can be copied through a snapshot.
    pub(crate) fn copies_through_snapshots(&self) -> bool {
        self.kind == "lvmthin"
    }

    /// Where backups of a directory storage lie.
    pub(crate) fn dump_folder(&self, layout: &Layout) -> PathBuf {
        self.folder(layout, "backup")
    }

    fn folder(&self, layout: &Layout, content: &str) -> PathBuf {
        layout.host_path(&self.path).join(match content {
            "vztmpl" => "template/cache",
            "iso" => "template/iso",
            "backup" => "dump",
            "snippets" => "snippets",
            _ => "images",
        })
    }

    /// (total, used, available) bytes. What lies on it counts, on top of a base that a real system takes.
    pub(crate) fn usage(&self, layout: &Layout) -> (u64, u64, u64) {
        let total = layout.info().disk_gb * GIB;
        let place = match self.kind.as_str() {
            "lvmthin" => lvmthin::folder(self, layout),
            "pbs" => pbs::server(self, layout),
            _ => layout.host_path(&self.path),
        };
        let used = (total / 50 + allocated(&resolved(&place))).min(total);
        (total, used, total - used)
    }

    /// All volumes, sorted by name.
    pub(crate) fn volumes(&self, layout: &Layout) -> io::Result<Vec<Volume>> {
        match self.kind.as_str() {
            "lvmthin" => return lvmthin::volumes(self, layout),
            "pbs" => return pbs::volumes(self, layout),
            _ => {}
        }
        let mut volumes = Vec::new();
        for (content, word) in [("vztmpl", "vztmpl"), ("iso", "iso"), ("backup", "backup")] {
            if !self.content.iter().any(|held| held == content) {
                continue;
            }
            for (name, path) in entries(&self.folder(layout, content))? {
                let format = match content {
                    "vztmpl" if name.ends_with(".tar.zst") => "tzst",
                    "vztmpl" if name.ends_with(".tar.gz") => "tgz",
                    "vztmpl" if name.ends_with(".tar.xz") => "txz",
                    "backup" => match ["tar.zst", "tar.gz", "tar.lzo", "tar"]
                        .iter()
                        .find(|end| name.ends_with(&format!(".{end}")))
                    {
                        Some(format) => format,
                        None => continue,
                    },
                    "iso" if name.ends_with(".iso") => "iso",
                    _ => continue,
                };
                let vmid = if content == "backup" {
                    name.split('-').nth(2).and_then(|id| id.parse().ok())
                } else {
                    None
                };
                volumes.push(Volume {
                    volid: format!("{}:{content}/{name}", self.id),
                    format: format.to_owned(),
                    content: word,
                    size: fs::metadata(&path).map_or(0, |meta| meta.len()),
                    vmid,
                    path,
                });
            }
        }
        for (owner, folder) in entries(&self.folder(layout, "images"))? {
            let Ok(vmid) = owner.parse::<u32>() else { continue };
            // What has an `@` is a snapshot of a subvolume.
            for (name, path) in entries(&folder)?.into_iter().filter(|(name, _)| !name.contains('@')) {
                let subvolume = name.ends_with(".subvol");
                volumes.push(Volume {
                    volid: format!("{}:{vmid}/{name}", self.id),
                    format: if subvolume { "subvol" } else { "raw" }.to_owned(),
                    content: "rootdir",
                    size: if subvolume {
                        0
                    } else {
                        fs::metadata(&path).map_or(0, |meta| meta.len())
                    },
                    vmid: Some(vmid),
                    path,
                });
            }
        }
        volumes.sort_by(|a, b| a.volid.cmp(&b.volid));
        Ok(volumes)
    }
}

/// Visible entries of a folder, sorted; a missing folder is empty.
fn entries(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.starts_with('.') {
                    found.push((name, entry.path()));
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    found.sort();
    Ok(found)
}

/// A shared storage's folder is a link on each node.
fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn allocated(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    entries(path).map_or(0, |entries| entries.iter().map(|(_, path)| allocated(path)).sum())
}

/// Where a volume lies. `local:vztmpl/x`, `local:backup/x`, `local:100/vm-100-disk-0.raw`.
pub(crate) fn path_of(layout: &Layout, volid: &str) -> Result<PathBuf, Stop> {
    let Some((id, name)) = volid.split_once(':') else {
        return Err(Stop::die(format!("unable to parse volume ID '{volid}'")));
    };
    let storage = find(layout, id)?;
    match storage.kind.as_str() {
        "lvmthin" => return lvmthin::path(&storage, layout, name),
        "pbs" => return pbs::path(&storage, layout, name),
        _ => {}
    }
    let Some((kind, file)) = name.split_once('/') else {
        return Err(Stop::die(format!("unable to parse directory volume name '{name}'")));
    };
    if file.is_empty() || file.contains('/') || file.starts_with('.') {
        return Err(Stop::die(format!("unable to parse directory volume name '{name}'")));
    }
    Ok(match kind {
        "vztmpl" | "iso" | "backup" | "snippets" => storage.folder(layout, kind).join(file),
        _ if kind.parse::<u32>().is_ok() => storage.folder(layout, "images").join(kind).join(file),
        _ => return Err(Stop::die(format!("unable to parse directory volume name '{name}'"))),
    })
}

/// The same of a storage that is activated for it.
pub(crate) fn active_path_of(layout: &Layout, volid: &str) -> Result<PathBuf, Stop> {
    let (id, _) = volid.split_once(':').unwrap_or((volid, ""));
    find(layout, id)?.activate(layout)?;
    path_of(layout, volid)
}

/// The file to unpack: of a backup server, what it keeps for a backup.
pub(crate) fn archive_file(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(pbs::DATA)
    } else {
        path.to_owned()
    }
}

/// Where the notes of a backup are.
pub(crate) fn notes_file(path: &Path) -> PathBuf {
    if path.is_dir() {
        return path.join(pbs::NOTES);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".notes");
    name.into()
}

/// Makes a new disk for a container and answers its volume id; a raw image is said to be formatted.
pub(crate) fn allocate(call: &mut Call<'_>, storage: &str, vmid: u32, size: u64) -> Result<String, Stop> {
    let storage = find(call.layout(), storage)?;
    if !storage.content.iter().any(|content| content == "rootdir") {
        return Err(Stop::die(format!(
            "storage '{}' does not support container directories",
            storage.id
        )));
    }
    if storage.kind == "lvmthin" {
        return lvmthin::allocate(call, &storage, vmid, size);
    }
    storage.activate(call.layout())?;
    let folder = storage.folder(call.layout(), "images").join(vmid.to_string());
    let failed = |error: io::Error| Stop::die(format!("unable to create image: {error}"));
    fs::create_dir_all(&folder).map_err(failed)?;
    let subvolume = storage.kind == "btrfs" && size == 0;
    let (kind, end) = if subvolume { ("subvol", "subvol") } else { ("vm", "raw") };
    let taken: Vec<String> = entries(&folder)
        .map_err(failed)?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let number = (0..)
        .find(|n| !taken.iter().any(|name| name.contains(&format!("-{vmid}-disk-{n}."))))
        .unwrap_or_default();
    let name = format!("{kind}-{vmid}-disk-{number}.{end}");
    let path = folder.join(&name);
    if subvolume {
        fs::create_dir(&path).map_err(failed)?;
    } else {
        allocate_raw(call, &storage, &path, size)?;
        format_ext4(call, size)?;
    }
    Ok(format!("{}:{vmid}/{name}", storage.id))
}

/// A sparse image file. `Formatting …` is qemu-img's word, which the btrfs plugin does not use.
pub(crate) fn allocate_raw(call: &mut Call<'_>, storage: &Storage, path: &Path, size: u64) -> Result<(), Stop> {
    let failed = |error: io::Error| Stop::die(format!("unable to create image: {error}"));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    if matches!(storage.kind.as_str(), "dir" | "nfs") {
        let shown = call.layout().node_path(path);
        call.say(&format!("Formatting '{shown}', fmt=raw size={size} preallocation=off"))?;
    }
    Ok(())
}

/// The words of `mkfs.ext4` for an image of `size` bytes.
fn format_ext4(call: &mut Call<'_>, size: u64) -> Result<(), Stop> {
    let blocks = size / 4096;
    call.say(&format!(
        "Creating filesystem with {blocks} 4k blocks and {} inodes",
        blocks / 4
    ))?;
    call.say(&format!("Filesystem UUID: {}", random_uuid()))?;
    call.say("Superblock backups stored on blocks: ")?;
    let mut groups: Vec<u64> = vec![1];
    for base in [3u64, 5, 7] {
        groups.extend(
            std::iter::successors(Some(base), |power| power.checked_mul(base))
                .take_while(|group| group * 32768 < blocks),
        );
    }
    groups.sort_unstable();
    let mut text = String::from("\t");
    let mut column = 8;
    for (index, group) in groups.iter().filter(|group| *group * 32768 < blocks).enumerate() {
        let number = (group * 32768).to_string();
        if index > 0 {
            text.push_str(", ");
            column += 2;
            if column + number.len() > 79 {
                text.push_str("\n\t");
                column = 8;
            }
        }
        column += number.len();
        text.push_str(&number);
    }
    call.say(&text)
}

/// Removes a volume; its folder too when it was the last.
pub(crate) fn free(layout: &Layout, volid: &str) -> Result<(), Stop> {
    let path = path_of(layout, volid)?;
    for snapshot in snapshots_of(&path) {
        remove(&snapshot).map_err(|error| Stop::die(format!("{}: {error}", layout.node_path(&snapshot))))?;
    }
    match remove(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(Stop::die(format!(
                "unlink '{}' failed: {error}",
                layout.node_path(&path)
            )));
        }
    }
    if let Some(folder) = path.parent().filter(|folder| {
        folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok())
    }) {
        // Fails while others are in it, which is meant.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Where the snapshot of a volume lies: beside it, `…@name` of a subvolume, `snap_…_name` of a logical volume.
pub(crate) fn snapshot_path(volume: &Path, snapshot: &str) -> PathBuf {
    if volume.extension().is_some_and(|end| end == "subvol") {
        let mut name = volume.as_os_str().to_owned();
        name.push(format!("@{snapshot}"));
        return name.into();
    }
    lvmthin::snapshot(volume, snapshot)
}

/// All snapshots of a volume.
fn snapshots_of(volume: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (volume.parent(), volume.file_name()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy();
    let (subvolume, logical) = (format!("{name}@"), format!("snap_{name}_"));
    let found = entries(folder).unwrap_or_default();
    found
        .into_iter()
        .filter(|(entry, _)| entry.starts_with(&subvolume) || entry.starts_with(&logical))
        .map(|(_, path)| path)
        .collect()
}

/// Bytes from the system's random source.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Ok(mut source) = fs::File::open("/dev/urandom") {
        // Short reads do not happen for so few bytes; zeros would show at once as a duplicate.
        let _ = source.read_exact(&mut bytes);
    }
    bytes
}

/// A random UUID in text form.
pub(crate) fn random_uuid() -> String {
    let mut bytes = random_bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// A new hardware address in Proxmox's own range.
pub(crate) fn random_mac() -> String {
    let [a, b, c] = random_bytes::<3>();
    format!("BC:24:11:{a:02X}:{b:02X}:{c:02X}")
}
