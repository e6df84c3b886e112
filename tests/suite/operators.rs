//! What an operator does on the coordinator's machine, beside the running service, about an operation that is stuck.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::PATIENCE,
};
use serde_json::Value;

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn operations(fleet: &Fleet, args: &[&str]) -> Said {
    let mut words = vec!["operations"];
    words.extend(args);
    let output = fleet.coordinator_command(&words).output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// An app whose deletion is stuck: its container is protected in Proxmox.
async fn stuck(fleet: &Fleet, hostname: &str) -> (Value, String) {
    let app = fleet.deploy("nginx", hostname).await.unwrap();
    let vmid = app["lxc_id"].to_string();
    fleet.nodes[0]
        .tool("pct", &["set", &vmid, "--protection", "1"])
        .unwrap();
    let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    let operation = deleted["operation_id"].as_str().unwrap().to_owned();
    let ended = fleet.client.operation_end(&operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "stuck", "{ended:#}");
    assert!(ended["reason"].as_str().unwrap().contains("protected"), "{ended:#}");
    (app, operation)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stuck_goes_on_or_is_abandoned_beside_the_running_service() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let (app, operation) = stuck(&fleet, "protected").await;
    let vmid = app["lxc_id"].to_string();

    let list = operations(&fleet, &["list"]);
    assert_eq!(
        (list.code, list.out.lines().count()),
        (0, 1),
        "{} {}",
        list.out,
        list.err
    );
    assert!(
        list.out.starts_with(&operation) && list.out.contains("stuck") && list.out.contains("pve1"),
        "{}",
        list.out
    );
    let shown = operations(&fleet, &["show", &operation]);
    assert!(
        shown.out.contains("Remove the container") && shown.out.contains("to do"),
        "{}",
        shown.out
    );
    let json: Value = serde_json::from_str(&operations(&fleet, &["show", &operation, "--json"]).out).unwrap();
    assert_eq!(
        (json["id"].as_str(), json["state"].as_str()),
        (Some(operation.as_str()), Some("stuck"))
    );

    let unknown = operations(&fleet, &["show", "00000000-0000-0000-0000-000000000000"]);
    assert_eq!(unknown.code, 3);
    assert!(unknown.err.contains("operations list --all"), "{}", unknown.err);
    assert_eq!(operations(&fleet, &["list", "--state", "sleeping"]).code, 2);

    // As the operation says: the protection goes, and it is let go on.
    fleet.nodes[0]
        .tool("pct", &["set", &vmid, "--protection", "0"])
        .unwrap();
    let retried = operations(&fleet, &["retry", &operation]);
    assert_eq!(retried.code, 0, "{}", retried.err);
    let ended = fleet.client.operation_end(&operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "done", "{ended:#}\n{}", fleet.logs());
    fleet.assert_promises().await.unwrap();
    let again = operations(&fleet, &["retry", &operation]);
    assert_eq!(again.code, 3);
    assert!(again.err.contains("only what is stuck"), "{}", again.err);

    let (app, operation) = stuck(&fleet, "given-up").await;
    let abandoned = operations(&fleet, &["abandon", &operation]);
    assert_eq!(abandoned.code, 0, "{}", abandoned.err);
    assert!(
        abandoned.out.contains(&format!("Container {}", app["lxc_id"])) && abandoned.out.contains("stay reserved"),
        "{}",
        abandoned.out
    );
    assert_eq!(operations(&fleet, &["list"]).out, "");
    let all = operations(&fleet, &["list", "--all", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&all.out).unwrap();
    let row = all.iter().find(|row| row["id"] == operation.as_str()).unwrap();
    assert_eq!(
        (row["state"].as_str(), row["abandoned_by"].as_str()),
        (Some("stuck"), Some("command line"))
    );
    let mut registry = fleet.registry().await.unwrap();
    let audited = registry
        .count("SELECT COUNT(*) FROM audit WHERE actor = 'command line' AND action IN ('operation.retry', 'operation.abandon') AND outcome = 'ok'")
        .await
        .unwrap();
    assert_eq!(audited, 2);
    // The app is there, in error, with everything reserved, and can be deleted as ever.
    let id = app["id"].as_str().unwrap();
    let left = fleet.client.app_status(id, &["error"], PATIENCE).await.unwrap();
    assert_eq!(left["lxc_id"], app["lxc_id"]);
    fleet.nodes[0]
        .tool("pct", &["set", &app["lxc_id"].to_string(), "--protection", "0"])
        .unwrap();
    let deleted = fleet
        .client
        .delete(&format!("/api/apps/{id}"))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    fleet.done(&deleted).await.unwrap();
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
