//! A machine of files with one container of ours, whose `pct` is a shell script of the test's.
#![allow(clippy::unwrap_used, dead_code)]

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proximity_agent::{
    config::{Config, Runner},
    host::{NodeContext, OwnMachine},
    jobs::steps::execute,
};
use proximity_protocol::{
    command::{Command, Outcome, Target, Verb},
    fault::Fault,
    ids::{Epoch, Generation, OperationId, Owner, StepKey, StepName, Vmid},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use uuid::Uuid;

pub(crate) struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    /// The script finds the machine's root in `$root`, and every call of it is noted.
    pub(crate) fn new(pct: &str) -> Self {
        let machine = Self {
            root: tempfile::tempdir().unwrap(),
        };
        machine.put("etc/pve/.members", r#"{"nodename":"pve1","version":0}"#);
        machine.list(true);
        machine.put(
            "etc/pve/nodes/pve1/lxc/100.conf",
            "hostname: web\nrootfs: local:100/vm-100-disk-0.raw,size=1G\ntags: proximity\n",
        );
        let record = serde_json::json!({"version": 1, "app": "nginx-a1b2c3d4", "generation": 1, "operation": Uuid::from_u128(1), "began_unix_s": 0});
        machine.put("etc/pve/priv/proximity/100", &record.to_string());
        machine.put("proc/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n");
        let head = "#!/bin/sh\nroot=$(dirname \"$0\")/../..\necho \"$@\" >> \"$root/calls\"\n";
        machine.put("usr/bin/pct", &format!("{head}{pct}"));
        machine.put("usr/bin/nft", "#!/bin/sh\ncat > /dev/null\necho '{\"nftables\":[]}'\n");
        for tool in ["pct", "nft"] {
            let path = machine.path(&format!("usr/bin/{tool}"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub(crate) fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Whether the cluster's list of guests has the container.
    pub(crate) fn list(&self, there: bool) {
        let ids = if there {
            r#"{"100":{"node":"pve1","type":"lxc","version":1}}"#
        } else {
            "{}"
        };
        self.put("etc/pve/.vmlist", &format!(r#"{{"version":2,"ids":{ids}}}"#));
    }

    pub(crate) fn runs(&self) {
        self.put(
            "proc/net/unix",
            "Num RefCount Protocol Flags Type St Inode Path\n0: 0 0 0 0 0 1 @/var/lib/lxc/100/command\n",
        );
    }

    /// What an agent that has just been started gets.
    pub(crate) fn node(&self) -> NodeContext {
        let mut config = Config::default();
        config.paths.state = self.path("state");
        config.paths.policy = self.path("etc/proximity/policy.toml");
        config.host.etc_pve = self.path("etc/pve");
        config.host.proc = self.path("proc");
        config.host.cgroup = self.path("cgroup");
        config.host.task_log = self.path("log");
        config.host.nft = self.path("usr/bin/nft");
        config.host.sys_class_net = self.path("sys");
        config.host.pve_tools = self.path("usr/bin");
        config.host.runner = Runner::Fork;
        config.node.address = Some([127, 0, 0, 1].into());
        let machine = OwnMachine::new(env!("CARGO_BIN_EXE_proximity-agent").into(), config.host.runner);
        NodeContext::open_on(&config, None, Arc::new(machine)).unwrap()
    }

    /// Calls of `pct` whose words begin so.
    pub(crate) fn calls(&self, words: &str) -> usize {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().filter(|line| line.starts_with(words)).count()
    }

    /// The folder of a tool's run.
    pub(crate) fn tool(&self, step: &str, name: &str) -> PathBuf {
        let unit = format!("proximity-op-{}-{step}-1-{name}", Uuid::from_u128(7));
        self.path("state/tools").join(unit)
    }

    /// SIGKILL to a tool and its shim, as a power loss does.
    pub(crate) fn kill(&self, tool: &Path) {
        for file in ["claim", "child.json"] {
            kill(pid_of(tool, file), Signal::SIGKILL).unwrap();
        }
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            let calls = || fs::read_to_string(self.path("calls")).unwrap_or_default();
            assert!(Instant::now() < limit, "{what}; called so far:\n{}", calls());
            sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) fn pid_of(tool: &Path, file: &str) -> Pid {
    let text = fs::read_to_string(tool.join(file)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    Pid::from_raw(i32::try_from(value["pid"].as_i64().unwrap()).unwrap())
}

pub(crate) fn target() -> Target {
    let owner = Owner {
        app: "nginx-a1b2c3d4".parse().unwrap(),
        generation: Generation(1),
    };
    Target {
        vmid: Vmid::new(100).unwrap(),
        owner,
    }
}

pub(crate) fn command(step: &str, verb: Verb) -> Command {
    Command {
        operation: OperationId(Uuid::from_u128(7)),
        step: StepKey {
            name: StepName::new(step).unwrap(),
            undo: false,
            attempt: 1,
        },
        epoch: Epoch(1),
        verb,
    }
}

/// The same at the next try.
pub(crate) fn again(command: &Command) -> Command {
    let mut command = command.clone();
    command.step.attempt += 1;
    command
}

pub(crate) async fn run(node: NodeContext, command: Command) -> Result<Outcome, Fault> {
    let (progress, _listen) = mpsc::unbounded_channel();
    execute(&node, &command, &progress).await
}
