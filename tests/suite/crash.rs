//! `kill -9` of the coordinator, and of the agent, while each tool of deploy, change, move, backup, restore and delete is at work. The tool is held by the simulator's script, so the kill
//! lands where it is meant to; afterwards the tool goes on, is found again, and has run once. Which tools there are is told by the agent's own list.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result, bail};
use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::path::Path;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Coordinator,
    Agent,
    Both,
}

/// What has to be so for the tool to be called at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// The template is not on the storage.
    NoTemplate,
    /// Nor is it in the index of downloads.
    NoIndex,
    /// The first try of `pct create` is killed half way.
    HalfMade,
    /// The installation fails for good, so that the deployment is taken back.
    NotInstallable,
}

/// A tool's call at which the kill happens: which operation it belongs to, tool, subcommand, how many calls to let pass.
struct Point {
    operation: &'static str,
    tool: &'static str,
    sub: &'static str,
    skip: u64,
    at: At,
    before: Before,
}

const fn point(operation: &'static str, tool: &'static str, sub: &'static str, skip: u64, at: At) -> Point {
    Point {
        operation,
        tool,
        sub,
        skip,
        at,
        before: Before::Nothing,
    }
}

impl Point {
    const fn before(mut self, before: Before) -> Self {
        self.before = before;
        self
    }

    /// How the operation ends.
    fn end(&self) -> &'static str {
        match self.before {
            Before::NotInstallable => "undone",
            _ => "done",
        }
    }
}

const POINTS: &[Point] = &[
    point("deploy", "pveam", "available", 0, At::Middle).before(Before::NoTemplate),
    point("deploy", "pveam", "download", 0, At::Middle).before(Before::NoTemplate),
    point("deploy", "pveam", "update", 0, At::Middle).before(Before::NoIndex),
    point("deploy", "pct", "create", 0, At::Before),
    point("deploy", "pct", "create", 0, At::Middle),
    point("deploy", "pct", "create", 0, At::After),
    point("deploy", "pct", "start", 0, At::Before),
    point("deploy", "pct", "start", 0, At::After),
    point("deploy", "pct", "push", 0, At::Before),
    point("deploy", "pct", "exec", 0, At::Before),
    point("deploy", "pct", "exec", 0, At::After),
    point("deploy", "pct", "exec", 1, At::Before),
    point("deploy", "pct", "unlock", 0, At::Before).before(Before::HalfMade),
    point("deploy", "pct", "stop", 0, At::Before).before(Before::NotInstallable),
    point("deploy", "pct", "stop", 0, At::After).before(Before::NotInstallable),
    point("change", "pct", "set", 0, At::Before),
    point("change", "pct", "set", 0, At::After),
    point("change", "pct", "push", 0, At::Before),
    point("change", "pct", "exec", 1, At::Before),
    point("change", "pct", "exec", 1, At::After),
    point("change", "pct", "resize", 0, At::Middle),
    point("change", "pct", "resize", 0, At::After),
    point("move", "pct", "migrate", 0, At::Before),
    point("move", "pct", "migrate", 0, At::Middle),
    point("move", "pct", "migrate", 0, At::After),
    point("backup", "vzdump", "", 0, At::Before),
    point("backup", "vzdump", "", 0, At::Middle),
    point("backup", "vzdump", "", 0, At::After),
    point("backup_delete", "pvesm", "free", 0, At::Before),
    point("backup_delete", "pvesm", "free", 0, At::After),
    point("restore", "pct", "restore", 0, At::Before),
    point("restore", "pct", "restore", 0, At::Middle),
    point("restore", "pct", "restore", 0, At::After),
    point("restore", "pct", "set", 0, At::After),
    point("restore", "pct", "shutdown", 0, At::Before),
    point("restore", "pct", "start", 0, At::After),
    point("restore", "pct", "set", 1, At::Before),
    point("delete", "pct", "shutdown", 0, At::Before),
    point("delete", "pct", "shutdown", 0, At::After),
    point("delete", "pct", "destroy", 0, At::Before),
    point("delete", "pct", "destroy", 0, At::Middle),
    point("delete", "pct", "destroy", 0, At::After),
];

/// Tools that no hollow node ever calls, and where they are met.
const ELSEWHERE: &[(&str, &str)] = &[
    // A mount that a killed `pct create` leaves: only real containers have one.
    ("/bin/umount", ""),
    // What a killed `vzdump` leaves: see `agent_backups`.
    ("/bin/rm", ""),
    ("pct", "delsnapshot"),
];

#[test]
fn every_tool_of_the_agent_is_killed_in() {
    for (tool, sub) in proximity_agent::pve::TOOLS {
        let met = POINTS.iter().any(|point| (point.tool, point.sub) == (*tool, *sub));
        assert!(
            met || ELSEWHERE.contains(&(*tool, *sub)),
            "nobody is killed while {tool} {sub} is at work: give it a point"
        );
    }
}

/// Makes it so, and answers what the node's script needs for it besides.
fn prepare(fleet: &Fleet, before: Before) -> Result<Vec<Rule>> {
    let root = fleet.nodes[0].root();
    let mut rules = Vec::new();
    match before {
        Before::Nothing => {}
        Before::NoTemplate | Before::NoIndex => {
            for entry in std::fs::read_dir(root.join("var/lib/vz/template/cache"))? {
                std::fs::remove_file(entry?.path())?;
            }
            if before == Before::NoIndex {
                std::fs::remove_file(root.join("var/lib/pve-manager/apl-info/download.proxmox.com"))?;
            }
        }
        Before::HalfMade => rules.push(
            Rule::on("pct", Fault::KillSelf)
                .subcommand("create")
                .at(At::Middle)
                .times(1),
        ),
        Before::NotInstallable => {
            let fails = Fault::Fail {
                exit: 1,
                stderr: "no such package".into(),
                stdout: String::new(),
            };
            rules.push(Rule::on("pct", fails).subcommand("exec").at(At::Middle));
        }
    }
    Ok(rules)
}

async fn reached(file: &Path) -> Result<()> {
    let mark = file.with_extension("go.reached");
    until(&format!("{}", mark.display()), PATIENCE, async || {
        Ok(mark.exists().then_some(()))
    })
    .await
}

/// What a change asks: something of each step.
fn change() -> Value {
    json!({"config": {"memory_mb": 768, "disk_gb": 30}, "environment": {"SITE_TITLE": "Changed"}})
}

/// A backup in the mode that stops the container.
fn stopped() -> Value {
    json!({"backup_type": "stop"})
}

/// What names the operation that the point is in, on an app that runs.
async fn ask(fleet: &Fleet, operation: &str, id: &str) -> Result<Value> {
    let path = format!("/api/apps/{id}");
    match operation {
        "change" => fleet.client.patch(&path, &change()).await?.expect(202),
        "delete" => fleet.client.delete(&path).await?.expect(202),
        "backup" => fleet
            .client
            .post(&format!("{path}/backups"), &stopped())
            .await?
            .expect(202),
        "backup_delete" | "restore" => {
            let made = fleet
                .client
                .post(&format!("{path}/backups"), &stopped())
                .await?
                .expect(202)?;
            fleet.done(&made).await?;
            let backup = format!("{path}/backups/{}", made["id"]);
            if operation == "restore" {
                fleet
                    .client
                    .post(&format!("{backup}/restore"), &json!({}))
                    .await?
                    .expect(202)
            } else {
                fleet.client.delete(&backup).await?.expect(202)
            }
        }
        "move" => {
            let node = node_id(fleet).await?;
            let path = format!("/api/proxmox/nodes/{node}/drain");
            let drained = fleet.client.post(&path, &json!({})).await?.expect(200)?;
            Ok(drained["apps"][0].clone())
        }
        other => bail!("no operation {other}"),
    }
}

/// The id of the node that everything happens on.
async fn node_id(fleet: &Fleet) -> Result<String> {
    let nodes = fleet.client.get("/api/proxmox/nodes").await?.expect(200)?;
    let nodes = nodes.as_array().context("nodes")?;
    let node = nodes.iter().find(|node| node["name"] == fleet.nodes[0].name.as_str());
    Ok(node.context("the first node")?["id"].as_str().context("id")?.to_owned())
}

/// One deploy, and one change, move or delete, with a kill at `point`.
async fn strike(fleet: &mut Fleet, victim: Victim, point: &Point, number: usize) -> Result<()> {
    let go = fleet.folder().join(format!("{victim:?}-{number}.go"));
    let pause = Rule::on(point.tool, Fault::PauseUntil(go.clone()))
        .subcommand(point.sub)
        .at(point.at)
        .skip(point.skip)
        .times(1);
    let besides = prepare(fleet, point.before)?;
    let arm = |fleet: &Fleet| {
        let script = Script::new().rule(pause.clone());
        fleet.nodes[0].script(&besides.iter().cloned().fold(script, Script::rule))
    };
    if point.operation == "deploy" {
        arm(fleet)?;
    }
    let wanted = json!({"catalog_id": "nginx", "hostname": format!("app-{number}"), "node": fleet.nodes[0].name});
    let created = fleet.client.post("/api/apps", &wanted).await?.expect(201)?;
    let id = created["id"].as_str().context("id")?.to_owned();
    let mut operation = created["operation_id"].as_str().context("operation_id")?.to_owned();
    if point.operation != "deploy" {
        fleet.client.operation_end(&operation, PATIENCE).await?;
        arm(fleet)?;
        let asked = ask(fleet, point.operation, &id).await?;
        operation = asked["operation_id"].as_str().context("operation_id")?.to_owned();
    }
    reached(&go).await.with_context(|| fleet.logs())?;
    if victim != Victim::Agent {
        fleet.kill_coordinator()?;
    }
    if victim != Victim::Coordinator {
        fleet.nodes[0].kill_agent()?;
    }
    std::fs::write(&go, "")?;
    if victim != Victim::Coordinator {
        fleet.nodes[0].start_agent()?;
    }
    if victim != Victim::Agent {
        fleet.start_coordinator().await?;
    }
    let ended = fleet
        .client
        .operation_end(&operation, PATIENCE)
        .await
        .with_context(|| fleet.logs())?;
    if ended["state"] != point.end() {
        bail!(
            "the {} ended {}: {ended:#}\n{}",
            point.operation,
            ended["state"],
            fleet.logs()
        );
    }
    let hits = fleet.nodes[0].hits()?;
    if hits[0].acted != 1 {
        bail!("the point was not reached: {hits:?}");
    }
    if point.end() == "done" && point.operation != "delete" {
        let app = fleet.client.app_status(&id, &["running"], PATIENCE).await?;
        let url = app["url"].as_str().context("url")?;
        proximity_tests::api::page(url)
            .await
            .with_context(|| format!("{url} does not answer"))?;
        if point.operation == "change"
            && (&app["config"]["memory_mb"], &app["config"]["disk_gb"]) != (&json!(768), &json!(30))
        {
            bail!("the change is done, and the app is {app:#}");
        }
        if point.operation == "move" {
            if app["node"] != fleet.nodes[1].name.as_str() {
                bail!("the move is done, and the app is {app:#}");
            }
            let path = format!("/api/proxmox/nodes/{}/undrain", node_id(fleet).await?);
            fleet.client.post(&path, &json!({})).await?.expect(200)?;
        }
        // These are never run twice for one container; pushing and exec may be.
        let once = ["create", "start", "set", "resize", "migrate", "restore", ""].contains(&point.sub);
        let expected = match (point.operation, point.tool, point.sub, point.at) {
            // Of two containers each has its `onboot` set.
            ("restore", _, "set", _) => 2,
            // It starts the container again, which has a middle of its own.
            ("backup", "vzdump", _, At::Middle) => 2,
            _ => 1,
        };
        if once && hits[0].reached != expected {
            bail!("{} {} ran {} times", point.tool, point.sub, hits[0].reached);
        }
        fleet.assert_promises().await?;
        let deleted = fleet.client.delete(&format!("/api/apps/{id}")).await?.expect(202)?;
        let operation = deleted["operation_id"].as_str().context("operation_id")?;
        fleet.client.operation_end(operation, PATIENCE).await?;
    }
    if point.end() == "undone" {
        fleet.nodes[0].script(&Script::new())?;
        fleet.assert_promises().await?;
        let left = fleet.nodes[0].files().read()?;
        if !left.containers.is_empty() || !left.records.is_empty() {
            bail!("the deployment was taken back, and something is left: {left:?}");
        }
        let deleted = fleet.client.delete(&format!("/api/apps/{id}")).await?.expect(202)?;
        let operation = deleted["operation_id"].as_str().context("operation_id")?;
        fleet.client.operation_end(operation, PATIENCE).await?;
    }
    fleet.client.get(&format!("/api/apps/{id}")).await?.expect(404)?;
    fleet.assert_promises().await
}

async fn strike_everywhere(victim: Victim) -> Result<()> {
    strike_at(victim, &FleetSpec::hollow(1), |point| point.operation != "move").await?;
    strike_at(victim, &FleetSpec::cluster(2), |point| point.operation == "move").await
}

async fn strike_at(victim: Victim, spec: &FleetSpec, wanted: fn(&Point) -> bool) -> Result<()> {
    let mut fleet = Fleet::start(spec, |_| ()).await?;
    for (number, point) in POINTS.iter().enumerate().filter(|(_, point)| wanted(point)) {
        let what = format!(
            "{victim:?} killed in {}: {} {} {:?} (after {} calls)",
            point.operation, point.tool, point.sub, point.at, point.skip
        );
        eprintln!("{what}");
        strike(&mut fleet, victim, point, number).await.with_context(|| what)?;
    }
    fleet.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_killed_in_every_tool() {
    strike_everywhere(Victim::Coordinator).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_in_every_tool() {
    strike_everywhere(Victim::Agent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_killed_in_every_tool() {
    strike_everywhere(Victim::Both).await.unwrap();
}

/// The steps without a tool are met by killing as soon as the registry says that they have begun; whatever the kill hits, the end is the same.
async fn strike_each_step(victim: Victim) -> Result<()> {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await?;
    let first = fleet.client.create_app("nginx", "first").await?;
    let steps = fleet.done(&first).await?["steps"].as_array().context("steps")?.len();
    assert!(steps >= 7, "a deployment of {steps} steps");
    for step in 0..steps {
        let created = fleet.client.create_app("nginx", &format!("step-{step}")).await?;
        let path = format!(
            "/api/operations/{}",
            created["operation_id"].as_str().context("operation_id")?
        );
        until("the step has begun", PATIENCE, async || {
            let operation = fleet.client.get(&path).await?.expect(200)?;
            Ok((operation["steps"][step]["state"] != "pending").then_some(()))
        })
        .await?;
        if victim != Victim::Agent {
            fleet.kill_coordinator()?;
        }
        if victim != Victim::Coordinator {
            fleet.nodes[0].kill_agent()?;
            fleet.nodes[0].start_agent()?;
        }
        if victim != Victim::Agent {
            fleet.start_coordinator().await?;
        }
        fleet
            .done(&created)
            .await
            .with_context(|| format!("{victim:?} killed in step {step}"))?;
        fleet.assert_promises().await?;
    }
    fleet.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_killed_in_every_step() {
    strike_each_step(Victim::Coordinator).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_killed_in_every_step() {
    strike_each_step(Victim::Agent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_killed_in_every_step() {
    strike_each_step(Victim::Both).await.unwrap();
}
