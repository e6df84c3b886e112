//! Tools outlive the agent: started once whatever happens to the agent, found again by name, and never doubled. The tools here are shell scripts.
#![allow(clippy::unwrap_used)]

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proximity_agent::{
    config::{Config, Runner},
    host::{self, NodeContext},
    jobs::steps::execute,
};
use proximity_protocol::{
    command::{Command, Outcome, Target, Verb},
    fault::FaultKind,
    ids::{Epoch, Generation, OperationId, Owner, StepKey, StepName, Vmid},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use uuid::Uuid;

/// `pct start` waits for the file `go`, and then the container runs. Every call is noted.
const PCT: &str = r#"#!/bin/sh
root=$(dirname "$0")/../..
echo "$@" >> "$root/calls"
if [ -e "$root/locked" ]; then rm "$root/locked"; echo "CT is locked (backup)" >&2; exit 255; fi
echo working
while [ ! -e "$root/go" ]; do sleep 0.02; done
echo "0: 0 0 0 0 0 1 @/var/lib/lxc/100/command" >> "$root/proc/net/unix"
"#;

struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            root: tempfile::tempdir().unwrap(),
        };
        machine.put("etc/pve/.members", r#"{"nodename":"pve1","version":0}"#);
        machine.put(
            "etc/pve/.vmlist",
            r#"{"version":2,"ids":{"100":{"node":"pve1","type":"lxc","version":1}}}"#,
        );
        machine.put(
            "etc/pve/nodes/pve1/lxc/100.conf",
            "hostname: web\nrootfs: local:100/vm-100-disk-0.raw,size=1G\ntags: proximity\n",
        );
        let record = serde_json::json!({"version": 1, "app": "nginx-a1b2c3d4", "generation": 1, "operation": Uuid::from_u128(1), "began_unix_s": 0});
        machine.put("etc/pve/priv/proximity/100", &record.to_string());
        machine.put("proc/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n");
        machine.put("usr/bin/pct", PCT);
        fs::set_permissions(machine.path("usr/bin/pct"), fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What an agent that has just been started gets.
    fn node(&self) -> NodeContext {
        let mut config = Config::default();
        config.paths.state = self.path("state");
        config.paths.policy = self.path("etc/proximity/policy.toml");
        config.host.etc_pve = self.path("etc/pve");
        config.host.proc = self.path("proc");
        config.host.pve_tools = self.path("usr/bin");
        config.host.runner = Runner::Fork;
        config.node.address = Some([127, 0, 0, 1].into());
        NodeContext::open_with(&config, None, Path::new(env!("CARGO_BIN_EXE_proximity-agent")).into()).unwrap()
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.path("calls")).map_or(0, |text| text.lines().count())
    }

    fn tool(&self) -> PathBuf {
        let unit = format!("proximity-op-{}-start-1-start", Uuid::from_u128(7));
        self.path("state/tools").join(unit)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < limit, "{what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn pid_of(&self, file: &str) -> Pid {
        let text = fs::read_to_string(self.tool().join(file)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        Pid::from_raw(i32::try_from(value["pid"].as_i64().unwrap()).unwrap())
    }
}

fn command() -> Command {
    let owner = Owner {
        app: "nginx-a1b2c3d4".parse().unwrap(),
        generation: Generation(1),
    };
    Command {
        operation: OperationId(Uuid::from_u128(7)),
        step: StepKey {
            name: StepName::new("start").unwrap(),
            undo: false,
            attempt: 1,
        },
        epoch: Epoch(1),
        verb: Verb::EnsureStarted(Target {
            vmid: Vmid::new(100).unwrap(),
            owner,
        }),
    }
}

async fn run(node: NodeContext, command: Command) -> Result<Outcome, proximity_protocol::fault::Fault> {
    let (progress, _listen) = mpsc::unbounded_channel();
    execute(&node, &command, &progress).await
}

#[tokio::test]
async fn a_tool_outlives_the_agent_and_is_found_again() {
    let machine = Machine::new();
    let first = tokio::spawn(run(machine.node(), command()));
    machine.until("the tool runs", |m| m.calls() == 1).await;
    // As after a kill: nobody waits for the tool any more, and it goes on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn(run(machine.node(), command()));
    machine.put("go", "");
    assert_eq!(second.await.unwrap(), Ok(Outcome::Done));
    assert_eq!(machine.calls(), 1);
    assert!(machine.tool().join("status.json").exists());
    host::forget(&machine.node(), command().operation);
    assert!(!machine.tool().exists());
}

#[tokio::test]
async fn many_at_once_run_it_once() {
    let machine = Machine::new();
    machine.put("go", "");
    let all: Vec<_> = (0..8).map(|_| tokio::spawn(run(machine.node(), command()))).collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Ok(Outcome::Done));
    }
    assert_eq!(machine.calls(), 1);
}

#[tokio::test]
async fn a_tool_goes_on_without_its_shim_and_is_waited_for() {
    let machine = Machine::new();
    let first = tokio::spawn(run(machine.node(), command()));
    machine
        .until("the tool runs", |m| {
            m.calls() == 1 && m.tool().join("child.json").exists()
        })
        .await;
    kill(machine.pid_of("claim"), Signal::SIGKILL).unwrap();
    let other = Command {
        step: StepKey {
            attempt: 2,
            ..command().step
        },
        ..command()
    };
    // The next try does not run beside it.
    let fault = run(machine.node(), other.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Locked);
    machine.put("go", "");
    // Nobody wrote down how it ended; that it did what it should is what counts.
    assert_eq!(first.await.unwrap(), Ok(Outcome::Done));
    assert_eq!(run(machine.node(), other).await, Ok(Outcome::Done));
    assert_eq!(machine.calls(), 1);
}

#[tokio::test]
async fn a_killed_tool_is_a_failure_that_can_be_tried_again() {
    let machine = Machine::new();
    let first = tokio::spawn(run(machine.node(), command()));
    machine
        .until("the tool runs", |m| {
            m.calls() == 1 && m.tool().join("child.json").exists()
        })
        .await;
    for file in ["claim", "child.json"] {
        kill(machine.pid_of(file), Signal::SIGKILL).unwrap();
    }
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.kind, FaultKind::ToolFailed);
    assert!(fault.kind.retryable());
    machine.put("go", "");
    let again = Command {
        step: StepKey {
            attempt: 2,
            ..command().step
        },
        ..command()
    };
    assert_eq!(run(machine.node(), again).await, Ok(Outcome::Done));
    assert_eq!(machine.calls(), 2);
}

#[tokio::test]
async fn a_step_that_had_to_wait_acts_anew_under_the_same_name() {
    let machine = Machine::new();
    machine.put("locked", "");
    machine.put("go", "");
    let fault = run(machine.node(), command()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Locked);
    assert!(fault.message.contains("vzdump"), "{fault}");
    assert_eq!(run(machine.node(), command()).await, Ok(Outcome::Done));
    assert_eq!(machine.calls(), 2);
}

#[tokio::test]
async fn what_is_not_ours_is_refused_before_any_tool() {
    let machine = Machine::new();
    fs::remove_file(machine.path("etc/pve/priv/proximity/100")).unwrap();
    assert_eq!(
        run(machine.node(), command()).await.unwrap_err().kind,
        FaultKind::NotOurs
    );
    machine.put("etc/proximity/policy.toml", "vmid = [500, 600]\n");
    assert_eq!(
        run(machine.node(), command()).await.unwrap_err().kind,
        FaultKind::PolicyDenied
    );
    fs::remove_file(machine.path("etc/proximity/policy.toml")).unwrap();
    machine.put(
        "etc/pve/.members",
        r#"{"nodename":"pve1","version":3,"cluster":{"name":"c","version":2,"nodes":3,"quorate":0}}"#,
    );
    assert_eq!(
        run(machine.node(), command()).await.unwrap_err().kind,
        FaultKind::NotQuorate
    );
    assert_eq!(machine.calls(), 0);
}
