//! A node is thrown out while an app is being deployed on it.

use super::{audited, node, status};
use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn it_is_cut_off_within_a_second_and_the_operation_says_what_frees_it() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let before = node(&fleet, "pve1").await;
    // The installation is held in the middle.
    let go = fleet.folder().join("install.go");
    let rule = Rule::on("pct", Fault::PauseUntil(go.clone()))
        .subcommand("exec")
        .at(At::Before)
        .skip(1)
        .times(1);
    fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
    let created = fleet.client.create_app("nginx", "cut-short").await.unwrap();
    let (app, operation) = (
        created["id"].as_str().unwrap(),
        created["operation_id"].as_str().unwrap(),
    );
    let reached = go.with_extension("go.reached");
    until("the installation", PATIENCE, async || {
        Ok(reached.exists().then_some(()))
    })
    .await
    .unwrap();

    let id = before["id"].as_str().unwrap();
    let begun = Instant::now();
    let revoke = format!("/api/proxmox/nodes/{id}/revoke");
    fleet
        .client
        .post(&revoke, &json!({}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    until("the agent is cut off", PATIENCE, async || {
        let said = std::fs::read_to_string(fleet.nodes[0].state().join("status.json"))?;
        Ok(said.contains("revoked by an operator").then_some(()))
    })
    .await
    .unwrap();
    let cut = begun.elapsed();
    let ended = fleet.client.operation_end(operation, PATIENCE).await.unwrap();
    println!("cut off after {cut:?}, the operation stuck after {:?}", begun.elapsed());
    assert!(cut < Duration::from_secs(1), "cut off after {cut:?}");
    assert_eq!(ended["state"], "stuck", "{ended:#}");
    assert!(
        ended["reason"].as_str().unwrap().contains("pve1 was revoked"),
        "{ended:#}"
    );
    let action = ended["action"].as_str().unwrap();
    for words in [
        "join --take-over",
        "operations retry",
        "delete the app",
        "operations abandon",
    ] {
        assert!(action.contains(words), "{words}: {ended:#}");
    }
    let row = &audited(&fleet, "node.revoked").await[..];
    let [(at, actor, outcome, detail)] = row else {
        panic!("{row:?}")
    };
    assert_eq!(
        (actor.as_str(), outcome.as_str(), detail.as_str()),
        ("admin", "ok", "node pve1")
    );
    let now = time::OffsetDateTime::now_utc().unix_timestamp() * 1000;
    assert!((now - at).abs() < 60_000, "{at}");

    // What was told to the operator is done: the machine is let in again, and the deployment goes on from where it stood.
    std::fs::write(&go, "").unwrap();
    fleet.nodes[0].stop_agent().await.unwrap();
    let token = fleet.join_token(&json!({"host_id": before["host_id"]})).await.unwrap();
    let joined = fleet.nodes[0].join_output(&token, &["--take-over"]).unwrap();
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    fleet.nodes[0].start_agent().unwrap();
    let after = fleet.node_online("pve1").await.unwrap();
    assert_eq!(after["id"], before["id"]);
    fleet.coordinator_cli(&["operations", "retry", operation]).unwrap();
    fleet.done(&created).await.unwrap();
    fleet.client.app_status(app, &["running"], PATIENCE).await.unwrap();
    fleet.assert_promises().await.unwrap();
    let deleted = fleet.client.delete(&format!("/api/apps/{app}")).await.unwrap();
    fleet.done(&deleted.expect(202).unwrap()).await.unwrap();
    // Nothing of it is left: no container, no reservation, and nothing open in the agent's journal.
    fleet.assert_promises().await.unwrap();
    until("the journal is empty", PATIENCE, async || {
        fleet.nodes[0].stop_agent().await?;
        fleet.nodes[0].start_agent()?;
        fleet.node_online("pve1").await?;
        Ok(status(&fleet.nodes[0]).contains("open jobs     0").then_some(()))
    })
    .await
    .unwrap();
    fleet.deploy("nginx", "second-try").await.unwrap();
    fleet.stop().await.unwrap();
}
