//! Containers that are moved by hand.

use super::{Held, act, app, cluster, delete, deploy, serves_on, settled, silent, waits_for};
use proximity_tests::process::{PATIENCE, until};
use pve_sim::At;

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
    settled(&fleet).await;
    // And back, stopped: the node follows, and the app starts there.
    fleet.done(&act(&fleet, id, "stop").await).await.unwrap();
    fleet.nodes[1].tool("pct", &["migrate", &vmid, "pve1"]).unwrap();
    fleet.done(&act(&fleet, id, "start").await).await.unwrap();
    serves_on(&fleet, id, 0).await;
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// The container goes away while its app is being installed, and while it is being deleted.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_goes_on_where_its_container_was_moved_to() {
    let fleet = cluster(2).await;
    // The second call of `pct exec` is the installation.
    let held = Held::at(&fleet, 0, "pct", "exec", At::Before, 1);
    let created = super::ask(&fleet, "mover", "pve1").await;
    held.reached(&fleet).await;
    let id = created["id"].as_str().unwrap();
    let vmid = app(&fleet, id).await.unwrap()["lxc_id"].to_string();
    fleet.nodes[0]
        .tool("pct", &["migrate", &vmid, "pve2", "--restart"])
        .unwrap();
    held.let_go();
    fleet.done(&created).await.unwrap();
    let app = serves_on(&fleet, id, 1).await;
    assert_eq!(app["lxc_id"].to_string(), vmid);
    settled(&fleet).await;

    let held = Held::at(&fleet, 1, "pct", "shutdown", At::Before, 0);
    let deleted = delete(&fleet, id).await;
    held.reached(&fleet).await;
    fleet.nodes[1]
        .tool("pct", &["migrate", &vmid, "pve1", "--restart"])
        .unwrap();
    held.let_go();
    fleet.done(&deleted).await.unwrap();
    for node in &fleet.nodes {
        let left = node.files().read().unwrap();
        assert!(left.containers.is_empty() && left.records.is_empty(), "{left:?}");
    }
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_node_without_an_agent_an_app_waits_for_one() {
    let mut fleet = cluster(2).await;
    let stranger = fleet.add_without_agent(0).unwrap();
    let deployed = deploy(&fleet, "lost", "pve1").await;
    let (id, vmid) = (deployed["id"].as_str().unwrap(), deployed["lxc_id"].to_string());
    let name = fleet.nodes[stranger].name.clone();
    // A busy machine does not always bring the container down in time: then it is aborted, and asked for again.
    until("it is moved", PATIENCE, async || {
        let moved = fleet.nodes[0].tool("pct", &["migrate", &vmid, &name, "--restart"]);
        Ok(moved.ok())
    })
    .await
    .unwrap();
    until("the app is unknown", PATIENCE, async || {
        let app = app(&fleet, id).await?;
        let told = app["status"] == "unknown"
            && app["status_reason"]
                .as_str()
                .is_some_and(|why| why.contains(&name) && why.contains("proximity-agent join"));
        Ok(told.then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    let stopping = act(&fleet, id, "stop").await;
    waits_for(&fleet, &stopping, "has no agent").await;
    fleet.join_later(stranger).await.unwrap();
    fleet.done(&stopping).await.unwrap();
    fleet.done(&act(&fleet, id, "start").await).await.unwrap();
    serves_on(&fleet, id, stranger).await;
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}
