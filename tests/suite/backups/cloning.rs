//! Clones: on the same node, and on another one that reaches the same storage.

use super::{backups, id, made, status, vmid};
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::PATIENCE,
};
use serde_json::{Value, json};
use std::fs;

async fn cloned(fleet: &Fleet, app: &Value, body: Value) -> Value {
    let path = format!("/api/apps/{}/clone", id(app));
    let started = fleet.client.post(&path, &body).await.unwrap().expect(202).unwrap();
    assert_eq!(
        (&started["success"], &started["source_app_id"]),
        (&json!(true), &app["id"])
    );
    assert_eq!(started["new_hostname"], body["new_hostname"]);
    fleet.done(&started).await.unwrap();
    let clone = started["id"].as_str().unwrap();
    fleet.client.app_status(clone, &["running"], PATIENCE).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_serves_beside_its_source_and_elsewhere() {
    let fleet = Fleet::start(&FleetSpec::cluster(2), |_| ()).await.unwrap();
    let app = fleet.deploy_on("nginx", "first", "pve1").await.unwrap();
    let text = fleet.folder().join("note");
    fs::write(&text, "kept").unwrap();
    let number = vmid(&app).to_string();
    fleet.nodes[0]
        .tool("pct", &["push", &number, text.to_str().unwrap(), "/note"])
        .unwrap();
    let note = |node: usize, vmid: u32| {
        let number = vmid.to_string();
        fleet.nodes[node]
            .tool("pct", &["exec", &number, "--", "cat", "/note"])
            .unwrap()
    };
    let path = format!("/api/apps/{}/clone", id(&app));
    for (body, code) in [
        (json!({"new_hostname": "first"}), 409),
        (json!({"new_hostname": "N O"}), 422),
        (json!({"new_hostname": "second", "node": "nowhere"}), 404),
        (json!({"new_hostname": "second", "nodes": "pve1"}), 422),
    ] {
        fleet.client.post(&path, &body).await.unwrap().expect(code).unwrap();
    }
    let trial = json!({"new_hostname": "second", "node": "pve2"});
    let plan = fleet
        .client
        .post(&format!("{path}?dry_run=true"), &trial)
        .await
        .unwrap();
    assert_eq!(plan.expect(200).unwrap()["plan"]["node"], "pve2");

    let beside = cloned(&fleet, &app, json!({"new_hostname": "second"})).await;
    let away = cloned(&fleet, &app, json!({"new_hostname": "third", "node": "pve2"})).await;
    for (clone, node, index) in [(&beside, "pve1", 0), (&away, "pve2", 1)] {
        assert_eq!(clone["node"], node);
        for field in ["id", "lxc_id", "hostname", "public_port", "ip_address", "url"] {
            assert_ne!(clone[field], app[field], "{field}");
        }
        for field in ["catalog_id", "internal_port", "environment", "config"] {
            assert_eq!(clone[field], app[field], "{field}");
        }
        assert_eq!(note(index, vmid(clone)), "kept");
        assert!(page(clone["url"].as_str().unwrap()).await.is_some(), "{}", fleet.logs());
        let conf = fs::read_to_string(
            fleet.nodes[index]
                .root()
                .join(format!("etc/pve/lxc/{}.conf", vmid(clone))),
        )
        .unwrap();
        let mac = |conf: &str| conf.split("hwaddr=").nth(1).unwrap()[..17].to_owned();
        let of_source =
            fs::read_to_string(fleet.nodes[0].root().join(format!("etc/pve/lxc/{}.conf", vmid(&app)))).unwrap();
        assert_ne!(mac(&conf), mac(&of_source), "an Ethernet address of its own");
        assert!(conf.contains("onboot: 1") && conf.contains("unprivileged: 1"), "{conf}");
    }
    status(&fleet, &app, "running").await;
    assert!(page(app["url"].as_str().unwrap()).await.is_some(), "{}", fleet.logs());
    let left: Vec<_> = fs::read_dir(fleet.nodes[0].root().join("etc/pve/priv/proximity/archives"))
        .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
        .unwrap_or_default();
    assert_eq!(left, Vec::<std::ffi::OsString>::new(), "the copies are gone");

    // A backup on the shared storage is restored where its app is.
    let backup = made(&fleet, &away, json!({"backup_type": "suspend"})).await;
    assert_eq!(backup["storage_name"], "nas");
    let restore = format!("{}/{}/restore", backups(&away), backup["id"]);
    let started = fleet
        .client
        .post(&restore, &json!({"previous": "no"}))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    fleet.done(&started).await.unwrap();
    assert!(page(away["url"].as_str().unwrap()).await.is_some(), "{}", fleet.logs());
    for app in [&app, &beside, &away] {
        let deleted = fleet
            .client
            .delete(&format!("/api/apps/{}", id(app)))
            .await
            .unwrap()
            .expect(202)
            .unwrap();
        fleet.done(&deleted).await.unwrap();
    }
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
