//! The template of real containers: a small Debian made by debootstrap, built once per machine and kept as `.tar.zst`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{LabError, io_at, note, tool};
use crate::spec::TEMPLATES;

/// Where the template is kept unless another folder is given.
pub const DEFAULT_CACHE: &str = "/var/cache/proximity-lab";
/// Where packages come from unless `PROXIMITY_LAB_MIRROR` says otherwise.
const MIRROR: &str = "http://deb.debian.org/debian";
/// What a container needs beyond the smallest Debian: init, network by /etc/network/interfaces as Proxmox writes it, certificates.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,ifupdown,isc-dhcp-client,ca-certificates,netbase,procps";
/// Raised when the recipe below changes, so that old templates are not used.
const RECIPE: u32 = 2;

/// The template's file below `cache`, built if it is not there yet (a minute or two, network needed). Its name is that of the
/// template that Proxmox offers, so the folder serves as [`crate::NodeSpec::template_pool`] too. Two callers at once: one builds, the other waits.
///
/// # Errors
/// When debootstrap fails; its last words are in the error. Nothing half made stays under the final name.
pub fn ensure_template(cache: &Path, say: &mut dyn FnMut(&str)) -> Result<PathBuf, LabError> {
    fs::create_dir_all(cache).map_err(io_at(cache))?;
    let done = cache.join(TEMPLATES[0]);
    let mark = cache.join(".recipe");
    let fresh = || done.is_file() && fs::read_to_string(&mark).is_ok_and(|text| text.trim() == RECIPE.to_string());
    if fresh() {
        return Ok(done);
    }
    let _lock = note::lock(&cache.join(".lock"))?;
    if fresh() {
        return Ok(done);
    }
    let mirror = std::env::var("PROXIMITY_LAB_MIRROR").unwrap_or_else(|_| MIRROR.to_owned());
    say(&format!(
        "making the container template from {mirror}, once, about a minute: {}",
        done.display()
    ));
    let root = cache.join(".build");
    let archive = cache.join(".build.tar.zst");
    // Left by a build that was killed; nobody else has the lock.
    super::mounts::release(&root).map_err(io_at(&root))?;
    if root.exists() {
        fs::remove_dir_all(&root).map_err(io_at(&root))?;
    }
    build(&root, &mirror)?;
    let mut tar = Command::new("tar");
    tar.args([
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=security.capability",
        "--use-compress-program=zstd -3 -T0",
        "-cf",
    ]);
    tar.arg(&archive).arg("-C").arg(&root).arg(".");
    tool::finish(tar, None)?;
    fs::rename(&archive, &done).map_err(io_at(&done))?;
    fs::write(&mark, RECIPE.to_string()).map_err(io_at(&mark))?;
    fs::remove_dir_all(&root).map_err(io_at(&root))?;
    Ok(done)
}

fn build(root: &Path, mirror: &str) -> Result<(), LabError> {
    let mut debootstrap = Command::new("debootstrap");
    debootstrap
        .args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"])
        .arg(root)
        .arg(mirror);
    debootstrap
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    if let Err(error) = tool::finish(debootstrap, None) {
        // Its own words go to a log; stderr says little.
        let log = fs::read_to_string(root.join("debootstrap/debootstrap.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(3).collect();
        return Err(match error {
            LabError::Program { program, stderr } => {
                let said: Vec<&str> = tail.into_iter().rev().chain(stderr.lines().rev().take(2)).collect();
                LabError::Program {
                    program,
                    stderr: format!("{}; is {mirror} reachable?", said.join("; ")),
                }
            }
            other => other,
        });
    }
    let security = mirror.trim_end_matches('/').to_owned() + "-security";
    let sources = format!(
        "deb {mirror} bookworm main\ndeb {mirror} bookworm-updates main\ndeb {security} bookworm-security main\n"
    );
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::write(&path, text).map_err(io_at(&path))
    };
    write("etc/apt/sources.list", &sources)?;
    // Each container draws its own.
    write("etc/machine-id", "")?;
    write("etc/hostname", "localhost\n")?;
    write("etc/resolv.conf", "")?;
    write("etc/network/interfaces", "auto lo\niface lo inet loopback\n")?;
    // The kernel's debug file system cannot be mounted in an unprivileged container; failing at it, systemd would be "degraded".
    for unit in ["sys-kernel-debug.mount", "sys-kernel-tracing.mount"] {
        let path = root.join("etc/systemd/system").join(unit);
        std::os::unix::fs::symlink("/dev/null", &path).map_err(io_at(&path))?;
    }
    for log in ["var/log/bootstrap.log", "var/log/dpkg.log"] {
        let path = root.join(log);
        fs::remove_file(&path).map_err(io_at(&path))?;
    }
    for folder in [
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "dev",
    ] {
        empty(&root.join(folder))?;
    }
    Ok(())
}

/// Removes what is in a folder; `apt` wants `partial` back and makes it itself.
fn empty(folder: &Path) -> Result<(), LabError> {
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let path = entry.map_err(io_at(folder))?.path();
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(io_at(&path))?;
    }
    Ok(())
}
