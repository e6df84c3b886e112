//! Who a node is: two machines with one identity, a node that is thrown out in the middle of its work, a machine that was reinstalled, and the authority that
//! all of it rests on, replaced, killed, saved and restored. The product's executables as processes of their own.
#![allow(clippy::unwrap_used)]

#[path = "identity/authority.rs"]
mod authority;
#[path = "identity/clone.rs"]
mod clone;
#[path = "identity/reinstalled.rs"]
mod reinstalled;
#[path = "identity/revoked.rs"]
mod revoked;

use proximity_tests::{
    fleet::{Fleet, SimNode},
    process::{PATIENCE, until},
};
use serde_json::Value;
use sqlx::Connection as _;

/// What the agent says of itself to `proximity-agent status`.
fn status(node: &SimNode) -> String {
    let output = node.agent_cli(&["status"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until the agent's `status` holds all of these words.
async fn says(node: &SimNode, words: &[&str]) {
    let mut last = String::new();
    let waited = until("the agent's status", PATIENCE, async || {
        last = status(node);
        Ok(words.iter().all(|word| last.contains(word)).then_some(()))
    })
    .await;
    assert!(waited.is_ok(), "wanted {words:?}: {last}\n{}", node.agent_log());
}

async fn node(fleet: &Fleet, name: &str) -> Value {
    let nodes = fleet
        .client
        .get("/api/proxmox/nodes")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let found = nodes.as_array().unwrap().iter().find(|node| node["name"] == name);
    found.unwrap_or_else(|| panic!("no node {name}: {nodes}")).clone()
}

/// Actor, outcome and details of the audit's rows of one action.
async fn audited(fleet: &Fleet, action: &str) -> Vec<(i64, String, String, String)> {
    let path = format!("sqlite://{}?mode=ro", fleet.state().join("registry.db").display());
    let mut registry = sqlx::SqliteConnection::connect(&path).await.unwrap();
    let sql = "SELECT at, actor, outcome, COALESCE(detail, '') FROM audit WHERE action = $1 ORDER BY id";
    sqlx::query_as(sql).bind(action).fetch_all(&mut registry).await.unwrap()
}
