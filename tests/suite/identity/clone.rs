//! A disk was copied, and both machines run.

use super::{audited, node, says};
use proximity_tests::{
    fleet::{Fleet, FleetSpec, LoneNode},
    process::{PATIENCE, until},
};
use serde_json::{Value, json};
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

async fn alarm(fleet: &Fleet, wanted: bool) -> Value {
    until("the alarm", PATIENCE, async || {
        let alarm = node(fleet, "pve1").await["alarm"].clone();
        Ok((alarm.is_object() == wanted).then_some(alarm))
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_of_two_machines_with_one_identity_is_held_until_an_admin_decides() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "my-nginx").await.unwrap();
    // The copy has the identity, the name and the installation, and a boot of its own.
    let mut clone = LoneNode::create().unwrap();
    let (from, to) = (
        fleet.nodes[0].state().join("identity"),
        clone.node.state().join("identity"),
    );
    copy(&from, &to);
    let root_ca = "etc/pve/pve-root-ca.pem";
    std::fs::copy(fleet.nodes[0].root().join(root_ca), clone.node.root().join(root_ca)).unwrap();
    clone.node.start_agent().unwrap();
    says(
        &clone.node,
        &[
            "not connected",
            "two machines have this node's identity",
            "this one is kept out",
        ],
    )
    .await;

    let raised = alarm(&fleet, true).await;
    assert_eq!(raised["kind"], "cloned", "{raised}");
    assert!(raised["action"].as_str().unwrap().contains("--take-over"), "{raised}");
    assert_eq!(audited(&fleet, "node.cloned").await.len(), 1);
    // The original goes on serving.
    assert_eq!(node(&fleet, "pve1").await["status"], "online");
    let path = format!("/api/apps/{}/action", app["id"].as_str().unwrap());
    let restarted = fleet.client.post(&path, &json!({"action": "restart"})).await.unwrap();
    fleet.done(&restarted.expect(200).unwrap()).await.unwrap();

    // Its agent and its machine may be restarted: that is no reason to keep it out.
    fleet.nodes[0].kill_agent().unwrap();
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();
    says(&fleet.nodes[0], &["connected to"]).await;

    // The admin decides for the one that serves: the copied key is worthless.
    let path = format!(
        "/api/proxmox/nodes/{}/rekey",
        node(&fleet, "pve1").await["id"].as_str().unwrap()
    );
    fleet.client.post(&path, &json!({})).await.unwrap().expect(200).unwrap();
    alarm(&fleet, false).await;
    let by: Vec<String> = audited(&fleet, "node.rekey")
        .await
        .into_iter()
        .map(|row| row.1)
        .collect();
    assert_eq!(by, ["admin"]);
    says(&clone.node, &["revoked", "join again with a new token"]).await;
    assert_ne!(
        std::fs::read(fleet.nodes[0].state().join("identity/identity.json")).unwrap(),
        std::fs::read(to.join("identity.json")).unwrap()
    );
    fleet.node_online("pve1").await.unwrap();
    clone.node.stop_agent().await.unwrap();
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
