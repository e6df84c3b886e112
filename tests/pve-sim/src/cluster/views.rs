//! What each node sees of the shared files: the files themselves while it has quorum, and a copy that nobody can write while it has not.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::{Cluster, ClusterInfo, members};
use crate::layout::write_atomically;

/// The top level of `/etc/pve`, in every view. Not all of these files exist.
const SHARED: [&str; 14] = [
    ".version",
    ".vmlist",
    "corosync.conf",
    "datacenter.cfg",
    "firewall",
    "ha",
    "jobs.cfg",
    "nodes",
    "priv",
    "pve-root-ca.pem",
    "replication.cfg",
    "storage.cfg",
    "user.cfg",
    "vzdump.cron",
];

impl Cluster {
    /// Brings what every node sees up to date with who has quorum. The caller holds the lock.
    pub(super) fn show(&self, info: &ClusterInfo) -> io::Result<()> {
        write_atomically(
            &self.database().join("corosync.conf"),
            members::corosync_conf(info).as_bytes(),
        )?;
        for member in &info.members {
            let frozen = self.folder.join("frozen").join(&member.name);
            let quorate = info.is_quorate(&member.name);
            if quorate {
                self.look_at(&member.name, "../pve")?;
                remove(&frozen)?;
            } else if !frozen.exists() {
                let fresh = self.folder.join("frozen").join(format!(".{}.new", member.name));
                remove(&fresh)?;
                freeze(&self.database(), &fresh, false)?;
                fs::rename(&fresh, &frozen)?;
                self.look_at(&member.name, &format!("../frozen/{}", member.name))?;
            }
            let etc_pve = member.root.join("etc/pve");
            self.link(&member.name, &etc_pve)?;
            write_atomically(
                &etc_pve.join(".members"),
                members::members(info, &member.name).as_bytes(),
            )?;
        }
        Ok(())
    }

    fn look_at(&self, name: &str, target: &str) -> io::Result<()> {
        let view = self.folder.join("views").join(name);
        if fs::read_link(&view).is_ok_and(|old| old == Path::new(target)) {
            return Ok(());
        }
        let fresh = self.folder.join("views").join(format!(".{name}.new"));
        remove(&fresh)?;
        symlink(target, &fresh)?;
        fs::rename(fresh, view)
    }

    fn link(&self, name: &str, etc_pve: &Path) -> io::Result<()> {
        fs::create_dir_all(etc_pve)?;
        let view = self.folder.join("views").join(name);
        let shared = SHARED.iter().map(|entry| (*entry, view.join(entry)));
        let own = [
            ("lxc", format!("nodes/{name}/lxc")),
            ("local", format!("nodes/{name}")),
            ("qemu-server", format!("nodes/{name}/qemu-server")),
        ];
        for (entry, target) in shared.chain(own.map(|(entry, target)| (entry, target.into()))) {
            match symlink(target, etc_pve.join(entry)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Copies a tree with the modes that pmxcfs shows without quorum: 0555 and 0444, below `priv` 0500 and 0400.
fn freeze(from: &Path, to: &Path, private: bool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let private = private || entry.file_name() == "priv";
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            freeze(&entry.path(), &target, private)?;
            continue;
        }
        match fs::copy(entry.path(), &target) {
            Ok(_) => fs::set_permissions(&target, fs::Permissions::from_mode(if private { 0o400 } else { 0o444 }))?,
            // A file that somebody was just writing, under a name for the moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(if private { 0o500 } else { 0o555 }))
}

/// Removes a link, or a tree whose folders nobody may write.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.is_dir() => return fs::remove_file(path),
        Ok(_) => {}
    }
    thaw(path)?;
    fs::remove_dir_all(path)
}

fn thaw(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            thaw(&entry.path())?;
        }
    }
    Ok(())
}
