//! Containers that Proxmox's HA manages.

use super::{Held, act, app, cluster, delete, deploy, serves_on, settled, silent, waits_for};
use proximity_tests::process::{PATIENCE, until};
use pve_sim::At;

fn requested(fleet: &proximity_tests::fleet::Fleet) -> String {
    fleet.clusters[0]
        .sim
        .read("ha/resources.cfg")
        .unwrap()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_under_ha_is_stopped_started_and_follows_when_its_node_dies() {
    let mut fleet = cluster(3).await;
    let deployed = deploy(&fleet, "precious", "pve1").await;
    let (id, vmid) = (deployed["id"].as_str().unwrap(), deployed["lxc_id"].to_string());
    let service = format!("ct:{vmid}");
    fleet.nodes[0].tool("ha-manager", &["add", &service]).unwrap();

    fleet.done(&act(&fleet, id, "stop").await).await.unwrap();
    let status = ["status", &vmid];
    assert_eq!(fleet.nodes[0].tool("pct", &status).unwrap(), "status: stopped\n");
    assert!(requested(&fleet).contains("state stopped"), "{}", requested(&fleet));
    fleet.done(&act(&fleet, id, "start").await).await.unwrap();
    assert_eq!(fleet.nodes[0].tool("pct", &status).unwrap(), "status: running\n");
    serves_on(&fleet, id, 0).await;

    fleet.power_off(0).await.unwrap();
    let there = serves_on(&fleet, id, 1).await;
    assert_eq!(there["public_port"], deployed["public_port"]);
    assert_eq!(there["ip_address"], deployed["ip_address"]);
    // Its agent knows the port from before, and takes it back.
    fleet.power_on(0).await.unwrap();
    fleet.node_online("pve1").await.unwrap();
    silent(&fleet, deployed["url"].as_str().unwrap()).await;
    let table = fleet.nodes[0].tool("nft", &["-j", "list", "ruleset"]).unwrap();
    assert!(
        !table.contains(&format!("\"right\":{}", deployed["public_port"])),
        "{table}"
    );

    // Destroying it is refused, with what to do; then it goes on by itself.
    let deleted = delete(&fleet, id).await;
    waits_for(&fleet, &deleted, &format!("ha-manager remove {service}")).await;
    assert!(fleet.nodes[1].files().read().unwrap().containers.len() == 1);
    fleet.nodes[1].tool("ha-manager", &["remove", &service]).unwrap();
    fleet.done(&deleted).await.unwrap();
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// Its node dies while an operation works there; HA starts the container elsewhere, and the operation goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_on_a_node_that_dies_goes_on_where_ha_has_started_the_container() {
    let mut fleet = cluster(3).await;
    let deployed = deploy(&fleet, "interrupted", "pve1").await;
    let (id, vmid) = (deployed["id"].as_str().unwrap(), deployed["lxc_id"].to_string());
    fleet.nodes[0]
        .tool("ha-manager", &["add", &format!("ct:{vmid}")])
        .unwrap();
    // `pct exec` of the health check, after it has been stopped and started by HA.
    let held = Held::at(&fleet, 0, "pct", "exec", At::Before, 0);
    let restart = act(&fleet, id, "restart").await;
    held.reached(&fleet).await;
    fleet.power_off(0).await.unwrap();
    fleet.done(&restart).await.unwrap();
    let app = app(&fleet, id).await.unwrap();
    assert_ne!(app["node"], "pve1", "{app:#}");
    let node = fleet
        .nodes
        .iter()
        .position(|node| app["node"] == node.name.as_str())
        .unwrap();
    serves_on(&fleet, id, node).await;
    fleet.power_on(0).await.unwrap();
    fleet.node_online("pve1").await.unwrap();
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// What HA would undo is refused with what to change.
#[tokio::test(flavor = "multi_thread")]
async fn what_ha_would_start_again_is_not_said_to_be_stopped() {
    let fleet = cluster(1).await;
    let deployed = deploy(&fleet, "stubborn", "pve1").await;
    let (id, vmid) = (deployed["id"].as_str().unwrap(), deployed["lxc_id"].to_string());
    let service = format!("ct:{vmid}");
    // Stopped by hand, then given to HA, which has not looked yet.
    fleet.clusters[0].sim.ha_pace(3_600_000, 3_600_000).unwrap();
    fleet.nodes[0].tool("pct", &["stop", &vmid]).unwrap();
    fleet.nodes[0].tool("ha-manager", &["add", &service]).unwrap();
    until("the app is stopped", PATIENCE, async || {
        Ok((app(&fleet, id).await?["status"] == "stopped").then_some(()))
    })
    .await
    .unwrap();
    let deleted = delete(&fleet, id).await;
    waits_for(&fleet, &deleted, &format!("ha-manager set {service} --state stopped")).await;
    fleet.nodes[0]
        .tool("ha-manager", &["set", &service, "--state", "stopped"])
        .unwrap();
    waits_for(&fleet, &deleted, &format!("ha-manager remove {service}")).await;
    fleet.nodes[0].tool("ha-manager", &["remove", &service]).unwrap();
    fleet.done(&deleted).await.unwrap();
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// A node that loses its quorum with HA services resets itself; its old list of guests counts for nothing, and the app is with whom HA has given it to.
#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_node_keeps_nothing_that_ha_has_given_away() {
    let fleet = cluster(3).await;
    let deployed = deploy(&fleet, "split", "pve1").await;
    let (id, vmid) = (deployed["id"].as_str().unwrap(), deployed["lxc_id"].to_string());
    fleet.nodes[0]
        .tool("ha-manager", &["add", &format!("ct:{vmid}")])
        .unwrap();
    fleet.done(&act(&fleet, id, "restart").await).await.unwrap();
    fleet.partition(0, &[&[0], &[1, 2]]).unwrap();
    let there = serves_on(&fleet, id, 1).await;
    assert_eq!(there["ip_address"], deployed["ip_address"]);
    // Whatever the old node tells now, it is of yesterday.
    let list = fleet.nodes[0].tool("pct", &["list"]).unwrap();
    assert!(list.contains(&vmid), "it still believes that it has it: {list}");
    fleet.heal(0).unwrap();
    serves_on(&fleet, id, 1).await;
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}
