//! What hangs or fails once must not stay for ever: an installation that never ends, a port that could not be closed at the first try.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec, Settings},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The second `pct exec` of a deployment is the installation; it is held for ever.
fn installation_hangs(fleet: &Fleet) -> PathBuf {
    let never = fleet.folder().join("never.go");
    let rule = Rule::on("pct", Fault::PauseUntil(never.clone()))
        .subcommand("exec")
        .at(At::Before)
        .skip(1)
        .times(1);
    fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
    never
}

/// A catalog whose nginx may take `install_timeout_s` to install.
fn impatient_catalog(folder: &Path, install_timeout_s: u32) {
    let text = std::fs::read_to_string(Settings::default().catalog.join("nginx.json")).unwrap();
    let mut entry: Value = serde_json::from_str(&text).unwrap();
    entry["deploy"]["install_timeout_s"] = json!(install_timeout_s);
    std::fs::write(folder.join("nginx.json"), entry.to_string()).unwrap();
}

async fn deleted(fleet: &Fleet, id: &str) {
    let answer = fleet.client.delete(&format!("/api/apps/{id}")).await.unwrap();
    let operation = answer.expect(202).unwrap()["operation_id"].as_str().unwrap().to_owned();
    let ended = fleet.client.operation_end(&operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "done", "{ended:#}\n{}", fleet.logs());
    fleet.assert_promises().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_never_ends_is_taken_back() {
    let catalog = tempfile::tempdir().unwrap();
    impatient_catalog(catalog.path(), 2);
    let settings = Settings {
        catalog: catalog.path().to_owned(),
        ..Settings::default()
    };
    let fleet = Fleet::start(
        &FleetSpec {
            settings,
            ..FleetSpec::hollow(1)
        },
        |_| (),
    )
    .await
    .unwrap();
    installation_hangs(&fleet);
    let created = fleet.client.create_app("nginx", "endless").await.unwrap();
    let operation = created["operation_id"].as_str().unwrap();
    let ended = fleet.client.operation_end(operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "undone", "{ended:#}\n{}", fleet.logs());
    assert!(
        ended["reason"].as_str().unwrap().contains("told nothing for 2 s"),
        "{ended:#}"
    );
    fleet.assert_promises().await.unwrap();
    deleted(&fleet, created["id"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_does_not_wait_for_an_installation() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let mark = installation_hangs(&fleet).with_extension("go.reached");
    let created = fleet.client.create_app("nginx", "endless").await.unwrap();
    until("the installation", PATIENCE, async || Ok(mark.exists().then_some(())))
        .await
        .unwrap();
    deleted(&fleet, created["id"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_could_not_be_closed_is_closed_at_the_next_try() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let created = fleet.client.create_app("nginx", "busy-table").await.unwrap();
    let id = created["id"].as_str().unwrap();
    let app = fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap();
    let fails = Fault::Fail {
        exit: 1,
        stderr: "Error: Could not process rule: Device or resource busy".into(),
        stdout: String::new(),
    };
    let rule = Rule::on("nft", fails).subcommand("-f").at(At::Before).times(1);
    fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
    deleted(&fleet, id).await;
    assert_eq!(fleet.nodes[0].hits().unwrap()[0].acted, 1);
    let table = fleet.nodes[0].tool("nft", &["-j", "list", "ruleset"]).unwrap();
    let port = format!("\"right\":{}", app["public_port"]);
    assert!(!table.contains(&port), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_serves_while_its_stop_waits_for_somebodys_lock() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let created = fleet.client.create_app("nginx", "backed-up").await.unwrap();
    let id = created["id"].as_str().unwrap();
    let app = fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap();
    let conf = format!("etc/pve/nodes/{}/lxc/{}.conf", fleet.nodes[0].name, app["lxc_id"]);
    let conf = fleet.nodes[0].root().join(conf);
    let unlocked = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("lock: backup\n{unlocked}")).unwrap();
    let path = format!("/api/apps/{id}/action");
    let answer = fleet.client.post(&path, &json!({"action": "stop"})).await.unwrap();
    let operation = answer.expect(200).unwrap()["operation_id"].as_str().unwrap().to_owned();
    until("the operation waits", PATIENCE, async || {
        let path = format!("/api/operations/{operation}");
        let answer = fleet.client.get(&path).await?.expect(200)?;
        let waits = answer["reason"].as_str().is_some_and(|why| why.contains("vzdump"));
        Ok(waits.then_some(()))
    })
    .await
    .unwrap();
    assert!(page(app["url"].as_str().unwrap()).await.is_some(), "{}", fleet.logs());
    std::fs::write(&conf, unlocked).unwrap();
    let ended = fleet.client.operation_end(&operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "done", "{ended:#}");
    assert!(page(app["url"].as_str().unwrap()).await.is_none());
}

/// The operator destroyed our container and made another one under its number: deleting the app touches the stranger's container in nothing, and the number
/// is free for others once the stranger is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_goes_with_its_app_when_a_stranger_has_its_number() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "my-nginx").await.unwrap();
    let vmid = app["lxc_id"].to_string();
    let node = &fleet.nodes[0];
    node.tool("pct", &["stop", &vmid]).unwrap();
    node.tool("pct", &["destroy", &vmid]).unwrap();
    let template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
    let net = "name=eth0,bridge=vmbr0,ip=dhcp";
    let stranger = [
        "create",
        &vmid,
        template,
        "--rootfs",
        "local:1",
        "--hostname",
        "strangers",
        "--net0",
        net,
    ];
    node.tool("pct", &stranger).unwrap();
    let deleted = fleet
        .client
        .delete(&format!("/api/apps/{}", app["id"].as_str().unwrap()))
        .await
        .unwrap();
    fleet.done(&deleted.expect(202).unwrap()).await.unwrap();
    let left = node.files().read().unwrap();
    assert!(left.records.is_empty(), "{left:?}");
    assert!(
        node.tool("pct", &["config", &vmid])
            .unwrap()
            .contains("hostname: strangers")
    );
    node.tool("pct", &["destroy", &vmid]).unwrap();
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
