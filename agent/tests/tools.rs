//! Tools outlive the agent: started once whatever happens to the agent, found again by name, and never doubled. The tools here are shell scripts.
#![allow(clippy::unwrap_used)]

mod machine;

use machine::{Machine, again, pid_of, run, target};
use nix::sys::signal::{Signal, kill};
use proximity_agent::host;
use proximity_protocol::{
    command::{Command, Outcome, Verb},
    fault::FaultKind,
    spec::Recipe,
};
use std::fs;

/// `pct start` waits for the file `go`, and then the container runs.
const START: &str = r#"
if [ -e "$root/locked" ]; then rm "$root/locked"; echo "CT is locked (backup)" >&2; exit 255; fi
echo working
while [ ! -e "$root/go" ]; do sleep 0.02; done
echo "0: 0 0 0 0 0 1 @/var/lib/lxc/100/command" >> "$root/proc/net/unix"
"#;

fn command() -> Command {
    machine::command("start", Verb::EnsureStarted(target()))
}

fn tool(machine: &Machine) -> std::path::PathBuf {
    machine.tool("start", "start")
}

#[tokio::test]
async fn a_tool_outlives_the_agent_and_is_found_again() {
    let machine = Machine::new(START);
    let first = tokio::spawn(run(machine.node(), command()));
    machine.until("the tool runs", |m| m.calls("") == 1).await;
    // As after a kill: nobody waits for the tool any more, and it goes on.
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn(run(machine.node(), command()));
    machine.put("go", "");
    assert_eq!(second.await.unwrap(), Ok(Outcome::Done));
    assert_eq!(machine.calls(""), 1);
    assert!(tool(&machine).join("status.json").exists());
    host::forget(&machine.node(), command().operation);
    assert!(!tool(&machine).exists());
}

#[tokio::test]
async fn many_at_once_run_it_once() {
    let machine = Machine::new(START);
    machine.put("go", "");
    let all: Vec<_> = (0..8).map(|_| tokio::spawn(run(machine.node(), command()))).collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Ok(Outcome::Done));
    }
    assert_eq!(machine.calls(""), 1);
}

#[tokio::test]
async fn a_tool_goes_on_without_its_shim_and_is_waited_for() {
    let machine = Machine::new(START);
    let first = tokio::spawn(run(machine.node(), command()));
    machine
        .until("the tool runs", |m| {
            m.calls("") == 1 && tool(m).join("child.json").exists()
        })
        .await;
    kill(pid_of(&tool(&machine), "claim"), Signal::SIGKILL).unwrap();
    let other = again(&command());
    // The next try does not run beside it.
    let fault = run(machine.node(), other.clone()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Locked);
    machine.put("go", "");
    // Nobody wrote down how it ended; that it did what it should is what counts.
    assert_eq!(first.await.unwrap(), Ok(Outcome::Done));
    assert_eq!(run(machine.node(), other).await, Ok(Outcome::Done));
    assert_eq!(machine.calls(""), 1);
}

#[tokio::test]
async fn a_killed_tool_is_a_failure_that_can_be_tried_again() {
    let machine = Machine::new(START);
    let first = tokio::spawn(run(machine.node(), command()));
    machine
        .until("the tool runs", |m| {
            m.calls("") == 1 && tool(m).join("child.json").exists()
        })
        .await;
    machine.kill(&tool(&machine));
    let fault = first.await.unwrap().unwrap_err();
    assert_eq!(fault.kind, FaultKind::ToolFailed);
    assert!(fault.kind.retryable());
    machine.put("go", "");
    assert_eq!(run(machine.node(), again(&command())).await, Ok(Outcome::Done));
    assert_eq!(machine.calls(""), 2);
}

#[tokio::test]
async fn a_step_that_had_to_wait_acts_anew_under_the_same_name() {
    let machine = Machine::new(START);
    machine.put("locked", "");
    machine.put("go", "");
    let fault = run(machine.node(), command()).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Locked);
    assert!(fault.message.contains("vzdump"), "{fault}");
    assert_eq!(run(machine.node(), command()).await, Ok(Outcome::Done));
    assert_eq!(machine.calls(""), 2);
}

#[tokio::test]
async fn what_is_not_ours_is_refused_before_any_tool() {
    let machine = Machine::new(START);
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
    assert_eq!(machine.calls(""), 0);
}

fn install(timeout_s: u32) -> Command {
    let recipe = Recipe {
        install: "true".into(),
        health: "true".into(),
        files: vec![],
        env: vec![],
        port: 80,
        install_timeout_s: timeout_s,
    };
    let verb = Verb::InstallRecipe {
        target: target(),
        recipe,
    };
    machine::command("install", verb)
}

/// Deadlines are for silence: six lines in three seconds, where one second without any would be too long.
#[tokio::test]
async fn a_tool_that_makes_progress_has_no_deadline() {
    let machine = Machine::new(
        r#"case "$*" in exec*recipe/run*) for n in 1 2 3 4 5 6; do echo "line $n"; sleep 0.5; done;; esac"#,
    );
    machine.runs();
    assert_eq!(run(machine.node(), install(1)).await, Ok(Outcome::Done));
}

#[tokio::test]
async fn one_that_tells_nothing_goes_on_and_is_not_waited_for() {
    let machine = Machine::new(
        r#"case "$*" in exec*recipe/run*) echo begins; while [ ! -e "$root/go" ]; do sleep 0.05; done; touch "$root/went";; esac"#,
    );
    machine.runs();
    let fault = run(machine.node(), install(1)).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::DeadlineExceeded);
    assert!(fault.message.contains("has told nothing for 1 s"), "{fault}");
    machine.put("go", "");
    machine.until("it goes on", |m| m.path("went").exists()).await;
}
