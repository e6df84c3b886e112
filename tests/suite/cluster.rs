//! A cluster: containers that move, HA, loss of quorum. The app follows, waits, goes on, and nothing is done twice.

#![allow(clippy::unwrap_used)]

use anyhow::Result;
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec, SHARED_STORAGE},
    process::{PATIENCE, until},
};
use serde_json::{Value, json};

async fn cluster(nodes: u8) -> Fleet {
    Fleet::start(&FleetSpec::cluster(nodes), |_| ()).await.unwrap()
}

/// Deploys nginx to a node, on the storage that every node sees.
async fn deploy(fleet: &Fleet, hostname: &str, node: &str) -> Value {
    let body =
        json!({"catalog_id": "nginx", "hostname": hostname, "node": node, "config": {"storage": SHARED_STORAGE}});
    let created = fleet
        .client
        .post("/api/apps", &body)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    fleet.done(&created).await.unwrap();
    let id = created["id"].as_str().unwrap();
    fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap()
}

async fn app(fleet: &Fleet, id: &str) -> Result<Value> {
    fleet.client.get(&format!("/api/apps/{id}")).await?.expect(200)
}

/// Waits until the app runs on that node and answers at its published port there.
async fn serves_on(fleet: &Fleet, id: &str, node: usize) -> Value {
    let name = &fleet.nodes[node].name;
    let waited = until(&format!("{id} serves on {name}"), PATIENCE, async || {
        let app = app(fleet, id).await?;
        let there = app["node"] == name.as_str() && app["status"] == "running";
        let url = app["url"].as_str().filter(|_| there);
        let answers = match url {
            Some(url) => page(url).await.is_some(),
            None => false,
        };
        Ok(answers.then_some(app))
    })
    .await;
    waited.unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()))
}

/// Waits until nothing answers at the app's old place.
async fn silent(fleet: &Fleet, url: &str) {
    until(&format!("nothing at {url}"), PATIENCE, async || {
        Ok(page(url).await.is_none().then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_one_host_and_its_nodes_deploy() {
    let fleet = Fleet::start(&FleetSpec::hollow(1).with_cluster(3), |_| ())
        .await
        .unwrap();
    let nodes = fleet
        .client
        .get("/api/proxmox/nodes")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let host = |name: &str| {
        let nodes = nodes.as_array().unwrap();
        nodes.iter().find(|node| node["name"] == name).unwrap()["host_id"].clone()
    };
    assert_eq!(host("pve2"), host("pve4"));
    assert_ne!(host("pve1"), host("pve2"));
    let app = fleet.deploy("nginx", "clustered").await.unwrap();
    assert!(page(app["url"].as_str().unwrap()).await.is_some());
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_follows_a_container_that_was_migrated_by_hand() {
    let fleet = cluster(3).await;
    let app = deploy(&fleet, "wanderer", "pve1").await;
    let (id, vmid) = (app["id"].as_str().unwrap(), app["lxc_id"].to_string());
    let old_url = app["url"].as_str().unwrap();
    fleet.nodes[0]
        .tool("pct", &["migrate", &vmid, "pve2", "--restart"])
        .unwrap();
    let there = serves_on(&fleet, id, 1).await;
    assert_eq!(there["public_port"], app["public_port"]);
    assert_eq!(there["ip_address"], app["ip_address"], "kept");
    silent(&fleet, old_url).await;
    let table = fleet.nodes[0].tool("nft", &["-j", "list", "ruleset"]).unwrap();
    assert!(!table.contains(&format!("\"right\":{}", app["public_port"])), "{table}");
    fleet.assert_promises().await.unwrap();
    // And back, stopped: the node follows, and the app starts there.
    let path = format!("/api/apps/{id}/action");
    let stopped = fleet.client.post(&path, &json!({"action": "stop"})).await.unwrap();
    fleet.done(&stopped.expect(200).unwrap()).await.unwrap();
    fleet.nodes[1].tool("pct", &["migrate", &vmid, "pve1"]).unwrap();
    let started = fleet.client.post(&path, &json!({"action": "start"})).await.unwrap();
    fleet.done(&started.expect(200).unwrap()).await.unwrap();
    serves_on(&fleet, id, 0).await;
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
