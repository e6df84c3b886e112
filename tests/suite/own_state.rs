//! The coordinator's own backup: made while it runs, restored when the nodes have gone on without it. What the old state does not know stays as it is, and is
//! listed with what to decide.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use serde_json::{Value, json};
use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Output,
};

fn cli(fleet: &Fleet, command: &str, folder: &Path) -> Output {
    fleet
        .coordinator_command(&[command, folder.to_str().unwrap()])
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

async fn report(fleet: &Fleet) -> Value {
    let asked = fleet.client.post("/api/core/reconcile", &json!({})).await.unwrap();
    let id = asked.expect(202).unwrap()["report_id"].clone();
    let path = format!("/api/core/reconcile/reports/{id}");
    until("the report", PATIENCE, async || {
        let report = fleet.client.get(&path).await?.expect(200)?;
        Ok((report["state"] == "done").then_some(report))
    })
    .await
    .unwrap()
}

fn refused(fleet: &Fleet, command: &str, folder: &Path, code: i32, words: &str) {
    let output = cli(fleet, command, folder);
    assert_eq!(output.status.code(), Some(code), "{}", said(&output));
    assert!(said(&output).contains(words), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_that_meets_newer_nodes_changes_nothing_and_lists_what_it_does_not_know() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let before = fleet.deploy("nginx", "before").await.unwrap();
    let saved: PathBuf = fleet.folder().join("saved");
    let output = cli(&fleet, "backup", &saved);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 apps, 1 nodes"), "{}", said(&output));
    assert_eq!(mode(&saved), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&saved).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "authority.json",
            "manifest.json",
            "registry.db",
            "secrets.key",
            "session.key"
        ]
    );
    refused(&fleet, "backup", &saved.join("registry.db"), 3, "is there already");

    let after = fleet.deploy("nginx", "after").await.unwrap();
    refused(&fleet, "restore", &saved, 6, "another coordinator runs");
    fleet.stop_coordinator().await.unwrap();
    refused(&fleet, "restore", &saved, 3, "is there already");
    let state = fleet.state();
    std::fs::rename(&state, fleet.folder().join("state.lost")).unwrap();
    // A damaged backup restores nothing.
    let registry = saved.join("registry.db");
    let whole = std::fs::read(&registry).unwrap();
    let mut damaged = whole.clone();
    damaged[5000] ^= 1;
    std::fs::write(&registry, damaged).unwrap();
    refused(&fleet, "restore", &saved, 3, "is not as it was saved");
    std::fs::write(&registry, whole).unwrap();
    let output = cli(&fleet, "restore", &saved);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("POST /api/core/reconcile"), "{}", said(&output));

    fleet.start_coordinator().await.unwrap();
    let node = fleet.nodes[0].name.clone();
    fleet.node_online(&node).await.unwrap();
    let report = report(&fleet).await;
    let strays = report["report"]["strays"].as_array().unwrap();
    let stray = strays.iter().find(|stray| stray["kind"] == "container").unwrap();
    assert_eq!(
        (&stray["number"], &stray["app_id"], &stray["place"]),
        (&after["lxc_id"], &after["id"], &json!(node)),
        "{report:#}"
    );
    let advice = stray["message"].as_str().unwrap();
    assert!(advice.contains("which the registry does not have"), "{advice}");
    assert!(
        strays
            .iter()
            .any(|s| s["kind"] == "port" && s["number"] == after["public_port"]),
        "{report:#}"
    );
    assert_eq!(report["report"]["freed"], json!([]), "{report:#}");

    // Both serve as they did, and the container of the one that is not known is there.
    for app in [&before, &after] {
        let url = app["url"].as_str().unwrap();
        assert!(page(url).await.is_some(), "{url} does not answer\n{}", fleet.logs());
    }
    let listed = fleet.nodes[0].tool("pct", &["list"]).unwrap();
    assert!(listed.contains(&after["lxc_id"].to_string()), "{listed}");
    let apps = fleet.client.get("/api/apps").await.unwrap().expect(200).unwrap();
    assert_eq!(
        (&apps["total"], &apps["apps"][0]["status"]),
        (&json!(1), &json!("running"))
    );

    // Its commands are obeyed: the agent has seen no newer run. It takes neither the number nor the port of the container that it does not know.
    let third = fleet.deploy("nginx", "third").await.unwrap();
    assert_ne!(third["lxc_id"], after["lxc_id"]);
    assert_ne!(third["public_port"], after["public_port"]);
    assert!(page(after["url"].as_str().unwrap()).await.is_some());
}
