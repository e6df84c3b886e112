//! Templates and backups: tar in and out, in the container's own user namespace, so that an archive holds the users that the
//! container sees (`lxc-usernsexec … tar`, as Proxmox does).

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use super::child;
use super::settings::{ID_COUNT, ID_FIRST, NO_PATH};
use crate::archive::{CONFIG, Squeezer};
use crate::body::{BodyError, Interrupted, Unpacked, io_at};

/// A command whose process is root of the containers' user namespace. Its folder is the one that it is started in, which the
/// user need not be able to reach by its path.
fn as_container_root(folder: &Path, program: &str) -> Command {
    let mut command = Command::new("/usr/bin/lxc-usernsexec");
    for kind in ["u", "g"] {
        command.arg("-m").arg(format!("{kind}:0:{ID_FIRST}:{ID_COUNT}"));
    }
    command
        .arg("--")
        .arg(program)
        .current_dir(folder)
        .env_clear()
        .env("PATH", NO_PATH);
    command
}

/// Which program decompresses it, from its first bytes.
fn decompressor(archive: &Path) -> Result<&'static str, BodyError> {
    let mut magic = [0; 4];
    let mut file = File::open(archive).map_err(io_at(archive))?;
    let read = file.read(&mut magic).map_err(io_at(archive))?;
    Ok(match &magic[..read] {
        [0x28, 0xB5, 0x2F, 0xFD] => "zstd",
        [0x1F, 0x8B, ..] => "gzip",
        [0xFD, b'7', b'z', b'X'] => "xz",
        _ => "cat",
    })
}

/// Unpacks below `root`.
pub(super) fn unpack(archive: &Path, root: &Path, interrupted: &dyn Interrupted) -> Result<Unpacked, BodyError> {
    let program = decompressor(archive)?;
    let spawn = |error| BodyError::Failed(format!("command '{program}' failed: {error}"));
    let mut decompress = Command::new(program);
    if program != "cat" {
        decompress.arg("-dc");
    }
    decompress
        .stdin(File::open(archive).map_err(io_at(archive))?)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut first = decompress.spawn().map_err(spawn)?;
    let mut tar = as_container_root(root, "/usr/bin/tar");
    tar.args([
        "-xpf",
        "-",
        "--totals",
        "--numeric-owner",
        "--sparse",
        "--xattrs",
        "--xattrs-include=user.*",
        "--xattrs-include=security.capability",
    ]);
    tar.args([
        "--warning=no-file-ignored",
        "--warning=no-xattr-write",
        "--skip-old-files",
        "--anchored",
        "--exclude",
        "./dev/*",
    ]);
    if let Some(stdout) = first.stdout.take() {
        tar.stdin(stdout);
    }
    tar.stdout(Stdio::null()).stderr(Stdio::piped());
    let second = match tar.spawn() {
        Ok(child) => child,
        Err(error) => {
            // Without a reader the other ends by itself; it is waited for so that it is no zombie.
            let _ = first.wait();
            return Err(spawn(error));
        }
    };
    let said = child::wait_all(
        vec![(program.to_owned(), first), ("tar".to_owned(), second)],
        interrupted,
    )?;
    // A backup's configuration is no part of the container.
    let config = root.join(CONFIG);
    for left in [config.as_path(), config.parent().unwrap_or(root)] {
        let removed = if left.is_dir() {
            fs::remove_dir(left)
        } else {
            fs::remove_file(left)
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_at(left)(error)),
            _ => {}
        }
    }
    Ok(Unpacked {
        bytes: totals(&said),
        arch: arch(root)?,
        ostype: ostype(root),
    })
}

/// Packs the tree at `root` with the folders `also`, which are file systems of their own below it, and the configuration in `config` (a folder that the
/// container's root can read) first; answers the bytes that went in.
pub(super) fn pack(
    root: &Path,
    also: &[std::path::PathBuf],
    config: &Path,
    squeezer: Squeezer,
    archive: &Path,
    interrupted: &dyn Interrupted,
) -> Result<u64, BodyError> {
    let spawn = |error| BodyError::Failed(format!("command 'tar' failed: {error}"));
    let out = File::create(archive).map_err(io_at(archive))?;
    let mut tar = as_container_root(root, "/usr/bin/tar");
    tar.args([
        "-cpf",
        "-",
        "--totals",
        "--one-file-system",
        "--numeric-owner",
        "--sparse",
        "--xattrs",
    ]);
    tar.args([
        "--xattrs-include=user.*",
        "--xattrs-include=security.capability",
        "--warning=no-file-ignored",
        "--warning=no-xattr-write",
    ]);
    tar.args([
        "--warning=no-file-changed",
        "--anchored",
        "--exclude",
        "./tmp/?*",
        "--exclude",
        "./var/tmp/?*",
        "--exclude",
        "./var/run/?*.pid",
    ]);
    tar.arg("-C").arg(config).arg(CONFIG).arg("-C").arg(root).arg(".");
    for folder in also {
        tar.arg(Path::new(".").join(folder));
    }
    tar.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut first = tar.spawn().map_err(spawn)?;
    let program = squeezer.program().unwrap_or("cat");
    let mut squeeze = Command::new(program);
    match squeezer {
        Squeezer::Zstd => drop(squeeze.args(["-q", "--threads=1"])),
        Squeezer::Gzip | Squeezer::Lzo => drop(squeeze.arg("-c")),
        Squeezer::None => {}
    }
    squeeze.stdout(out).stderr(Stdio::inherit());
    if let Some(stdout) = first.stdout.take() {
        squeeze.stdin(stdout);
    }
    let second = squeeze
        .spawn()
        .map_err(|error| BodyError::Failed(format!("command '{program}' failed: {error}")));
    let second = match second {
        Ok(child) => child,
        Err(error) => {
            // Without a reader the other ends by itself; it is waited for so that it is no zombie.
            let _ = first.wait();
            return Err(error);
        }
    };
    // tar goes last: its words are the ones that count.
    let said = child::wait_all(
        vec![(program.to_owned(), second), ("tar".to_owned(), first)],
        interrupted,
    );
    if said.is_err() {
        // The error that matters is the one above.
        let _ = fs::remove_file(archive);
    }
    Ok(totals(&said?))
}

/// The configuration that a backup holds: its first member.
pub(super) fn config(archive: &Path) -> Result<String, BodyError> {
    let program = decompressor(archive)?;
    let mut tar = Command::new("tar");
    tar.args(["-xOf"]).arg(archive);
    if program != "cat" {
        tar.arg(format!("--use-compress-program={program}"));
    }
    tar.args([CONFIG, "--occurrence"]);
    let (text, _) = child::run(tar)?;
    Ok(format!("{text}\n"))
}

/// N of `Total bytes read: N (…)`.
fn totals(said: &str) -> u64 {
    said.lines()
        .filter_map(|line| {
            line.strip_prefix("Total bytes read: ")
                .or_else(|| line.strip_prefix("Total bytes written: "))
        })
        .find_map(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or(0)
}

/// From the header of the dynamic loader or shell, as `PVE::LXC::Setup` does: e_machine of an ELF file.
fn arch(root: &Path) -> Result<String, BodyError> {
    for name in ["usr/bin/dash", "usr/bin/sh", "bin/busybox", "bin/dash", "usr/bin/bash"] {
        let path = root.join(name);
        if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let mut header = [0; 20];
        File::open(&path)
            .and_then(|mut file| file.read_exact(&mut header))
            .map_err(io_at(&path))?;
        return Ok(match u16::from_le_bytes([header[18], header[19]]) {
            0x3E => "amd64",
            0xB7 => "arm64",
            0x03 => "i386",
            _ => "amd64",
        }
        .to_owned());
    }
    Ok("amd64".to_owned())
}

fn ostype(root: &Path) -> Option<String> {
    let path = root.join("usr/lib/os-release");
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let id = text
        .lines()
        .find_map(|line| line.strip_prefix("ID="))?
        .trim_matches('"')
        .to_owned();
    matches!(id.as_str(), "debian" | "ubuntu" | "alpine" | "fedora" | "centos").then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_both_directions() {
        assert_eq!(
            totals("tar: x\nTotal bytes read: 157071360 (150MiB, 245MiB/s)"),
            157_071_360
        );
        assert_eq!(totals("Total bytes written: 10240 (10KiB, 1MiB/s)"), 10_240);
        assert_eq!(totals(""), 0);
    }
}
