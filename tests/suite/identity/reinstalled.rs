//! A machine was reinstalled, or only its agent: it takes its record over with a token and the operator's word, and its apps are still its apps.

use super::node;
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use serde_json::{Value, json};

async fn act(fleet: &Fleet, app: &Value, action: &str) {
    let path = format!("/api/apps/{}/action", app["id"].as_str().unwrap());
    // What reconciliation has begun comes first.
    let answer = until("the app is free", PATIENCE, async || {
        let answer = fleet.client.post(&path, &json!({"action": action})).await?;
        Ok((answer.status.as_u16() != 409).then_some(answer))
    })
    .await
    .unwrap();
    fleet.done(&answer.expect(200).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_lost_its_state_takes_the_record_over_and_its_apps_go_on() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "my-nginx").await.unwrap();
    let url = app["url"].as_str().unwrap().to_owned();
    let before = node(&fleet, "pve1").await;
    fleet.nodes[0].stop_agent().await.unwrap();
    std::fs::remove_dir_all(fleet.nodes[0].state()).unwrap();

    // Without the operator's word a name that is taken is not given away.
    let token = fleet.join_token(&json!({"node_name": "pve1"})).await.unwrap();
    let refused = fleet.nodes[0].join_output(&token, &[]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--take-over"), "{said}");
    let joined = fleet.nodes[0].join_output(&token, &["--take-over"]).unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    fleet.nodes[0].start_agent().unwrap();
    let after = fleet.node_online("pve1").await.unwrap();
    assert_eq!((&after["id"], &after["host_id"]), (&before["id"], &before["host_id"]));
    // The published port comes back although the agent had forgotten it, and the app obeys.
    until("the page", PATIENCE, async || Ok(page(&url).await))
        .await
        .unwrap();
    act(&fleet, &app, "stop").await;
    act(&fleet, &app, "start").await;
    assert!(page(&url).await.is_some());
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reinstalled_machine_takes_the_record_over_with_a_token_for_its_host() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    let small = json!({"catalog_id": "nginx", "hostname": "lost-app", "node": "pve1"});
    let created = fleet
        .client
        .post("/api/apps", &small)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    fleet.done(&created).await.unwrap();
    let app = fleet
        .client
        .get(&format!("/api/apps/{}", created["id"].as_str().unwrap()))
        .await
        .unwrap();
    let app = app.expect(200).unwrap();
    let before = node(&fleet, "pve1").await;
    // Everything on the disk is new: no container, no record, no agent, and another key of the installation.
    fleet.nodes[0].stop_agent().await.unwrap();
    let vmid = app["lxc_id"].to_string();
    fleet.nodes[0].tool("pct", &["stop", &vmid]).unwrap();
    fleet.nodes[0].tool("pct", &["destroy", &vmid]).unwrap();
    let root = fleet.nodes[0].root();
    std::fs::remove_dir_all(fleet.nodes[0].state()).unwrap();
    std::fs::remove_dir_all(root.join("etc/pve/priv/proximity")).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let new_root = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    std::fs::write(root.join("etc/pve/pve-root-ca.pem"), new_root).unwrap();

    let any = fleet.join_token(&json!({})).await.unwrap();
    let refused = fleet.nodes[0].join_output(&any, &["--take-over"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("make a join token for its host"),
        "{said}"
    );
    let token = fleet.join_token(&json!({"host_id": before["host_id"]})).await.unwrap();
    let joined = fleet.nodes[0].join_output(&token, &["--take-over"]).unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    fleet.nodes[0].start_agent().unwrap();
    let after = fleet.node_online("pve1").await.unwrap();
    assert_eq!((&after["id"], &after["host_id"]), (&before["id"], &before["host_id"]));
    // The app is still listed, and says that its container is gone; it is the operator's to delete.
    let id = app["id"].as_str().unwrap();
    let lost = fleet.client.app_status(id, &["error"], PATIENCE).await.unwrap();
    assert_eq!(lost["id"], app["id"], "{lost}");
    let deleted = fleet.client.delete(&format!("/api/apps/{id}")).await.unwrap();
    fleet.done(&deleted.expect(202).unwrap()).await.unwrap();
    let again = json!({"catalog_id": "nginx", "hostname": "new-app", "node": "pve1"});
    let created = fleet
        .client
        .post("/api/apps", &again)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    fleet.done(&created).await.unwrap();
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
