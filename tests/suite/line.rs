//! The whole line: a node joins, an app runs, answers, stops, starts, and goes.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use serde_json::json;
use std::collections::BTreeSet;

async fn act(fleet: &Fleet, id: &str, action: &str) {
    let answer = fleet
        .client
        .post(&format!("/api/apps/{id}/action"), &json!({"action": action}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(answer["success"], true, "{answer}");
    fleet.done(&answer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_lives_and_goes() {
    let fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    let created = fleet.client.create_app("nginx", "my-nginx").await.unwrap();
    assert_eq!(created["status"], "deploying");
    let id = created["id"].as_str().unwrap();
    fleet.done(&created).await.unwrap();
    let app = fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap();
    let url = app["url"].as_str().unwrap().to_owned();
    let body = page(&url)
        .await
        .unwrap_or_else(|| panic!("{url} does not answer\n{}", fleet.logs()));
    assert!(body.contains("simulated"), "{body}");
    fleet.assert_promises().await.unwrap();

    act(&fleet, id, "stop").await;
    fleet.client.app_status(id, &["stopped"], PATIENCE).await.unwrap();
    assert_eq!(page(&url).await, None, "a stopped app must not answer");
    act(&fleet, id, "start").await;
    fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap();
    assert!(page(&url).await.is_some());
    act(&fleet, id, "restart").await;
    assert!(page(&url).await.is_some());

    let logs = fleet
        .client
        .get(&format!("/api/apps/{id}/logs"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert!(logs["logs"].as_array().unwrap().len() > 5, "{logs:#}");

    act(&fleet, id, "delete").await;
    fleet
        .client
        .get(&format!("/api/apps/{id}"))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    assert_eq!(page(&url).await, None);
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_creates_at_once() {
    let fleet = Fleet::start(&FleetSpec::hollow(3), |_| ()).await.unwrap();
    let creates = (0..200).map(|n| {
        let client = fleet.client.clone();
        let small = json!({"cpu_cores": 1, "memory_mb": 256, "disk_gb": 2, "swap_mb": 0});
        let body = json!({"catalog_id": "nginx", "hostname": format!("app-{n:03}"), "config": small});
        tokio::spawn(async move { client.post("/api/apps", &body).await.unwrap() })
    });
    let mut answers = Vec::new();
    for create in creates.collect::<Vec<_>>() {
        answers.push(create.await.unwrap());
    }
    let mut operations = Vec::new();
    let mut seen = BTreeSet::new();
    for answer in answers {
        let app = answer.expect(201).unwrap();
        assert!(
            seen.insert((app["host_id"].to_string(), app["public_port"].to_string())),
            "port twice: {app}"
        );
        operations.push((
            app["id"].as_str().unwrap().to_owned(),
            app["operation_id"].as_str().unwrap().to_owned(),
        ));
    }
    for (id, operation) in &operations {
        let ended = fleet.client.operation_end(operation, 10 * PATIENCE).await.unwrap();
        assert_eq!(ended["state"], "done", "{id}: {ended:#}\n{}", fleet.logs());
    }
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// A node reboots while the coordinator is away: its containers come back by `onboot`, its ports before there is a link.
#[tokio::test(flavor = "multi_thread")]
async fn ports_are_back_after_a_reboot_without_the_coordinator() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "my-nginx").await.unwrap();
    let url = app["url"].as_str().unwrap().to_owned();
    fleet.stop_coordinator().await.unwrap();
    fleet.nodes[0].stop_agent().await.unwrap();
    fleet.nodes[0].reboot().await.unwrap();
    assert_eq!(
        page(&url).await,
        None,
        "nothing publishes the port before the agent runs"
    );
    fleet.nodes[0].start_agent().unwrap();
    until("the page", PATIENCE, async || Ok(page(&url).await))
        .await
        .unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.node_online("pve1").await.unwrap();
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
