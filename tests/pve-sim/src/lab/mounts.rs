//! Mount points below a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cgroups;

/// Mount points at or below `folder`, in the order in which they were mounted.
pub(crate) fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        // proc(5): space, tab, newline, backslash are octal there.
        .map(|point| {
            PathBuf::from(
                point
                    .replace("\\040", " ")
                    .replace("\\011", "\t")
                    .replace("\\012", "\n")
                    .replace("\\134", "\\"),
            )
        })
        .filter(|point| point.starts_with(folder))
        .collect())
}

/// Whether something is mounted exactly there.
pub(crate) fn is_point(folder: &Path) -> io::Result<bool> {
    Ok(below(folder)?.iter().any(|point| point == folder))
}

/// How long what still works below a mount point may take to end: the `tar` of a tool that was killed lives a little longer.
const BUSY: Duration = Duration::from_secs(15);

/// Unmounts everything at or below `folder`.
pub(crate) fn release(folder: &Path) -> io::Result<()> {
    let until = Instant::now() + BUSY;
    for point in below(folder)?.into_iter().rev() {
        loop {
            let output = Command::new("umount").arg(&point).stdin(Stdio::null()).output()?;
            if output.status.success() || !is_point(&point)? {
                break;
            }
            if Instant::now() >= until {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(io::Error::other(format!("umount {}: {said}", point.display())));
            }
            std::thread::sleep(cgroups::POLL);
        }
    }
    Ok(())
}
