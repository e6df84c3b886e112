//! A cluster: containers that move, HA, loss of quorum. The app follows, waits, goes on, and nothing is done twice.

#![allow(clippy::unwrap_used)]

mod drain;
mod ha;
mod moves;
mod quorum;
mod sharing;

use anyhow::Result;
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec, SHARED_STORAGE},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::path::PathBuf;

async fn cluster(nodes: u8) -> Fleet {
    Fleet::start(&FleetSpec::cluster(nodes), |_| ()).await.unwrap()
}

/// Asks for nginx on a node, on the storage that every node sees.
async fn ask(fleet: &Fleet, hostname: &str, node: &str) -> Value {
    let body =
        json!({"catalog_id": "nginx", "hostname": hostname, "node": node, "config": {"storage": SHARED_STORAGE}});
    fleet
        .client
        .post("/api/apps", &body)
        .await
        .unwrap()
        .expect(201)
        .unwrap()
}

/// The same until it runs.
async fn deploy(fleet: &Fleet, hostname: &str, node: &str) -> Value {
    let created = ask(fleet, hostname, node).await;
    fleet.done(&created).await.unwrap();
    let id = created["id"].as_str().unwrap();
    fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap()
}

async fn app(fleet: &Fleet, id: &str) -> Result<Value> {
    fleet.client.get(&format!("/api/apps/{id}")).await?.expect(200)
}

/// Starts, stops or restarts an app; answers what names the operation.
async fn act(fleet: &Fleet, id: &str, action: &str) -> Value {
    let path = format!("/api/apps/{id}/action");
    let answer = fleet.client.post(&path, &json!({"action": action})).await.unwrap();
    answer.expect(200).unwrap()
}

async fn delete(fleet: &Fleet, id: &str) -> Value {
    let answer = fleet.client.delete(&format!("/api/apps/{id}")).await.unwrap();
    answer.expect(202).unwrap()
}

/// Waits until an operation waits for a reason with these words, and answers it.
async fn waits_for(fleet: &Fleet, answer: &Value, words: &str) -> Value {
    let path = format!("/api/operations/{}", answer["operation_id"].as_str().unwrap());
    let waited = until(&format!("waiting for {words:?}"), PATIENCE, async || {
        let operation = fleet.client.get(&path).await?.expect(200)?;
        let waits = operation["state"] == "waiting" && operation["reason"].as_str().is_some_and(|r| r.contains(words));
        Ok(waits.then_some(operation))
    })
    .await;
    match waited {
        Ok(operation) => operation,
        Err(error) => {
            let now = fleet.client.get(&path).await.unwrap().body;
            panic!("{error:#}: {now:#}\n{}", fleet.logs())
        }
    }
}

/// Waits until the app runs on that node and answers at its published port there.
async fn serves_on(fleet: &Fleet, id: &str, node: usize) -> Value {
    let name = &fleet.nodes[node].name;
    let mut last = Value::Null;
    let waited = until(&format!("{id} serves on {name}"), PATIENCE, async || {
        let app = app(fleet, id).await?;
        last = app.clone();
        let there = app["node"] == name.as_str() && app["status"] == "running";
        let url = app["url"].as_str().filter(|_| there);
        let answers = match url {
            Some(url) => page(url).await.is_some(),
            None => false,
        };
        Ok(answers.then_some(app))
    })
    .await;
    waited.unwrap_or_else(|error| panic!("{error:#}: {last:#}\n{}", fleet.logs()))
}

/// Every operation has ended (reconciliation has some of its own), and every promise holds.
async fn settled(fleet: &Fleet) {
    let unfinished = "SELECT COUNT(*) FROM operations WHERE state IN ('queued', 'running', 'waiting', 'undoing')";
    until("every operation has ended", PATIENCE, async || {
        Ok((fleet.registry().await?.count(unfinished).await? == 0).then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    fleet.assert_promises().await.unwrap();
}

/// Waits until nothing answers at the app's old place.
async fn silent(fleet: &Fleet, url: &str) {
    until(&format!("nothing at {url}"), PATIENCE, async || {
        Ok(page(url).await.is_none().then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
}

/// A tool of a node that stops at a point until it is let go.
struct Held {
    go: PathBuf,
}

impl Held {
    fn at(fleet: &Fleet, node: usize, tool: &str, sub: &str, at: At, skip: u64) -> Self {
        let go = fleet.folder().join(format!("{tool}-{sub}-{at:?}-{skip}.go"));
        let rule = Rule::on(tool, Fault::PauseUntil(go.clone()))
            .subcommand(sub)
            .at(at)
            .skip(skip)
            .times(1);
        fleet.nodes[node].script(&Script::new().rule(rule)).unwrap();
        Self { go }
    }

    async fn reached(&self, fleet: &Fleet) {
        let mark = self.go.with_extension("go.reached");
        until(&format!("{}", mark.display()), PATIENCE, async || {
            Ok(mark.exists().then_some(()))
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    }

    fn let_go(&self) {
        std::fs::write(&self.go, "").unwrap();
    }
}

/// How often tasks of that kind were begun on all nodes.
fn tasks(fleet: &Fleet, kind: &str) -> usize {
    let count = |root: &std::path::Path| {
        let folders = std::fs::read_dir(root.join("var/log/pve/tasks")).unwrap();
        let logs = folders
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .flat_map(|path| std::fs::read_dir(path).unwrap());
        logs.filter(|log| {
            let name = log.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(&format!(":{kind}:"))
        })
        .count()
    };
    fleet.nodes.iter().map(|node| count(node.root())).sum()
}
