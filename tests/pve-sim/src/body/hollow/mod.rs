//! The hollow body: no root and no process per container. A container is files:
//!
//! | file | what it holds |
//! |---|---|
//! | `<root>/var/lib/lxc/<id>/init.pid` | the made-up process id of its init and its start in seconds, while it runs |
//! | `<root>/var/lib/lxc/<id>/address` | its address, `a.b.c.d/prefix`, kept over restarts |
//! | `<root>/var/lib/lxc/<id>/files/` | what was pushed or made inside |
//! | `<root>/var/lib/lxc/<id>/installed` | there once `install` of the recipe has run |
//! | `<root>/var/lib/lxc/<id>/listens` | made by a test before a start: ports on which an app listens that nobody installed through a recipe |
//! | `<root>/var/lib/lxc/<id>/exec.log` | every command that was run inside, one JSON list per line |
//! | `<root>/var/lib/lxc/<id>/snapshots/<name>/` | files and mark as a snapshot kept them |
//! | `<root>/var/lib/lxc/<id>/deaf` | made by a test: it does not react to a shutdown |
//!
//! In a cluster all but `init.pid` lie in the cluster's folder instead, so that they go with the container from node to node: a network file
//! system would show the same there, and `pct migrate` copies local volumes.
//!
//! What the kernel would show of it:
//!
//! | file | what it holds |
//! |---|---|
//! | `<root>/proc/net/unix` | a line `@/var/lib/lxc/<id>/command` for each that runs |
//! | `<root>/proc/net/dev`, `<root>/sys/class/net/veth<id>i<n>/` | its interfaces on the node |
//! | `<root>/proc/<pid>/{net/fib_trie,net/route,net/dev,net/tcp,cgroup,stat,status,comm}` | its init, with address, default route and listening ports |
//! | `<root>/sys/fs/cgroup/lxc/<id>/ns/init.scope/cgroup.procs` | `<pid>` |
//! | `<root>/sys/fs/cgroup/lxc/<id>/{memory.current,memory.stat,memory.max,memory.swap.*,cpu.stat,cpu.max,io.stat,*.pressure}` | figures (version 2); `serve` moves them every second |
//!
//! Run inside can be: what the recipe runner uses (`mkdir`, `chmod`, `rm`, `test`, `/bin/sh /var/lib/proximity/recipe/install`,
//! `…/files/configure` and `…/health`, which both fail until the first was run) and `true false echo cat ls rm test env hostname touch sh -c`.

pub(crate) mod archive;
pub(crate) mod kernel;
pub(crate) mod shell;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Body, BodyError, Ct, Figures, FileOwner, Packing, Shutdown, Stdio, Unpacked, io_at};
use crate::conf::{Properties, Section, numbered};
use crate::layout::{BodyKind, Layout};

/// How many bytes tar says that it read of a placeholder template.
const TEMPLATE_BYTES: u64 = 158_525_440;
/// What a Debian template brings along.
const SKELETON: [&str; 14] = [
    "etc",
    "etc/network",
    "home",
    "opt",
    "root",
    "run",
    "srv",
    "tmp",
    "usr/bin",
    "usr/local/bin",
    "var/lib",
    "var/log",
    "var/tmp",
    "var/www",
];

/// Containers that are files only.
#[derive(Debug, Default)]
pub struct HollowBody;

/// What stands for the root directory of a container.
pub(crate) fn files(layout: &Layout, vmid: u32) -> PathBuf {
    layout.guest_dir(vmid).join("files")
}

/// The host path of an absolute path inside; `..` does not lead out.
pub(crate) fn inside(layout: &Layout, vmid: u32, path: &str) -> PathBuf {
    let mut host = files(layout, vmid);
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            continue;
        }
        host.push(part);
    }
    host
}

impl Body for HollowBody {
    fn kind(&self) -> BodyKind {
        BodyKind::Hollow
    }

    fn unpack(&self, ct: &Ct<'_>, archive: &Path, _: &mut dyn Write) -> Result<Unpacked, BodyError> {
        let folder = files(ct.layout, ct.vmid);
        for name in SKELETON {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(io_at(&path))?;
        }
        let bytes = match archive::unpack(archive, &ct.layout.guest_dir(ct.vmid))? {
            Some(bytes) => bytes,
            None => {
                let path = folder.join("etc/passwd");
                fs::create_dir_all(folder.join("etc")).map_err(io_at(&folder))?;
                fs::write(&path, "root:x:0:0:root:/root:/bin/bash\n").map_err(io_at(&path))?;
                TEMPLATE_BYTES
            }
        };
        if ct.interrupted.yes() {
            self.destroy(ct)?;
            return Err(BodyError::Interrupted);
        }
        let name = archive
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let ostype = name
            .split('-')
            .next()
            .filter(|system| matches!(*system, "debian" | "ubuntu" | "alpine" | "fedora" | "centos"));
        let arch = if name.contains("arm64") { "arm64" } else { "amd64" };
        Ok(Unpacked {
            bytes,
            arch: arch.to_owned(),
            ostype: ostype.map(str::to_owned),
        })
    }

    fn copy_from(&self, ct: &Ct<'_>, from: u32, snapshot: Option<&str>) -> Result<(), BodyError> {
        let source = kept(ct.layout, from, snapshot);
        copy_container(&source, &ct.layout.guest_dir(ct.vmid))
    }

    fn pack(&self, ct: &Ct<'_>, archive: &Path, packing: &Packing<'_>) -> Result<u64, BodyError> {
        let source = kept(ct.layout, ct.vmid, packing.snapshot);
        archive::pack(&source, &left_out(ct.conf), archive, packing)
    }

    fn saved_config(&self, archive: &Path) -> Result<String, BodyError> {
        archive::config(archive)
    }

    fn snapshot(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
        self.drop_snapshot(ct, name)?;
        copy_container(&ct.layout.guest_dir(ct.vmid), &kept(ct.layout, ct.vmid, Some(name)))
    }

    fn drop_snapshot(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
        remove_tree(&kept(ct.layout, ct.vmid, Some(name)))
    }

    fn roll_back(&self, ct: &Ct<'_>, name: &str) -> Result<(), BodyError> {
        let folder = ct.layout.guest_dir(ct.vmid);
        remove_tree(&folder.join("files"))?;
        copy_container(&kept(ct.layout, ct.vmid, Some(name)), &folder)
    }

    fn grow(&self, _: &Ct<'_>, _: &Path) -> Result<(), BodyError> {
        Ok(())
    }

    fn start(&self, ct: &Ct<'_>) -> Result<u32, BodyError> {
        let pid = kernel::start(ct)?;
        nudge(ct)?;
        Ok(pid)
    }

    fn stop(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        kernel::stop(ct.layout, ct.vmid)?;
        nudge(ct)
    }

    fn shutdown(&self, ct: &Ct<'_>, timeout: Duration) -> Result<Shutdown, BodyError> {
        if ct.layout.guest_dir(ct.vmid).join("deaf").exists() {
            ct.clock.sleep(timeout);
            return Ok(Shutdown::StillRunning);
        }
        self.stop(ct)?;
        Ok(Shutdown::Stopped)
    }

    fn is_running(&self, layout: &Layout, vmid: u32) -> bool {
        let socket = format!("@/var/lib/lxc/{vmid}/command");
        fs::read_to_string(layout.proc().join("net/unix")).is_ok_and(|table| {
            table
                .lines()
                .any(|line| line.split_whitespace().last() == Some(socket.as_str()))
        })
    }

    fn figures(&self, ct: &Ct<'_>) -> Option<Figures> {
        kernel::figures(ct)
    }

    fn apply(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        kernel::write_limits(ct)?;
        self.write_hostname(ct)?;
        nudge(ct)
    }

    fn exec(&self, ct: &Ct<'_>, argv: &[String], keep_env: bool, stdio: Stdio<'_>) -> Result<i32, BodyError> {
        shell::exec(ct, argv, keep_env, stdio)
    }

    fn push(&self, ct: &Ct<'_>, from: &Path, to: &str, owner: &FileOwner) -> Result<(), BodyError> {
        let Ok(bytes) = fs::read(from) else {
            return Err(BodyError::Failed(format!(
                "failed to open {} for reading",
                from.display()
            )));
        };
        let target = inside(ct.layout, ct.vmid, to);
        if !target.parent().is_some_and(Path::is_dir) {
            return Err(BodyError::Failed(format!(
                "failed to create file: {to}: No such file or directory"
            )));
        }
        write_with_mode(&target, &bytes, owner.mode)
    }

    fn pull(&self, ct: &Ct<'_>, from: &str, to: &Path, owner: &FileOwner) -> Result<(), BodyError> {
        let Ok(bytes) = fs::read(inside(ct.layout, ct.vmid, from)) else {
            return Err(BodyError::Failed(format!(
                "failed to open {from}: No such file or directory"
            )));
        };
        write_with_mode(to, &bytes, owner.mode)
    }

    fn destroy(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        kernel::stop(ct.layout, ct.vmid)?;
        remove_tree(&ct.layout.lxc_dir(ct.vmid))?;
        remove_tree(&ct.layout.guest_dir(ct.vmid))
    }

    fn rootfs(&self, _: &Ct<'_>) -> Option<PathBuf> {
        None
    }
}

impl HollowBody {
    fn write_hostname(&self, ct: &Ct<'_>) -> Result<(), BodyError> {
        let path = files(ct.layout, ct.vmid).join("etc/hostname");
        if path.parent().is_some_and(Path::is_dir) {
            fs::write(&path, format!("{}\n", hostname(ct))).map_err(io_at(&path))?;
        }
        Ok(())
    }
}

/// Where a container's files and mark lie, now or as kept under a name.
fn kept(layout: &Layout, vmid: u32, snapshot: Option<&str>) -> PathBuf {
    let folder = layout.guest_dir(vmid);
    match snapshot {
        Some(name) => folder.join("snapshots").join(name),
        None => folder,
    }
}

/// Mount points that backups leave out.
fn left_out(conf: &Section) -> Vec<String> {
    let points = conf.values.iter().filter(|(key, _)| numbered(key, "mp").is_some());
    points
        .map(|(_, value)| Properties::parse(value, "volume"))
        .filter(|mount| mount.get("backup") != Some("1"))
        .filter_map(|mount| Some(mount.get("mp")?.trim_end_matches('/').to_owned()))
        .collect()
}

fn copy_container(source: &Path, target: &Path) -> Result<(), BodyError> {
    copy_tree(&source.join("files"), &target.join("files"))?;
    if source.join("installed").exists() {
        let mark = target.join("installed");
        fs::write(&mark, "").map_err(io_at(&mark))?;
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> Result<(), BodyError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_at(folder)(error)),
        _ => Ok(()),
    }
}

/// What answers on the container's ports must follow.
fn nudge(ct: &Ct<'_>) -> Result<(), BodyError> {
    crate::serve::nudge(ct.layout, ct.clock).map_err(io_at(ct.layout.root()))
}

pub(crate) fn hostname(ct: &Ct<'_>) -> String {
    ct.conf
        .get("hostname")
        .map_or_else(|| format!("CT{}", ct.vmid), str::to_owned)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BodyError> {
    fs::write(path, bytes).map_err(io_at(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_at(path))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), BodyError> {
    fs::create_dir_all(to).map_err(io_at(to))?;
    for entry in fs::read_dir(from).map_err(io_at(from))? {
        let entry = entry.map_err(io_at(from))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(io_at(&target))?;
        }
    }
    Ok(())
}
