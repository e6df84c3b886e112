//! The init process of a container, found through its cgroup.

use super::{NodeContext, cgroup::Cgroup};
use proximity_protocol::ids::Vmid;
use std::{fs, path::Path};

/// How deep cgroups inside a container are looked through; systemd's `init.scope` is two below.
const DEPTH_MAX: usize = 3;

/// The process that is number 1 inside. `None`: the container does not run, or not yet.
pub(crate) fn init_pid(node: &NodeContext, vmid: Vmid) -> Option<u32> {
    let cgroup = Cgroup::find(node, vmid)?;
    let mut pids = Vec::new();
    collect(cgroup.process_root(), DEPTH_MAX, &mut pids);
    pids.sort_unstable();
    // The first process of a container has its lowest number, unless numbers have wrapped around: then the kernel's own word decides.
    pids.iter()
        .copied()
        .find(|pid| is_first(node, *pid))
        .or_else(|| pids.first().copied())
}

/// Whether a process of the container was started with this word among its arguments.
pub(crate) fn any_with_word(node: &NodeContext, vmid: Vmid, word: &str) -> bool {
    let Some(cgroup) = Cgroup::find(node, vmid) else {
        return false;
    };
    let mut pids = Vec::new();
    collect(cgroup.process_root(), DEPTH_MAX, &mut pids);
    pids.iter().any(|pid| {
        // One that ends between the two looks is none that goes on.
        fs::read(node.proc(&format!("{pid}/cmdline")))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
    })
}

fn collect(folder: &Path, depth: usize, pids: &mut Vec<u32>) {
    if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
        pids.extend(
            text.lines()
                .filter_map(|line| line.trim().parse::<u32>().ok())
                .filter(|pid| *pid > 0),
        );
    }
    if depth == 0 {
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth - 1, pids);
        }
    }
}

/// `NSpid:` lists the number in each pid namespace, from the outermost to its own (proc_pid_status(5)).
fn is_first(node: &NodeContext, pid: u32) -> bool {
    fs::read_to_string(node.proc(&format!("{pid}/status"))).is_ok_and(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .is_some_and(|line| {
                let numbers: Vec<&str> = line.split_ascii_whitespace().collect();
                numbers.len() > 1 && numbers.last() == Some(&"1")
            })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn the_first_process_is_found_below_and_by_the_kernels_word() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let vmid = Vmid::new(100).unwrap();
        assert_eq!(init_pid(&node, vmid), None);
        for (path, text) in [
            ("memory.current", "1"),
            ("cgroup.procs", ""),
            ("ns/init.scope/cgroup.procs", "900\n"),
            ("ns/system.slice/x/cgroup.procs", "44\n45\n"),
        ] {
            testing::put(dir.path(), &format!("sys/fs/cgroup/lxc/100/{path}"), text);
        }
        assert_eq!(init_pid(&node, vmid), Some(44));
        testing::put(dir.path(), "proc/45/cmdline", "/bin/sh\0/recipe/run\0x\0");
        assert!(any_with_word(&node, vmid, "/recipe/run") && !any_with_word(&node, vmid, "/recipe"));
        assert!(!any_with_word(&node, Vmid::new(101).unwrap(), "/recipe/run"));
        testing::put(dir.path(), "proc/900/status", "Name:\tsystemd\nNSpid:\t900\t1\n");
        assert_eq!(init_pid(&node, vmid), Some(900));
    }
}
