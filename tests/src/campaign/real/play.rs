//! Plays a plan on a fleet, brings everything to rest, and looks at it.

use super::{
    plan::{Blow, Item, Plan, Trouble},
    wire::Wire,
};
use crate::{
    campaign::{Outcome, Size, simulated::digest},
    fleet::{Fleet, FleetSpec},
    process::until,
    world::{
        NodeFiles, broken_promises,
        standing::{Known, Proof, out_of_place, proof_path},
    },
};
use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pve_sim::{Layout, Script};
use serde_json::Value;
use sqlx::Row;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Nodes of a run: one alone, the others in a cluster.
const NODES: usize = 3;
/// How long everything may take to end once nothing goes wrong any more: ten tries of an undo, and a look every 15 s at what somebody else holds.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long registry and nodes may take to agree after that: an agent looks at its node every 30 s.
const AGREE: Duration = Duration::from_secs(120);

pub(super) struct Play {
    pub(super) fleet: Fleet,
    wires: Vec<Wire>,
    at_once: i64,
    /// What comes to an end, and when.
    under_way: Vec<(Instant, Trouble)>,
    /// Files left in containers.
    pub(super) proofs: Vec<Proof>,
    /// Containers that somebody made by hand: node, number, configuration, and what is in their file.
    pub(super) by_hand: Vec<(usize, u32, String, Vec<u8>)>,
    /// Operations that a user was told of.
    pub(super) accepted: BTreeSet<String>,
    pub(super) created: usize,
    troubles: usize,
}

/// One run in real time.
pub fn real_run(seed: u64, size: Size) -> Outcome {
    let plan = Plan::draw(seed, NODES, size.apps.min(12), size.requests / 3);
    let lines = plan.lines();
    let mut outcome = Outcome {
        seed,
        profile: format!("{} items in real time", plan.items.len()),
        schedule_digest: digest(&lines.join("\n")),
        schedule: lines,
        ..Outcome::default()
    };
    let played = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("a runtime")
        .and_then(|runtime| runtime.block_on(play(&plan, &mut outcome)));
    if let Err(error) = played {
        outcome.broken.push(format!("{error:#}"));
    }
    outcome
}

async fn play(plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let spec = FleetSpec::hollow(1).with_cluster(u8::try_from(NODES - 1)?);
    let fleet = Fleet::start(&spec, |_| ()).await.context("the fleet did not start")?;
    let mut play = Play {
        fleet,
        wires: Vec::new(),
        at_once: plan.at_once,
        under_way: Vec::new(),
        proofs: Vec::new(),
        by_hand: Vec::new(),
        accepted: BTreeSet::new(),
        created: 0,
        troubles: 0,
    };
    let played = play.play(plan, outcome).await;
    outcome.troubles = play.troubles;
    if played.is_err() || !outcome.broken.is_empty() {
        outcome.schedule.push(play.fleet.logs());
        outcome.kept = Some(play.fleet.keep());
        return played;
    }
    play.fleet.stop().await
}

impl Play {
    async fn play(&mut self, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
        self.lay_wires().await?;
        for node in 0..NODES {
            let policy = self.fleet.nodes[node].policy();
            std::fs::create_dir_all(policy.parent().context("a file in a folder")?)?;
            std::fs::write(&policy, "adoption = \"any\"\n")?;
            self.fleet.nodes[node].script(&plan.script(node))?;
        }
        for item in &plan.items {
            self.item(item).await.with_context(|| item.to_string())?;
        }
        self.mend().await?;
        outcome.broken = self.at_rest().await?;
        outcome.ended = self.ends().await?;
        if outcome.broken.is_empty() {
            outcome.broken = self.clear_up(plan.clears_all).await?;
        }
        Ok(())
    }

    /// Each agent reaches the coordinator through a wire of its own.
    async fn lay_wires(&mut self) -> Result<()> {
        let quic = self.fleet.coordinator.as_ref().context("no coordinator")?.quic;
        for node in 0..NODES {
            let wire = Wire::to(quic).await?;
            self.fleet.nodes[node].stop_agent().await?;
            wire.lead(&self.fleet.nodes[node].state())?;
            self.fleet.nodes[node].start_agent()?;
            self.wires.push(wire);
        }
        for node in 0..NODES {
            let name = self.fleet.nodes[node].name.clone();
            self.fleet.node_online(&name).await?;
        }
        Ok(())
    }

    async fn item(&mut self, item: &Item) -> Result<()> {
        self.ends_due(false).await?;
        match item {
            Item::Pause(ms) => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                Ok(())
            }
            Item::Begin(trouble, ms) => {
                self.troubles += 1;
                self.begin(*trouble, Duration::from_millis(*ms)).await
            }
            Item::Strike(blow) => {
                self.troubles += 1;
                self.strike(*blow)
            }
            Item::Ask(kind, pick) => {
                self.room().await?;
                self.ask(kind, *pick).await
            }
        }
    }

    /// Waits until one more may be asked for.
    async fn room(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.ends_due(false).await?;
            self.leave_proofs().await?;
            let left = self.unfinished().await?;
            if self.fleet.coordinator.is_some() && (left < self.at_once || begin.elapsed() > PATIENCE) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn unfinished(&self) -> Result<i64> {
        let mut registry = self.fleet.registry().await?;
        registry
            .count("SELECT COUNT(*) FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing')")
            .await
    }

    fn files(&self) -> Vec<NodeFiles> {
        self.fleet.nodes.iter().map(crate::fleet::SimNode::files).collect()
    }

    async fn begin(&mut self, trouble: Trouble, time: Duration) -> Result<()> {
        let busy = |node: usize| {
            self.under_way.iter().any(|(_, other)| match other {
                Trouble::AgentKilled(at) | Trouble::AgentFrozen(at) | Trouble::PowerLost(at) => *at == node,
                _ => false,
            })
        };
        match trouble {
            Trouble::CoordinatorKilled if self.fleet.coordinator.is_some() => self.fleet.kill_coordinator()?,
            Trouble::AgentKilled(node) if !busy(node) => self.fleet.nodes[node].kill_agent()?,
            Trouble::AgentFrozen(node) if !busy(node) => self.signal(node, Signal::SIGSTOP)?,
            Trouble::LinkCut(node) => self.wires[node].cut(true),
            Trouble::PowerLost(0) if !busy(0) => {
                self.fleet.nodes[0].kill_agent()?;
                self.kill_tools(0);
                self.fleet.nodes[0].reboot().await?;
            }
            Trouble::PowerLost(node) if !busy(node) => {
                self.fleet.power_off(node).await?;
                self.kill_tools(node);
            }
            Trouble::NoQuorum => self.fleet.partition(0, &[])?,
            // It is down already.
            _ => return Ok(()),
        }
        self.under_way.push((Instant::now() + time, trouble));
        Ok(())
    }

    fn signal(&self, node: usize, signal: Signal) -> Result<()> {
        let pid = self.fleet.nodes[node].agent_pid().context("the agent does not run")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Ends what is due, or everything.
    async fn ends_due(&mut self, everything: bool) -> Result<()> {
        let now = Instant::now();
        let (due, left): (Vec<_>, Vec<_>) = self.under_way.drain(..).partition(|(at, _)| everything || *at <= now);
        self.under_way = left;
        for (_, trouble) in due {
            match trouble {
                Trouble::CoordinatorKilled => self.fleet.start_coordinator().await?,
                Trouble::AgentKilled(node) | Trouble::PowerLost(node @ 0) => self.fleet.nodes[node].start_agent()?,
                Trouble::AgentFrozen(node) => self.signal(node, Signal::SIGCONT)?,
                Trouble::LinkCut(node) => self.wires[node].cut(false),
                Trouble::PowerLost(node) => self.fleet.power_on(node).await?,
                Trouble::NoQuorum => self.fleet.heal(0)?,
            }
        }
        Ok(())
    }

    fn strike(&mut self, blow: Blow) -> Result<()> {
        match blow {
            Blow::ToolKilled(node) => self.kill_one(node, "child.json"),
            Blow::ShimKilled(node) => self.kill_one(node, "claim"),
            Blow::TableFlushed(node) => {
                // A machine without power has no table.
                let _ = self.fleet.nodes[node].tool("nft", &["flush", "ruleset"]);
            }
            Blow::StoppedByHand(node) | Blow::StartedByHand(node) => {
                let act = if matches!(blow, Blow::StoppedByHand(_)) {
                    "stop"
                } else {
                    "start"
                };
                let found = self.fleet.nodes[node].files().read()?;
                if let Some(vmid) = found.containers.iter().next() {
                    // It may be in that state already, or locked.
                    let _ = self.fleet.nodes[node].tool("pct", &[act, &vmid.to_string()]);
                }
            }
        }
        Ok(())
    }

    /// Processes of the node's tools, by the file that names them. A number that has been given to another process since is none of them.
    fn tools(&self, node: usize, file: &str) -> Vec<Pid> {
        let folder = self.fleet.nodes[node].state().join("tools");
        let root = self.fleet.nodes[node].root().display().to_string();
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let text = std::fs::read_to_string(entry.ok()?.path().join(file)).ok()?;
                let stamp: Value = serde_json::from_str(&text).ok()?;
                let pid = i32::try_from(stamp["pid"].as_i64()?).ok()?;
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                String::from_utf8_lossy(&line)
                    .contains(&root)
                    .then_some(Pid::from_raw(pid))
            })
            .collect()
    }

    fn kill_one(&self, node: usize, file: &str) {
        if let Some(pid) = self.tools(node, file).first() {
            // It may end at this very moment.
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }

    fn kill_tools(&self, node: usize) {
        for file in ["claim", "child.json"] {
            for pid in self.tools(node, file) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    /// A file that nobody else can have written goes into every container that has just been deployed.
    async fn leave_proofs(&mut self) -> Result<()> {
        let mut registry = self.fleet.registry().await?;
        let rows = registry
            .rows("SELECT app_id FROM operations WHERE kind = 'deploy' AND state = 'done'")
            .await?;
        let mut deployed = BTreeSet::new();
        for row in rows {
            deployed.insert(row.try_get::<String, _>(0)?);
        }
        for app in registry.apps().await? {
            let known = self.proofs.iter().any(|proof| proof.app == app.id);
            let node = self.fleet.nodes.iter().find(|node| node.name == app.node);
            let (Some(vmid), Some(node), false) = (app.vmid, node, known || !deployed.contains(&app.id)) else {
                continue;
            };
            if !app.confirmed || app.status == "removing" {
                continue;
            }
            let path = proof_path(&Layout::open(node.root())?, vmid);
            let content = format!("{} {}", app.id, uuid::Uuid::new_v4()).into_bytes();
            let written =
                path.parent().map(|folder| folder.is_dir()) == Some(true) && std::fs::write(&path, &content).is_ok();
            // It may be on its way out by now.
            if written {
                self.proofs.push(Proof { app: app.id, content });
            }
        }
        Ok(())
    }

    /// Nothing goes wrong any more.
    async fn mend(&mut self) -> Result<()> {
        self.ends_due(true).await?;
        for node in &self.fleet.nodes {
            node.script(&Script::new())?;
        }
        Ok(())
    }

    /// Waits until everything has ended and the registry and the nodes agree; what does not come to agree is broken.
    async fn at_rest(&mut self) -> Result<Vec<String>> {
        let ended = until("every operation's end", PATIENCE, async || {
            Ok((self.unfinished().await? == 0).then_some(()))
        })
        .await;
        if let Err(error) = ended {
            return Ok(vec![format!("{error:#}: {:?}", self.left().await?)]);
        }
        self.leave_proofs().await?;
        let begin = Instant::now();
        loop {
            let broken = self.broken().await?;
            if broken.is_empty() || begin.elapsed() > AGREE {
                return Ok(broken);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn left(&self) -> Result<Vec<String>> {
        let mut registry = self.fleet.registry().await?;
        let rows = registry
            .rows("SELECT kind || ' is ' || state || ': ' || COALESCE(reason, '') FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing')")
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn broken(&self) -> Result<Vec<String>> {
        let mut registry = self.fleet.registry().await?;
        let files = self.files();
        let strangers: BTreeSet<u32> = self.by_hand.iter().map(|(_, vmid, _, _)| *vmid).collect();
        let mut broken = broken_promises(&mut registry, &files, &strangers).await?;
        let known = Known {
            proofs: self.proofs.clone(),
            strangers: self.strangers(),
        };
        broken.extend(out_of_place(&mut registry, &files, &known).await?);
        let mut there = BTreeSet::new();
        for row in registry.rows("SELECT id FROM operations").await? {
            there.insert(row.try_get::<String, _>(0)?);
        }
        let lost = self.accepted.difference(&there);
        broken.extend(lost.map(|id| format!("operation {id} was accepted, and the registry does not know it")));
        Ok(broken)
    }

    async fn ends(&self) -> Result<std::collections::BTreeMap<(String, String), usize>> {
        let mut registry = self.fleet.registry().await?;
        let mut ends = std::collections::BTreeMap::new();
        for row in registry.rows("SELECT kind, state FROM operations").await? {
            *ends.entry((row.try_get(0)?, row.try_get(1)?)).or_default() += 1;
        }
        Ok(ends)
    }

    /// What is in error is deleted, or everything; nothing may be left of it.
    async fn clear_up(&mut self, everything: bool) -> Result<Vec<String>> {
        for app in self.fleet.registry().await?.apps().await? {
            if everything || app.status == "error" {
                let answer = self.fleet.client.delete(&format!("/api/apps/{}", app.id)).await?;
                answer.expect(202)?;
            }
        }
        let mut broken = self.at_rest().await?;
        for app in self.fleet.registry().await?.apps().await? {
            if everything || app.status == "error" {
                broken.push(format!("app {} was deleted, and is still {}", app.id, app.status));
            }
        }
        Ok(broken)
    }
}
