//! The result of each tool of deploy, change and delete is lost: its status file is removed or cut, or tool and shim are killed in the middle, as a power loss does.
//! The agent tells from the node's own state what happened, and the operation ends as asked.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How the result gets lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The tool ends, and its status file is removed before the agent comes back.
    Removed,
    /// The same with an empty file.
    Empty,
    /// Tool and shim are killed.
    Killed,
}
use Loss::{Empty, Killed, Removed};

/// Operation, tool, subcommand, calls to let pass, where it is held, what is lost.
type Point = (&'static str, &'static str, &'static str, u64, At, Loss);

const POINTS: &[Point] = &[
    ("deploy", "pveam", "download", 0, At::After, Removed),
    ("deploy", "pveam", "download", 0, At::Middle, Killed),
    ("deploy", "pct", "create", 0, At::After, Removed),
    ("deploy", "pct", "create", 0, At::After, Empty),
    ("deploy", "pct", "create", 0, At::Before, Killed),
    ("deploy", "pct", "create", 0, At::Middle, Killed),
    ("deploy", "pct", "create", 0, At::After, Killed),
    ("deploy", "pct", "start", 0, At::After, Removed),
    ("deploy", "pct", "start", 0, At::Before, Killed),
    ("deploy", "pct", "push", 0, At::After, Removed),
    ("deploy", "pct", "push", 2, At::Before, Killed),
    ("deploy", "pct", "exec", 0, At::After, Empty),
    ("deploy", "pct", "exec", 1, At::After, Removed),
    ("deploy", "pct", "exec", 1, At::Before, Killed),
    ("deploy", "pct", "exec", 2, At::After, Removed),
    ("change", "pct", "set", 0, At::After, Removed),
    ("change", "pct", "set", 0, At::Before, Killed),
    ("change", "pct", "exec", 0, At::After, Empty),
    ("change", "pct", "exec", 1, At::After, Removed),
    ("change", "pct", "exec", 1, At::Before, Killed),
    ("change", "pct", "resize", 0, At::After, Empty),
    ("change", "pct", "resize", 0, At::Before, Killed),
    ("delete", "pct", "shutdown", 0, At::After, Removed),
    ("delete", "pct", "shutdown", 0, At::Before, Killed),
    ("delete", "pct", "destroy", 0, At::After, Empty),
    ("delete", "pct", "destroy", 0, At::Before, Killed),
    ("delete", "pct", "destroy", 0, At::Middle, Killed),
];

/// The folder of the operation's tool that is at work.
fn at_work(state: &Path, operation: &str, sub: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(state.join("tools"))? {
        let folder = entry?.path();
        let name = folder.file_name().context("a name")?.to_string_lossy().into_owned();
        if !name.contains(operation) || folder.join("status.json").exists() {
            continue;
        }
        let request: Value = serde_json::from_slice(&std::fs::read(folder.join("request.json"))?)?;
        if request["arguments"][0] == sub {
            return Ok(folder);
        }
    }
    bail!("no tool {sub} of {operation} is at work")
}

fn pid(folder: &Path, file: &str) -> Result<Pid> {
    let stamp: Value = serde_json::from_slice(&std::fs::read(folder.join(file))?)?;
    Ok(Pid::from_raw(i32::try_from(stamp["pid"].as_i64().context("pid")?)?))
}

async fn lose(fleet: &mut Fleet, operation: &str, point: &Point, go: &Path) -> Result<()> {
    let (_, _, sub, _, _, loss) = point;
    let folder = at_work(&fleet.nodes[0].state(), operation, sub)?;
    fleet.nodes[0].kill_agent()?;
    match loss {
        Killed => {
            // The tool may be quicker than its shim is in writing down who it is.
            let child = folder.join("child.json");
            until("the tool's number", PATIENCE, async || Ok(child.exists().then_some(()))).await?;
            for file in ["claim", "child.json"] {
                kill(pid(&folder, file)?, Signal::SIGKILL)?;
            }
        }
        Removed | Empty => {
            std::fs::write(go, "")?;
            let status = folder.join("status.json");
            until("the tool's end", PATIENCE, async || Ok(status.exists().then_some(()))).await?;
            match loss {
                Removed => std::fs::remove_file(status)?,
                _ => std::fs::write(status, "")?,
            }
        }
    }
    fleet.nodes[0].start_agent()
}

async fn strike(fleet: &mut Fleet, point: &Point, number: usize) -> Result<()> {
    let (during, tool, sub, skip, at, loss) = *point;
    let go = fleet.folder().join(format!("lost-{number}.go"));
    let rule = Rule::on(tool, Fault::PauseUntil(go.clone()))
        .subcommand(sub)
        .at(at)
        .skip(skip)
        .times(1);
    if tool == "pveam" {
        let cache = fleet.nodes[0].root().join("var/lib/vz/template/cache");
        for entry in std::fs::read_dir(&cache)? {
            std::fs::remove_file(entry?.path())?;
        }
    }
    let arm = |fleet: &Fleet| fleet.nodes[0].script(&Script::new().rule(rule.clone()));
    if during == "deploy" {
        arm(fleet)?;
    }
    let created = fleet.client.create_app("nginx", &format!("lost-{number}")).await?;
    let id = created["id"].as_str().context("id")?.to_owned();
    let mut operation = created["operation_id"].as_str().context("operation_id")?.to_owned();
    if during != "deploy" {
        fleet.done(&created).await?;
        arm(fleet)?;
        let path = format!("/api/apps/{id}");
        let asked = match during {
            "change" => {
                let body =
                    json!({"config": {"memory_mb": 768, "disk_gb": 30}, "environment": {"SITE_TITLE": "Changed"}});
                fleet.client.patch(&path, &body).await?.expect(202)?
            }
            _ => fleet.client.delete(&path).await?.expect(202)?,
        };
        operation = asked["operation_id"].as_str().context("operation_id")?.to_owned();
    }
    let reached = go.with_extension("go.reached");
    until("the point", PATIENCE, async || Ok(reached.exists().then_some(())))
        .await
        .with_context(|| fleet.logs())?;
    lose(fleet, &operation, point, &go).await?;
    let ended = fleet
        .client
        .operation_end(&operation, PATIENCE)
        .await
        .with_context(|| fleet.logs())?;
    if ended["state"] != "done" {
        bail!("it ended {}: {ended:#}\n{}", ended["state"], fleet.logs());
    }
    let hits = fleet.nodes[0].hits()?;
    // What happened is not done again: the health check and the copies are looks and repetitions, the rest is an act.
    let acts_once = loss != Killed && sub != "push" && !(sub == "exec" && skip != 1);
    if hits[0].acted != 1 || (acts_once && hits[0].reached != skip + 1 && sub != "exec") {
        bail!("{hits:?}\n{}", fleet.logs());
    }
    let attempts: Vec<u64> = ended["steps"]
        .as_array()
        .context("steps")?
        .iter()
        .filter_map(|step| step["attempt"].as_u64())
        .collect();
    if loss != Killed && attempts.iter().any(|attempt| *attempt > 1) {
        bail!("a try was spent on what had happened: {ended:#}");
    }
    if during != "delete" {
        fleet.assert_promises().await?;
        let deleted = fleet.client.delete(&format!("/api/apps/{id}")).await?.expect(202)?;
        fleet.done(&deleted).await?;
    }
    fleet.assert_promises().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two minutes; part of the nightly run"]
async fn what_happened_is_told_by_the_node_itself() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    for (number, point) in POINTS.iter().enumerate() {
        eprintln!("{point:?}");
        strike(&mut fleet, point, number)
            .await
            .with_context(|| format!("{point:?}"))
            .unwrap();
    }
    fleet.stop().await.unwrap();
}
