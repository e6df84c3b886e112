//! A tool that left no result: its shim was killed, or the machine went down. What happened is told by the node's own state, and first by Proxmox's own
//! task log: its worker is a process of its own and may go on, and the log keeps its last words.
//!
//! Only when neither tells is the fault [`FaultKind::InDoubt`]; the step then looks at the container itself.

use super::act::Act;
use crate::{
    facts::tasks::{self, Task, TaskState},
    host::tool::{Asked, ToolEnd},
    pve::{argv::Argv, tasks::TaskEnd},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::time::Duration;

/// Between two looks at a task that goes on.
const LOOK: Duration = Duration::from_millis(250);
/// The kernel counts the start of a process in ticks of 10 ms (USER_HZ, proc(5)).
const TICK_MS: u64 = 10;
/// A task counts whole seconds, and its number is made a moment before it begins.
const ROUNDING_MS: u64 = 2_000;

/// The task type that a tool's call makes; `None`: it makes none.
fn task_kind(argv: &Argv) -> Option<&'static str> {
    match argv.tool {
        "pct" => {}
        "vzdump" => return Some("vzdump"),
        _ => return None,
    }
    match argv.words.first()?.as_str() {
        "create" => Some("vzcreate"),
        "restore" => Some("vzrestore"),
        "start" => Some("vzstart"),
        "stop" => Some("vzstop"),
        "shutdown" => Some("vzshutdown"),
        "destroy" => Some("vzdestroy"),
        "migrate" => Some("vzmigrate"),
        "resize" => Some("resize"),
        _ => None,
    }
}

/// Whether a task can be of a call that was made then. In the same boot the kernel's time decides, which nobody sets.
fn is_of(task: &Task, asked: Asked) -> bool {
    match asked.boot_ms.and_then(|ms| u64::try_from(ms).ok()) {
        Some(asked_ms) => task.id.pid_started_ticks * TICK_MS + ROUNDING_MS >= asked_ms,
        None => task.id.started_unix_s + 2 >= asked.unix_s,
    }
}

/// How the call ended by Proxmox's task log, waiting for a task that goes on; `None` if the log does not tell.
pub(super) async fn end(
    act: &Act<'_>,
    argv: &Argv,
    vmid: Option<Vmid>,
    asked: Option<Asked>,
    silence: Duration,
) -> Result<Option<ToolEnd>, Fault> {
    let (Some(kind), Some(vmid), Some(asked)) = (task_kind(argv), vmid, asked) else {
        return Ok(None);
    };
    let of_call = tasks::of(act.node, kind, vmid)?
        .into_iter()
        .rfind(|task| is_of(task, asked));
    let Some(task) = of_call else { return Ok(None) };
    let tools = act.node.tools();
    let (mut heard, mut since) = (String::new(), tools.uptime());
    loop {
        let log = task.log()?;
        match task.state(act.node)? {
            TaskState::Ended(TaskEnd::Ok) => {
                return Ok(Some(ToolEnd {
                    code: Some(0),
                    stdout: log,
                    stderr: String::new(),
                }));
            }
            TaskState::Ended(TaskEnd::Failed(error)) => {
                return Ok(Some(ToolEnd {
                    code: Some(255),
                    stdout: log,
                    stderr: error,
                }));
            }
            TaskState::BrokenOff => return Ok(None),
            TaskState::Running if log != heard => (heard, since) = (log, tools.uptime()),
            TaskState::Running if tools.uptime().saturating_sub(since) > silence => {
                return Err(Fault::new(
                    FaultKind::DeadlineExceeded,
                    format!(
                        "the task {kind} of container {vmid} has told nothing for {} s and goes on: see it in Proxmox",
                        silence.as_secs()
                    ),
                ));
            }
            TaskState::Running => {}
        }
        tools.sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        facts::testing,
        pve::argv::{self, TAG},
    };
    use proximity_protocol::ids::{OperationId, StepKey, StepName};

    async fn ended(root: &std::path::Path, argv: &Argv, asked: Asked) -> Option<ToolEnd> {
        let node = testing::node(root);
        let step = StepKey {
            name: StepName::new("start").unwrap(),
            undo: false,
            attempt: 1,
        };
        let (progress, _listen) = tokio::sync::mpsc::unbounded_channel();
        let act = Act {
            node: &node,
            operation: OperationId(uuid::Uuid::from_u128(1)),
            step: &step,
            progress: &progress,
        };
        end(&act, argv, Vmid::new(100).ok(), Some(asked), Duration::from_secs(60))
            .await
            .unwrap()
    }

    fn put(root: &std::path::Path, pid: u32, ticks: u64, start_s: u32, log: &str) {
        let upid = format!("UPID:pve1:{pid:08X}:{ticks:08X}:{start_s:08X}:vzstart:100:root@pam:");
        let digit = format!("{:X}", start_s & 0xf);
        testing::put(root, &format!("var/log/pve/tasks/{digit}/{upid}"), log);
    }

    #[tokio::test]
    async fn the_newest_task_since_the_call_tells_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let start = argv::start(Vmid::new(100).unwrap());
        let before = Asked {
            unix_s: 1_000,
            boot_ms: None,
        };
        assert_eq!(ended(dir.path(), &start, before).await, None);
        put(dir.path(), 3, 50, 900, "TASK OK");
        assert_eq!(ended(dir.path(), &start, before).await, None, "a task of earlier");
        put(dir.path(), 4, 60, 1_001, "TASK ERROR: no such disk");
        let end = ended(dir.path(), &start, before).await.unwrap();
        assert_eq!((end.code, end.stderr.as_str()), (Some(255), "no such disk"));
        put(dir.path(), 5, 70, 1_002, "x\nTASK OK");
        assert!(ended(dir.path(), &start, before).await.unwrap().success());
        put(dir.path(), 6, 80, 1_003, "cut off by a power loss");
        assert_eq!(ended(dir.path(), &start, before).await, None);
        // In the same boot the machine's clock does not count.
        let same_boot = |ms| Asked {
            unix_s: 9_000_000,
            boot_ms: Some(ms),
        };
        put(dir.path(), 7, 1_000, 1_004, "TASK OK");
        assert!(ended(dir.path(), &start, same_boot(11_000)).await.unwrap().success());
        assert_eq!(ended(dir.path(), &start, same_boot(13_000)).await, None);
    }

    #[tokio::test]
    async fn a_worker_that_goes_on_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut worker = std::process::Command::new("sh")
            .args(["-c", "read never"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", worker.id())).unwrap();
        let ticks: u64 = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(19)
            .unwrap()
            .parse()
            .unwrap();
        put(dir.path(), worker.id(), ticks, 2_000, "works");
        let asked = Asked {
            unix_s: 1_999,
            boot_ms: None,
        };
        let start = argv::start(Vmid::new(100).unwrap());
        let waiting = ended(dir.path(), &start, asked);
        tokio::pin!(waiting);
        let early = tokio::time::timeout(LOOK * 2, &mut waiting).await;
        assert!(early.is_err(), "it has not ended");
        put(dir.path(), worker.id(), ticks, 2_000, "works\nTASK OK");
        assert!(waiting.await.unwrap().success());
        drop(worker.stdin.take());
        worker.wait().unwrap();
    }

    #[test]
    fn what_makes_a_task_is_known() {
        let vmid = Vmid::new(100).unwrap();
        assert_eq!(task_kind(&argv::stop(vmid)), Some("vzstop"));
        assert_eq!(task_kind(&argv::run_script(vmid, TAG)), None);
        assert_eq!(task_kind(&argv::template_index()), None);
    }
}
