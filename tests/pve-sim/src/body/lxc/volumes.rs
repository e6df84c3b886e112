//! Disks of a container: images with ext4 (or folders, on a btrfs storage), mounted together below `<lxc_dir>/rootfs`.
//!
//! They stay mounted while the container runs, so that it can reboot by itself; stop, destroy and the next start unmount.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::child;
use super::settings::ID_FIRST;
use crate::body::{BodyError, Ct, io_at};
use crate::conf::Properties;
use crate::lab::mounts;
use crate::storage;

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// Where it is mounted inside; empty for the root.
    pub(super) inside: PathBuf,
    /// The image or folder.
    pub(super) volume: PathBuf,
    /// Whether it goes into backups.
    pub(super) backup: bool,
}

/// The folder of the whole tree.
pub(super) fn tree(ct: &Ct<'_>) -> PathBuf {
    ct.layout.lxc_dir(ct.vmid).join("rootfs")
}

/// Root first, then mount points by number.
pub(super) fn disks(ct: &Ct<'_>) -> Result<Vec<Disk>, BodyError> {
    let mut disks = vec![Disk {
        inside: PathBuf::new(),
        volume: ct.root_volume.to_owned(),
        backup: true,
    }];
    for (key, volume) in ct.conf.volumes() {
        if !key.starts_with("mp") {
            continue;
        }
        let properties = Properties::parse(ct.conf.get(&key).unwrap_or_default(), "volume");
        let path = properties.get("mp").unwrap_or_default();
        let inside: PathBuf = Path::new(path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        if inside.as_os_str().is_empty() || path.contains("..") {
            return Err(BodyError::Failed(format!(
                "{key}: '{path}' is no path of a mount point"
            )));
        }
        let volume = storage::path_of(ct.layout, &volume).map_err(|stop| BodyError::Failed(stop.text()))?;
        disks.push(Disk {
            inside,
            volume,
            backup: properties.get("backup") == Some("1"),
        });
    }
    Ok(disks)
}

/// Mounts all disks for which `wanted` says so; a disk without a file system gets one. What is mounted already stays.
pub(super) fn mount(ct: &Ct<'_>, wanted: impl Fn(&Disk) -> bool) -> Result<PathBuf, BodyError> {
    let root = tree(ct);
    fs::create_dir_all(&root).map_err(io_at(&root))?;
    reachable(&root)?;
    for disk in disks(ct)?.into_iter().filter(|disk| wanted(disk)) {
        let point = make_folders(&root, &disk.inside)?;
        if mounts::is_point(&point).map_err(io_at(&point))? {
            continue;
        }
        let mut command = Command::new("mount");
        let mut new = false;
        if disk.volume.is_dir() {
            own(&disk.volume)?;
            command.arg("--bind");
        } else {
            new = format(&disk.volume)?;
            command.args(["-t", "ext4", "-o", "loop"]);
        }
        command.arg(&disk.volume).arg(&point);
        child::run(command)?;
        if new {
            // mkfs leaves it to the machine's root, so that a backup could not read it.
            own(&point.join("lost+found"))?;
        }
    }
    Ok(root)
}

/// The disks as a snapshot kept them.
pub(super) fn kept(ct: &Ct<'_>, name: &str) -> Result<Vec<Disk>, BodyError> {
    let mut disks = disks(ct)?;
    for disk in &mut disks {
        disk.volume = storage::snapshot_path(&disk.volume, name);
    }
    Ok(disks)
}

/// Mounts disks read-only below a folder of its own, as `vzdump` does with a snapshot.
pub(super) fn mount_beside(ct: &Ct<'_>, disks: &[Disk]) -> Result<PathBuf, BodyError> {
    let root = ct.layout.lxc_dir(ct.vmid).join("vzsnap0");
    fs::create_dir_all(&root).map_err(io_at(&root))?;
    reachable(&root)?;
    for disk in disks {
        let mut command = Command::new("mount");
        if disk.volume.is_dir() {
            command.args(["--bind", "-o", "ro"]);
        } else {
            command.args(["-t", "ext4", "-o", "loop,ro,noload"]);
        }
        command.arg(&disk.volume).arg(root.join(&disk.inside));
        child::run(command)?;
    }
    Ok(root)
}

/// Unmounts what [`mount_beside`] mounted.
pub(super) fn release_beside(ct: &Ct<'_>) -> Result<(), BodyError> {
    let root = ct.layout.lxc_dir(ct.vmid).join("vzsnap0");
    mounts::release(&root).map_err(io_at(&root))
}

/// Copies every volume to its snapshot. A mounted file system is frozen for it, as LVM does.
pub(super) fn keep(ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
    forget(ct, name)?;
    let root = tree(ct);
    let mut frozen = Vec::new();
    let copied = (|| {
        for disk in disks(ct)? {
            let point = root.join(&disk.inside);
            if mounts::is_point(&point).map_err(io_at(&point))? && disk.volume.is_file() {
                child::run(freeze("-f", &point))?;
                frozen.push(point);
            }
        }
        for disk in disks(ct)? {
            copy(&disk.volume, &storage::snapshot_path(&disk.volume, name))?;
        }
        Ok(())
    })();
    for point in frozen.into_iter().rev() {
        child::run(freeze("-u", &point))?;
    }
    copied
}

fn freeze(how: &str, point: &Path) -> Command {
    let mut command = Command::new("fsfreeze");
    command.arg(how).arg(point);
    command
}

fn copy(from: &Path, to: &Path) -> Result<(), BodyError> {
    let mut command = Command::new("cp");
    command
        .args(["-a", "--sparse=always", "--reflink=auto", "-T"])
        .arg(from)
        .arg(to);
    child::run(command).map(drop)
}

/// Removes a snapshot of every volume.
pub(super) fn forget(ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
    for disk in kept(ct, name)? {
        match storage::remove(&disk.volume) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&disk.volume)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Copies a snapshot of every volume back; nothing is mounted.
pub(super) fn roll_back(ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
    for (disk, kept) in disks(ct)?.into_iter().zip(kept(ct, name)?) {
        if disk.volume.is_dir() {
            fs::remove_dir_all(&disk.volume).map_err(io_at(&disk.volume))?;
        }
        copy(&kept.volume, &disk.volume)?;
    }
    Ok(())
}

/// The file system on an image that has grown follows: through the loop devices that it is mounted by, or checked first and then as a file.
pub(super) fn grow(image: &Path, running: bool) -> Result<(), BodyError> {
    let program = |name: &str, args: &[&str], file: &Path| {
        let mut command = Command::new(name);
        command.args(args).arg(file);
        child::run(command)
    };
    if !running {
        program("e2fsck", &["-f", "-y"], image)?;
        return program("resize2fs", &[], image).map(drop);
    }
    let (listed, _) = program("losetup", &["--noheadings", "--output", "NAME", "--associated"], image)?;
    let devices: Vec<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if devices.is_empty() {
        let why = "internal error: CT running but mount point not attached to a loop device";
        return Err(BodyError::Failed(why.to_owned()));
    }
    for device in devices {
        program("losetup", &["--set-capacity"], Path::new(device))?;
        program("resize2fs", &[], Path::new(device))?;
    }
    Ok(())
}

/// Unmounts the container's disks.
pub(super) fn release(ct: &Ct<'_>) -> Result<(), BodyError> {
    let root = tree(ct);
    mounts::release(&root).map_err(io_at(&root))
}

/// The container's root is user 100000 of the machine and must be able to walk to its tree.
fn reachable(root: &Path) -> Result<(), BodyError> {
    for folder in root.ancestors().skip(1) {
        let mode = fs::metadata(folder).map_err(io_at(folder))?.permissions().mode();
        if mode & 0o001 == 0 {
            return Err(BodyError::Failed(format!(
                "the root of a container cannot get through {}: its users are not those of the machine; put the node below a folder that everybody may pass (chmod o+x)",
                folder.display()
            )));
        }
    }
    Ok(())
}

fn own(folder: &Path) -> Result<(), BodyError> {
    if fs::metadata(folder).map_err(io_at(folder))?.uid() != ID_FIRST {
        chown(folder, Some(ID_FIRST), Some(ID_FIRST)).map_err(io_at(folder))?;
    }
    Ok(())
}

/// Makes an ext4 in an image that has none yet; tells whether it did.
fn format(image: &Path) -> Result<bool, BodyError> {
    if has_ext4(image).map_err(io_at(image))? {
        return Ok(false);
    }
    let mut command = Command::new("mkfs.ext4");
    command
        .args(["-q", "-F", "-J", "size=16", "-E"])
        .arg(format!("root_owner={ID_FIRST}:{ID_FIRST},nodiscard"))
        .arg(image);
    child::run(command).map(|_| true)
}

/// The magic number of an ext4 superblock, 0xEF53 at 1024 + 56.
fn has_ext4(image: &Path) -> io::Result<bool> {
    let mut file = File::open(image)?;
    let mut magic = [0; 2];
    file.seek(SeekFrom::Start(1080))?;
    match file.read_exact(&mut magic) {
        Ok(()) => Ok(magic == [0x53, 0xEF]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the folders of `inside` below `root`, owned by the container's root. The container could have put a symbolic link
/// in the way, which would lead out of it: refused. It does not run, so it cannot race.
pub(super) fn make_folders(root: &Path, inside: &Path) -> Result<PathBuf, BodyError> {
    let mut path = root.to_owned();
    for part in inside.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(BodyError::Failed(format!(
                    "'{}' in the container is no folder, so nothing is mounted or written there",
                    inside.display()
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(io_at(&path))?;
                chown(&path, Some(ID_FIRST), Some(ID_FIRST)).map_err(io_at(&path))?;
            }
            Err(error) => return Err(io_at(&path)(error)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_link_in_the_container_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("srv")).unwrap();
        let error = make_folders(dir.path(), Path::new("srv/data")).unwrap_err().to_string();
        assert!(error.contains("is no folder"), "{error}");
        assert!(!Path::new("/etc/data").exists());
    }

    #[test]
    fn an_empty_image_has_no_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk.raw");
        File::create(&image).unwrap().set_len(4096).unwrap();
        assert!(!has_ext4(&image).unwrap());
        File::create(&image).unwrap();
        assert!(!has_ext4(&image).unwrap());
    }
}
