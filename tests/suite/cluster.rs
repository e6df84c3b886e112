//! A cluster: containers that move, HA, loss of quorum. The app follows, waits, goes on, and nothing is done twice.

#![allow(clippy::unwrap_used)]

use proximity_tests::fleet::{Fleet, FleetSpec};

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
    assert!(proximity_tests::api::page(app["url"].as_str().unwrap()).await.is_some());
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
