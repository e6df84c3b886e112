//! Wrong requests and a world that is not as expected: each gets its own clear answer or another choice, and nothing is left behind.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    fleet::{Fleet, FleetSpec, Settings},
    process::{PATIENCE, until},
    programs::{Programs, workspace},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::TcpListener, process::Command};

async fn refused(fleet: &Fleet, body: Value, status: u16, words: &[&str]) {
    let answer = fleet.client.post("/api/apps", &body).await.unwrap();
    let text = answer.body.to_string();
    assert_eq!(answer.status.as_u16(), status, "{body}: {text}");
    for word in words {
        assert!(text.contains(word), "{body}: {word:?} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_leave_nothing() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    let create = |field: &str, value: Value| {
        let mut body = json!({"catalog_id": "nginx", "hostname": "my-nginx"});
        body[field] = value;
        body
    };
    for hostname in [
        "",
        "ab",
        "-nginx",
        "nginx-",
        "My-Nginx",
        "a b",
        "a\nb",
        "a.b",
        "nginx;reboot",
        "ünïcode",
        &"a".repeat(64),
    ] {
        refused(&fleet, create("hostname", json!(hostname)), 422, &["hostname"]).await;
    }
    refused(&fleet, create("hostname", json!(7)), 422, &["hostname"]).await;
    refused(
        &fleet,
        create("catalog_id", json!("no-such-app")),
        404,
        &["no-such-app"],
    )
    .await;
    refused(&fleet, create("node", json!("pve9")), 404, &["pve9"]).await;
    refused(&fleet, create("config", json!({"frobnicate": 1})), 422, &["frobnicate"]).await;
    refused(&fleet, create("config", json!({"memory_mb": 1})), 422, &["memory_mb"]).await;
    refused(
        &fleet,
        create("config", json!({"memory_mb": 9_999_999})),
        422,
        &["memory_mb"],
    )
    .await;
    refused(
        &fleet,
        create("environment", json!({"lower case": "x"})),
        422,
        &["environment"],
    )
    .await;
    refused(&fleet, create("frobnicate", json!(1)), 422, &["frobnicate"]).await;
    fleet.nodes[1].stop_agent().await.unwrap();
    until("pve2 offline", PATIENCE, async || {
        let nodes = fleet.client.get("/api/proxmox/nodes").await?.expect(200)?;
        Ok(nodes
            .as_array()
            .unwrap()
            .iter()
            .any(|n| n["name"] == "pve2" && n["status"] == "offline")
            .then_some(()))
    })
    .await
    .unwrap();
    refused(&fleet, create("node", json!("pve2")), 409, &["pve2", "offline"]).await;
    assert_eq!(
        fleet
            .registry()
            .await
            .unwrap()
            .count("SELECT COUNT(*) FROM apps")
            .await
            .unwrap(),
        0
    );
    let first = fleet.deploy("nginx", "my-nginx").await.unwrap();
    refused(&fleet, create("hostname", json!("my-nginx")), 409, &["my-nginx"]).await;
    assert_eq!(first["node"], "pve1");
    fleet.nodes[0].stop_agent().await.unwrap();
    until("pve1 offline", PATIENCE, async || {
        let nodes = fleet.client.get("/api/proxmox/nodes").await?.expect(200)?;
        Ok(nodes
            .as_array()
            .unwrap()
            .iter()
            .all(|n| n["status"] == "offline")
            .then_some(()))
    })
    .await
    .unwrap();
    refused(
        &fleet,
        create("hostname", json!("another")),
        503,
        &["pve1", "pve2", "not connected"],
    )
    .await;
    // Unreachable is not gone.
    let app = fleet
        .client
        .get(&format!("/api/apps/{}", first["id"].as_str().unwrap()))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(app["status"], "running");
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_port_range_is_said() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    fleet
        .client
        .post(
            "/api/core/settings/features",
            &json!({"public_port_first": 8000, "public_port_last": 8001}),
        )
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let ports: BTreeSet<u64> = [
        fleet.deploy("nginx", "one-app").await.unwrap(),
        fleet.deploy("nginx", "two-app").await.unwrap(),
    ]
    .iter()
    .map(|a| a["public_port"].as_u64().unwrap())
    .collect();
    assert_eq!(ports, BTreeSet::from([8000, 8001]));
    let answer = fleet
        .client
        .post("/api/apps", &json!({"catalog_id": "nginx", "hostname": "three-app"}))
        .await
        .unwrap();
    assert!(matches!(answer.status.as_u16(), 409 | 503), "{}", answer.body);
    assert!(
        answer.body["detail"].as_str().unwrap().contains("port"),
        "{}",
        answer.body
    );
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_stranger_holds_is_avoided() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    // The stranger listens before the port is confirmed, on the node's own address; a hollow node's procfs says so.
    let address = fleet.nodes[0].network.address;
    let _stranger = TcpListener::bind((address, 8000)).unwrap();
    std::fs::write(fleet.nodes[0].root().join("proc/net/tcp"), listening(8000)).unwrap();
    let app = fleet.deploy("nginx", "my-nginx").await.unwrap();
    assert_ne!(app["public_port"], 8000);
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// A line of `/proc/net/tcp` for a socket that listens on every address.
fn listening(port: u16) -> String {
    let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
    format!(
        "{head}\n   0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0000000000000000 100 0 0 10 0\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmid_that_a_stranger_takes_in_between_is_left_to_it() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let node = &fleet.nodes[0];
    let go = fleet.folder().join("stranger.go");
    node.script(
        &Script::new().rule(
            Rule::on("pct", Fault::PauseUntil(go.clone()))
                .subcommand("create")
                .at(At::Before)
                .times(1),
        ),
    )
    .unwrap();
    let created = fleet.client.create_app("nginx", "my-nginx").await.unwrap();
    until("pct create is about to begin", PATIENCE, async || {
        Ok(go.with_extension("go.reached").exists().then_some(()))
    })
    .await
    .unwrap();
    let reserved = fleet
        .registry()
        .await
        .unwrap()
        .count("SELECT vmid FROM vmid_reservations")
        .await
        .unwrap()
        .to_string();
    node.tool(
        "pct",
        &[
            "create",
            &reserved,
            "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
            "--rootfs",
            "local:1",
            "--hostname",
            "strangers",
        ],
    )
    .unwrap();
    std::fs::write(&go, "").unwrap();
    fleet.done(&created).await.unwrap();
    let app = fleet
        .client
        .app_status(created["id"].as_str().unwrap(), &["running"], PATIENCE)
        .await
        .unwrap();
    assert_ne!(app["lxc_id"].to_string(), reserved);
    let strangers = node.tool("pct", &["config", &reserved]).unwrap();
    assert!(strangers.contains("hostname: strangers"), "{strangers}");
    node.tool("pct", &["destroy", &reserved]).unwrap();
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_cannot_succeed_is_undone() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let cases = [
        Rule::on("pct", Fault::DiskFull).subcommand("create"),
        Rule::on(
            "pct",
            Fault::Fail {
                exit: 255,
                stderr: "startup for container failed".into(),
                stdout: String::new(),
            },
        )
        .subcommand("start")
        .at(At::Before),
        Rule::on(
            "pct",
            Fault::Fail {
                exit: 1,
                stderr: "E: no network".into(),
                stdout: String::new(),
            },
        )
        .subcommand("exec")
        .at(At::Before),
        Rule::on("pct", Fault::HalfCreate).subcommand("create"),
    ];
    for (number, rule) in cases.into_iter().enumerate() {
        let what = format!("{rule:?}");
        fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
        let created = fleet
            .client
            .create_app("nginx", &format!("app-{number}"))
            .await
            .unwrap();
        let id = created["id"].as_str().unwrap();
        let ended = fleet
            .client
            .operation_end(created["operation_id"].as_str().unwrap(), 2 * PATIENCE)
            .await
            .unwrap();
        assert_eq!(ended["state"], "undone", "{what}: {ended:#}\n{}", fleet.logs());
        fleet.client.app_status(id, &["error"], PATIENCE).await.unwrap();
        assert!(fleet.nodes[0].hits().unwrap()[0].acted > 0, "{what} was not reached");
        fleet.nodes[0].script(&Script::new()).unwrap();
        let left = fleet.nodes[0].files().read().unwrap();
        assert!(
            left.containers.is_empty() && left.records.is_empty() && left.volumes.is_empty(),
            "{what}: {left:?}"
        );
        fleet.assert_promises().await.unwrap();
        let deleted = fleet
            .client
            .delete(&format!("/api/apps/{id}"))
            .await
            .unwrap()
            .expect(202)
            .unwrap();
        fleet.done(&deleted).await.unwrap();
    }
    fleet.stop().await.unwrap();
}

#[test]
fn a_broken_catalog_file_is_named() {
    let programs = Programs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        std::fs::copy(
            workspace().join("catalog_data/nginx.json"),
            folder.path().join("nginx.json"),
        )
        .unwrap();
        std::fs::write(folder.path().join("broken.json"), text).unwrap();
        let output = Command::new(&programs.coordinator)
            .args(["catalog", "check"])
            .arg(folder.path())
            .output()
            .unwrap();
        (
            output.status.success(),
            format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        )
    };
    for (text, word) in [
        ("{", "line"),
        ("[]", "broken.json"),
        (r#"{"id":"broken"}"#, "name"),
        (r#"{"id":"Broken!","name":"x"}"#, "id"),
    ] {
        let (good, said) = check(text);
        assert!(!good, "{text} passed: {said}");
        assert!(said.contains("broken.json") && said.contains(word), "{text}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_with_a_broken_catalog_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();
    let settings = Settings {
        catalog: folder.path().to_owned(),
        ..Settings::default()
    };
    let started = Fleet::start(
        &FleetSpec {
            settings,
            ..FleetSpec::hollow(1)
        },
        |_| (),
    )
    .await;
    let error = format!("{:#}", started.expect_err("it started"));
    assert!(error.contains("broken.json"), "{error}");
}
