//! Trees of cgroups in every hierarchy, version 1 and 2: who is in them, ending them, removing them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a condition of the kernel is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// Roots of all mounted hierarchies.
pub(crate) fn hierarchies() -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // <id> <parent> <device> <root> <mount point> <options> … - <type> <source> <options> (proc(5))
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = before.split(' ').nth(4)?;
            let kind = after.split(' ').next()?;
            (matches!(kind, "cgroup" | "cgroup2") && point.starts_with("/sys/fs/cgroup")).then(|| PathBuf::from(point))
        })
        .collect())
}

/// The folder of one controller's files for a cgroup: version 1 if that has the controller, else version 2.
pub(crate) fn controller(name: &str, cgroup: &str) -> Option<(PathBuf, u8)> {
    let all = hierarchies().ok()?;
    let named = all.iter().find(|root| {
        root.file_name()
            .is_some_and(|last| last.to_string_lossy().split(',').any(|word| word == name))
    });
    if let Some(root) = named {
        return Some((root.join(cgroup), 1));
    }
    let root = all.iter().find(|root| {
        fs::read_to_string(root.join("cgroup.controllers"))
            .is_ok_and(|text| text.split_whitespace().any(|word| word == name))
    })?;
    Some((root.join(cgroup), 2))
}

/// Processes in a cgroup and below, in any hierarchy.
pub(crate) fn processes(cgroup: &str) -> io::Result<BTreeSet<i32>> {
    let mut pids = BTreeSet::new();
    for root in hierarchies()? {
        for folder in tree(&root.join(cgroup)) {
            // It may have gone meanwhile, which is what we are after.
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(
                text.lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    .filter(|pid| *pid > 0),
            );
        }
    }
    Ok(pids)
}

/// Removes a cgroup with all below it; true when nothing is left. Cgroups with processes stay.
pub(crate) fn remove(cgroup: &str) -> io::Result<bool> {
    let mut gone = true;
    for root in hierarchies()? {
        for folder in tree(&root.join(cgroup)).into_iter().rev() {
            match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => gone = false,
                _ => {}
            }
        }
    }
    Ok(gone)
}

/// As [`remove`], but waits until the processes in it, which are ending, have ended.
pub(crate) fn remove_soon(cgroup: &str, within: Duration) -> io::Result<bool> {
    let until = Instant::now() + within;
    loop {
        if remove(cgroup)? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
}

/// Kills every process of a cgroup and removes it; true when nothing is left.
pub(crate) fn end(cgroup: &str, within: Duration) -> io::Result<bool> {
    let until = Instant::now() + within;
    loop {
        thaw(cgroup)?;
        for pid in processes(cgroup)? {
            // It may just have ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if remove(cgroup)? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(POLL);
    }
}

/// A frozen process of version 1 does not even die.
fn thaw(cgroup: &str) -> io::Result<()> {
    for root in hierarchies()? {
        for folder in tree(&root.join(cgroup)) {
            let state = folder.join("freezer.state");
            if state.exists() {
                // The root of a hierarchy has no such file; a cgroup that goes away meanwhile is fine.
                let _ = fs::write(state, "THAWED");
            }
        }
    }
    Ok(())
}

/// The folder and all below, parents first.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = vec![folder.to_owned()];
    while let Some(folder) = next.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        next.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        found.push(folder);
    }
    found.sort();
    found
}
