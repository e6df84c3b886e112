//! What Proxmox's own task log knows: which tasks there were for a container on this node, and how they ended.

use super::NodeContext;
use crate::{
    host::files,
    pve::tasks::{self, TaskEnd, TaskId},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::{fs, io, path::PathBuf};

/// How much of a log is read: its last line tells the end.
const LOG_MAX: u64 = 64 * 1024;

/// A task of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    log: PathBuf,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskState {
    /// Its worker lives.
    Running,
    /// Its log says how it ended.
    Ended(TaskEnd),
    /// Its worker is gone and the log says nothing (power loss, SIGKILL).
    BrokenOff,
}

fn unreadable(what: &std::path::Path, error: &io::Error) -> Fault {
    Fault::new(
        FaultKind::Internal,
        format!("task logs in {} cannot be read: {error}", what.display()),
    )
}

/// This node's tasks of a kind (`vzcreate`, `vzdestroy`…) for a container, oldest first.
pub(crate) fn of(node: &NodeContext, kind: &str, vmid: Vmid) -> Result<Vec<Task>, Fault> {
    let folder = node.host().task_log.join("tasks");
    let mut found = Vec::new();
    // The last hexadecimal digit of its start names the folder of a task.
    for digit in "0123456789ABCDEF".chars() {
        let folder = folder.join(digit.to_string());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&folder, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(&folder, &error))?;
            let id = TaskId::parse(&entry.file_name().to_string_lossy());
            if let Some(id) = id.filter(|id| id.is(kind, vmid) && id.node == node.name().as_str()) {
                found.push(Task { id, log: entry.path() });
            }
        }
    }
    found.sort_by_key(|task| (task.id.started_unix_s, task.id.pid_started_ticks));
    Ok(found)
}

/// Whether a task of that kind works on the container just now.
pub(crate) fn is_running(node: &NodeContext, kind: &str, vmid: Vmid) -> Result<bool, Fault> {
    for task in of(node, kind, vmid)? {
        if task.state(node)? == TaskState::Running {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Task {
    /// The end of its log.
    pub(crate) fn log(&self) -> Result<String, Fault> {
        files::tail(&self.log, LOG_MAX).map_err(|error| unreadable(&self.log, &error))
    }

    /// Where it stands.
    pub(crate) fn state(&self, node: &NodeContext) -> Result<TaskState, Fault> {
        // The process first: one that ends between the two looks has written its last line by the second.
        let lives = node.tools().process_lives(self.id.pid, self.id.pid_started_ticks);
        Ok(match tasks::end(&self.log()?) {
            Some(end) => TaskState::Ended(end),
            None if lives => TaskState::Running,
            None => TaskState::BrokenOff,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    fn upid(pid: u32, ticks: u64, start: u32, kind: &str, vmid: u32) -> String {
        format!("UPID:pve1:{pid:08X}:{ticks:08X}:{start:08X}:{kind}:{vmid}:root@pam:")
    }

    #[test]
    fn a_task_is_found_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let vmid = Vmid::new(100).unwrap();
        let put = |upid: &str, log: &str| {
            let digit = upid.split(':').nth(4).unwrap().chars().last().unwrap();
            testing::put(dir.path(), &format!("var/log/pve/tasks/{digit}/{upid}"), log);
        };
        assert_eq!(of(&node, "vzcreate", vmid).unwrap(), []);
        put(&upid(1, 7, 0x10, "vzcreate", 100), "x\nTASK ERROR: no space");
        put(&upid(2, 7, 0x21, "vzcreate", 100), "extracting");
        put(&upid(3, 7, 0x22, "vzcreate", 101), "TASK OK");
        put(&upid(3, 7, 0x23, "vzstart", 100), "TASK OK");
        let states = |kind| -> Vec<TaskState> {
            let found = of(&node, kind, vmid).unwrap();
            found.iter().map(|task| task.state(&node).unwrap()).collect()
        };
        let failed = TaskState::Ended(TaskEnd::Failed("no space".into()));
        assert_eq!(states("vzcreate"), [failed, TaskState::BrokenOff]);
        assert_eq!(states("vzstart"), [TaskState::Ended(TaskEnd::Ok)]);

        let own = std::process::id();
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let ticks: u64 = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(19)
            .unwrap()
            .parse()
            .unwrap();
        put(&upid(own, ticks, 0x30, "vzdestroy", 100), "removing");
        assert!(is_running(&node, "vzdestroy", vmid).unwrap());
        put(&upid(own, ticks, 0x30, "vzdestroy", 100), "removing\nTASK OK");
        assert!(!is_running(&node, "vzdestroy", vmid).unwrap());
        put(&upid(own, ticks + 1, 0x31, "vzdestroy", 100), "removing");
        assert!(
            !is_running(&node, "vzdestroy", vmid).unwrap(),
            "another process of the number"
        );
    }
}
