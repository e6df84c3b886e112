//! Writes down a whole conversation of today's agent and coordinator, and a state folder of today's agent, for the tests of later versions:
//! `cargo run -p proximity-tests --bin record -- tests/recorded/vN` before the protocol's version is raised. A recording is never changed afterwards.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result, ensure};
use proximity_protocol::{
    codec::Message,
    command::{Command, Reply, Verb},
    event::{Event, Notice},
    hello::Hello,
    renew::ReturnReply,
};
use proximity_tests::{
    authority::Dates,
    fleet::{Fleet, FleetSpec, LoneNode, SimNode},
    process::{PATIENCE, until},
    recording::{Recording, Side},
    relay::Relay,
};
use pve_sim::{Fault, Rule, Script};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use time::{Duration, OffsetDateTime};
use tokio::task::JoinHandle;

const NAME: &str = "my-nginx";

struct Studio {
    fleet: Fleet,
    lone: LoneNode,
    relay: Arc<Relay>,
    host: i64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder: PathBuf = std::env::args_os().nth(1).context("usage: record FOLDER")?.into();
    ensure!(
        !folder.exists(),
        "{} is there already: a recording is never changed",
        folder.display()
    );
    let mut studio = Studio::open().await?;
    studio.life_of_an_app().await?;
    studio.renewals().await?;
    let state = studio.state(&folder).await?;
    let recording = studio.relay.recording();
    complete(&recording)?;
    let text = format!(
        "# Frames of an agent and a coordinator, message version {}. See tests/src/recording.rs.\n{recording}",
        proximity_protocol::VERSION_MAX
    );
    fs::write(folder.join("conversation.txt"), text)?;
    println!("{} frames, state of {state}", recording.frames().count());
    studio.fleet.stop().await
}

impl Studio {
    async fn open() -> Result<Self> {
        let fleet = Fleet::start(&FleetSpec::hollow(0), |line| eprintln!("{line}")).await?;
        let mut lone = LoneNode::create()?;
        let relay = Arc::new(Relay::listen()?);
        relay.set_dates(Dates::for_ages());
        let to_relay = relay.token()?;
        let to_coordinator = fleet.join_token(&json!({})).await?.parse()?;
        let enrolled = tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.enrol("enrolment", &to_coordinator).await }
        });
        tokio::task::block_in_place(|| lone.node.join(&to_relay))?;
        enrolled.await??;
        let mut studio_link = link(&relay, "life of an app");
        lone.node.start_agent()?;
        let online = fleet.node_online(&lone.node.name).await?;
        ensure!(!studio_link.is_finished(), "{:?}", (&mut studio_link).await);
        let host = online["host_id"].as_i64().context("host_id")?;
        let path = format!("/api/proxmox/hosts/{host}/network");
        fleet
            .client
            .put(&path, &lone.node.network.as_json())
            .await?
            .expect(200)?;
        Ok(Self {
            fleet,
            lone,
            relay,
            host,
        })
    }

    fn node(&mut self) -> &mut SimNode {
        &mut self.lone.node
    }

    async fn act(&self, app: &Value, action: &str) -> Result<()> {
        let path = format!("/api/apps/{}/action", app["id"].as_str().unwrap());
        let answer = self
            .fleet
            .client
            .post(&path, &json!({"action": action}))
            .await?
            .expect(200)?;
        self.fleet.done(&answer).await?;
        Ok(())
    }

    async fn delete(&self, app: &Value) -> Result<Value> {
        let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
        self.fleet.client.delete(&path).await?.expect(202)
    }

    /// Every verb, a fault, a cancellation, figures of a running container, a refresh.
    async fn life_of_an_app(&mut self) -> Result<()> {
        let fail = Fault::Fail {
            exit: 255,
            stderr: "unable to open file '/fastboot.tmp.1' - Permission denied\n".into(),
            stdout: String::new(),
        };
        self.node()
            .script(&Script::new().rule(Rule::on("pct", fail).subcommand("start").times(1)))?;
        let app = self.fleet.deploy("nginx", NAME).await?;
        self.act(&app, "stop").await?;
        self.act(&app, "start").await?;
        self.act(&app, "restart").await?;
        let path = format!("/api/proxmox/hosts/{}/sync-nodes", self.host);
        self.fleet.client.post(&path, &json!({})).await?.expect(200)?;
        let first = self
            .relay
            .recording()
            .frames()
            .find_map(|frame| frame.as_message::<Command>());
        let mut inventory = first.context("a command")?;
        inventory.verb = Verb::Inventory;
        self.relay.command(&inventory).await?;
        self.cancelled().await?;
        let gone = self.delete(&app).await?;
        self.fleet.done(&gone).await?;
        Ok(())
    }

    async fn cancelled(&mut self) -> Result<()> {
        let gate = self.pause("create", "cancelled")?;
        let app = self.fleet.client.create_app("nginx", "cancelled").await?;
        self.reached(&gate).await?;
        let gone = self.delete(&app).await?;
        until("the cancellation", PATIENCE, async || {
            let recording = self.relay.recording();
            let found = recording
                .frames()
                .any(|f| matches!(f.as_message(), Some(Notice::Cancel { .. })));
            Ok(found.then_some(()))
        })
        .await?;
        fs::write(&gate, "")?;
        self.fleet.done(&gone).await?;
        Ok(())
    }

    fn pause(&mut self, sub: &str, gate: &str) -> Result<PathBuf> {
        let gate = self.lone.node.root().join(gate);
        let rule = Rule::on("pct", Fault::PauseUntil(gate.clone()))
            .subcommand(sub)
            .times(1);
        self.node().script(&Script::new().rule(rule))?;
        Ok(gate)
    }

    async fn reached(&self, gate: &Path) -> Result<()> {
        let reached = PathBuf::from(format!("{}.reached", gate.display()));
        until("the tool is in its middle", PATIENCE, async || {
            Ok(reached.exists().then_some(()))
        })
        .await
    }

    /// Gives the agent a certificate with those dates, as if it had got it then.
    fn age(&mut self, dates: Dates) -> Result<()> {
        let node = self.relay.puppet.get().unwrap().grant.node;
        let csr_der = self.relay.csr_der.lock().unwrap().clone();
        let state = self.lone.node.state();
        self.relay.authority.replace(&state, node, &csr_der, dates)
    }

    async fn heard(&self, what: &str, check: impl Fn(&Recording) -> bool) -> Result<()> {
        let waited = until(
            what,
            PATIENCE,
            async || Ok(check(&self.relay.recording()).then_some(())),
        )
        .await;
        waited.with_context(|| self.lone.node.agent_log())
    }

    async fn session(&mut self, title: &'static str, what: &str, check: impl Fn(&Recording) -> bool) -> Result<()> {
        let linked = link(&self.relay, title);
        self.node().start_agent()?;
        self.heard(what, check).await?;
        self.node().stop_agent().await?;
        linked.abort();
        Ok(())
    }

    async fn renewals(&mut self) -> Result<()> {
        self.node().stop_agent().await?;
        let now = OffsetDateTime::now_utc();
        let old = Dates {
            from: now - Duration::days(80),
            until: now + Duration::days(10),
        };
        self.age(old)?;
        self.session("renewal refused", "NotRenewed", |r| {
            r.frames()
                .any(|f| matches!(f.as_message(), Some(Notice::NotRenewed(_))))
        })
        .await?;
        // By the registry, the node's certificate is as old as the agent thinks.
        let eighty_days_ms = 80 * 24 * 3600 * 1000_i64;
        let registry = self.fleet.state().join("registry.db");
        let mut registry = {
            use sqlx::Connection;
            sqlx::SqliteConnection::connect(&format!("sqlite://{}", registry.display())).await?
        };
        sqlx::query("UPDATE certificates SET not_before = not_before - $1, not_after = not_after - $1")
            .bind(eighty_days_ms)
            .execute(&mut registry)
            .await?;
        let relay = Arc::clone(&self.relay);
        let linked = tokio::spawn(async move {
            relay.link("renewed").await?;
            relay.link("with the new certificate").await
        });
        self.node().start_agent()?;
        self.heard("a link with the new certificate", |r| {
            let part = r.part("with the new certificate");
            part.is_ok_and(|part| part.first::<Event>(Side::Agent).is_some())
        })
        .await?;
        self.node().stop_agent().await?;
        linked.abort();
        self.age(Dates {
            from: now - Duration::days(100),
            until: now - Duration::days(10),
        })?;
        self.relay.set_dates(Dates::for_ages());
        let relay = Arc::clone(&self.relay);
        let returned = tokio::spawn(async move {
            relay.come_back("return").await?;
            relay.link("returned").await
        });
        self.node().start_agent()?;
        self.heard("a link after the return", |r| {
            r.part("returned")
                .is_ok_and(|part| part.first::<Event>(Side::Agent).is_some())
        })
        .await?;
        self.node().stop_agent().await?;
        returned.abort();
        Ok(())
    }

    /// The agent's state with a published port and a job in the middle; beside it the journal with the same job finished and not committed.
    async fn state(&mut self, folder: &Path) -> Result<String> {
        let linked = link(&self.relay, "jobs that stay open");
        self.node().start_agent()?;
        self.fleet.node_online(&self.lone.node.name.clone()).await?;
        self.fleet.deploy("nginx", "published").await?;
        let gate = self.pause("create", "open")?;
        self.fleet.client.create_app("nginx", "open").await?;
        self.reached(&gate).await?;
        linked.abort();
        let state = self.lone.node.state();
        fs::create_dir_all(folder)?;
        self.copy(&state, &folder.join("state"))?;
        fs::write(&gate, "")?;
        let status = state.join("status.json");
        until("the job has ended", PATIENCE, async || {
            let status: Value = serde_json::from_slice(&fs::read(&status)?)?;
            Ok((status["open_jobs"][0]["finished"] == true).then_some(()))
        })
        .await?;
        fs::copy(state.join("journal"), folder.join("journal.finished"))?;
        self.node().kill_agent()?;
        self.relay.authority.store(folder)?;
        Ok(state.display().to_string())
    }

    /// What differs from run to run gets a name: folders and the coordinator's address.
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.copy(&entry.path(), &target)?;
                continue;
            }
            let bytes = fs::read(entry.path())?;
            let bytes = match String::from_utf8(bytes) {
                Ok(text) => text
                    .replace(&self.lone.node.root().display().to_string(), "@ROOT@")
                    .replace(&self.relay.address()?, "@COORDINATOR@")
                    .into_bytes(),
                Err(binary) => binary.into_bytes(),
            };
            fs::write(target, bytes)?;
        }
        Ok(())
    }
}

fn link(relay: &Arc<Relay>, title: &'static str) -> JoinHandle<Result<()>> {
    let relay = Arc::clone(relay);
    tokio::spawn(async move { relay.link(title).await })
}

/// Nothing that the two can say in an ordinary life is missing.
fn complete(recording: &Recording) -> Result<()> {
    let said = |number: u16| recording.frames().any(|frame| frame.kind() == number);
    for (number, name) in [
        (Hello::TYPE, "Hello"),
        (Command::TYPE, "Command"),
        (Reply::TYPE, "Reply"),
        (Event::TYPE, "Event"),
        (Notice::TYPE, "Notice"),
        (ReturnReply::TYPE, "ReturnReply"),
        (7, "MetricsFrame"),
    ] {
        ensure!(said(number), "no {name} was said");
    }
    let verbs: std::collections::BTreeSet<&str> = recording
        .frames()
        .filter_map(|frame| frame.as_message::<Command>().map(|command| command.verb.name()))
        .collect();
    ensure!(verbs.len() == 12, "only the verbs {verbs:?}");
    Ok(())
}
