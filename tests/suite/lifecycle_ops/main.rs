//! What an operator does to apps after they were deployed, and to containers that were there before: discover, adopt, change, let go, destroy, cancel. On hollow
//! nodes, through the API, with real processes.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec, SimNode},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf};

mod adoption;
mod changes;

const BY_HAND: u32 = 150;

/// A container that an operator makes and starts on the node. Port 80 answers in it.
fn made_by_hand(node: &SimNode, vmid: u32, hostname: &str) {
    let id = vmid.to_string();
    let template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
    let net = "name=eth0,bridge=vmbr0,ip=dhcp";
    node.tool(
        "pct",
        &[
            "create",
            &id,
            template,
            "--rootfs",
            "local:1",
            "--hostname",
            hostname,
            "--net0",
            net,
            "--tags",
            "mine",
            "--cores",
            "1",
            "--memory",
            "256",
        ],
    )
    .unwrap();
    std::fs::write(node.root().join(format!("var/lib/lxc/{vmid}/listens")), "80\n").unwrap();
    node.tool("pct", &["start", &id]).unwrap();
}

fn conf_path(node: &SimNode, vmid: u32) -> PathBuf {
    node.root().join(format!("etc/pve/nodes/{}/lxc/{vmid}.conf", node.name))
}

fn conf(node: &SimNode, vmid: u32) -> String {
    std::fs::read_to_string(conf_path(node, vmid)).unwrap()
}

fn record(node: &SimNode, vmid: u32) -> Option<Value> {
    let path = node.root().join(format!("etc/pve/priv/proximity/{vmid}"));
    std::fs::read_to_string(path)
        .ok()
        .map(|text| serde_json::from_str(&text).unwrap())
}

fn is_running(node: &SimNode, vmid: u32) -> bool {
    node.tool("pct", &["status", &vmid.to_string()]).unwrap().trim() == "status: running"
}

async fn status(fleet: &Fleet, id: &Value, wanted: &str) -> Value {
    fleet
        .client
        .app_status(id.as_str().unwrap(), &[wanted], PATIENCE)
        .await
        .unwrap()
}

async fn act(fleet: &Fleet, id: &Value, action: &str) {
    let path = format!("/api/apps/{}/action", id.as_str().unwrap());
    let answer = fleet.client.post(&path, &json!({"action": action})).await.unwrap();
    fleet.done(&answer.expect(200).unwrap()).await.unwrap();
}

async fn patch(fleet: &Fleet, id: &Value, body: Value, expected: u16) -> Value {
    let path = format!("/api/apps/{}", id.as_str().unwrap());
    fleet
        .client
        .patch(&path, &body)
        .await
        .unwrap()
        .expect(expected)
        .unwrap()
}

async fn log(fleet: &Fleet, id: &Value) -> String {
    let path = format!("/api/apps/{}/logs?per_page=200", id.as_str().unwrap());
    let page = fleet.client.get(&path).await.unwrap().expect(200).unwrap();
    let lines = page["logs"].as_array().unwrap().iter();
    lines
        .map(|line| format!("{}\n", line["message"].as_str().unwrap()))
        .collect()
}

/// Nothing of the strangers counts as stray.
async fn assert_promises(fleet: &Fleet, strangers: &[u32]) {
    let strangers: BTreeSet<u32> = strangers.iter().copied().collect();
    let broken = fleet.broken_promises_beside(&strangers).await.unwrap();
    assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), fleet.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_cancelled_leaves_nothing() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let go = fleet.folder().join("create.go");
    let rule = Rule::on("pct", Fault::PauseUntil(go.clone()))
        .subcommand("create")
        .at(At::Middle)
        .times(1);
    fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
    let created = fleet.client.create_app("nginx", "cancelled").await.unwrap();
    until("pct create is in the middle", PATIENCE, async || {
        Ok(go.with_extension("go.reached").exists().then_some(()))
    })
    .await
    .unwrap();
    let operation = format!("/api/operations/{}", created["operation_id"].as_str().unwrap());
    let cancel = format!("{operation}/cancel");
    let asked = fleet
        .client
        .post(&cancel, &json!({}))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    assert_eq!(asked["cancel_requested"], true);
    // A tool that acts is not broken off: its end is waited for.
    std::fs::write(&go, "").unwrap();
    let ended = fleet
        .client
        .operation_end(created["operation_id"].as_str().unwrap(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(
        (&ended["state"], &ended["reason"]),
        (&json!("undone"), &json!("cancelled")),
        "{ended:#}"
    );
    let refusal = fleet
        .client
        .post(&cancel, &json!({}))
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(refusal.contains("taken back already"), "{refusal}");
    let left = fleet.nodes[0].files().read().unwrap();
    assert!(
        left.containers.is_empty() && left.records.is_empty() && left.volumes.is_empty(),
        "{left:?}"
    );
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// What happens behind the system's back is said, and nothing of others is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_removed_by_hand_is_told_and_nothing_else_is_touched() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let node = &fleet.nodes[0];
    made_by_hand(node, BY_HAND, "others");
    let others = conf(node, BY_HAND);
    let app = fleet.deploy("nginx", "removed").await.unwrap();
    let kept = fleet.deploy("nginx", "kept").await.unwrap();
    let (id, vmid) = (&app["id"], app["lxc_id"].to_string());
    node.tool("pct", &["stop", &vmid]).unwrap();
    node.tool("pct", &["destroy", &vmid]).unwrap();
    let told = status(&fleet, id, "error").await;
    assert!(
        told["status_reason"].as_str().unwrap().contains("no longer on pve1"),
        "{told:#}"
    );
    assert!(page(kept["url"].as_str().unwrap()).await.is_some());
    assert_eq!((conf(node, BY_HAND), is_running(node, BY_HAND)), (others, true));
    let path = format!("/api/apps/{}", id.as_str().unwrap());
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    fleet.done(&deleted).await.unwrap();
    assert_promises(&fleet, &[BY_HAND]).await;
    fleet.stop().await.unwrap();
}
