//! Backups are made, shown, deleted; and what stands in their way has its own answer.

use super::{act, ask, backups, conf, dump, ended, made, more_storages, root, shown, status, vmid};
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use pve_sim::{Fault, Rule, Script};
use serde_json::{Value, json};
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_is_made_as_asked_or_says_before_why_not() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "web").await.unwrap();
    for (asked, mode, compression) in [
        ("snapshot", "suspend", "zstd"),
        ("suspend", "suspend", "gzip"),
        ("stop", "stop", "lzo"),
    ] {
        let started = ask(
            &fleet,
            &app,
            json!({"backup_type": asked, "compression": compression, "storage": "local"}),
        )
        .await;
        assert_eq!(
            (&started["status"], &started["mode"]),
            (&json!("creating"), &json!(mode))
        );
        let message = started["message"].as_str().unwrap();
        assert!(message.starts_with("Backup creation started for web"), "{message}");
        let falls_back = asked != mode;
        assert_eq!(started["fallback"].is_string(), falls_back, "{started:#}");
        assert!(!falls_back || message.contains("kind dir"), "{message}");
        fleet.done(&started).await.unwrap();
        let backup = shown(&fleet, &app, &started["id"]).await;
        for (field, value) in [
            ("status", json!("completed")),
            ("application_id", app["id"].clone()),
            ("backup_type", json!(asked)),
            ("mode", json!(mode)),
            ("compression", json!(compression)),
            ("storage_name", json!("local")),
            ("is_completed", json!(true)),
            ("is_in_progress", json!(false)),
            ("error_message", Value::Null),
            ("left_out", json!([])),
            ("lxc_id", app["lxc_id"].clone()),
        ] {
            assert_eq!(backup[field], value, "{field}: {backup:#}");
        }
        let file = backup["file_name"].as_str().unwrap();
        assert!(file.starts_with(&format!("vzdump-lxc-{}-", vmid(&app))), "{file}");
        assert_eq!(backup["volid"], json!(format!("local:backup/{file}")));
        assert!(
            backup["checksum"].as_str().unwrap().starts_with("sha256:"),
            "{backup:#}"
        );
        let length = fs::metadata(root(&fleet).join("var/lib/vz/dump").join(file))
            .unwrap()
            .len();
        assert_eq!(backup["size"], json!(length));
        assert!(
            backup["log"].as_str().unwrap().contains("Finished Backup"),
            "{backup:#}"
        );
        assert!(
            page(app["url"].as_str().unwrap()).await.is_some(),
            "{asked}: it does not serve"
        );
    }
    status(&fleet, &app, "running").await;

    let list = fleet.client.get(&backups(&app)).await.unwrap().expect(200).unwrap();
    assert_eq!(list["total"], 3);
    let ids: Vec<i64> = list["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["id"].as_i64().unwrap())
        .collect();
    assert!(ids[0] > ids[1] && ids[1] > ids[2], "newest first: {ids:?}");
    let path = format!("{}/stats", backups(&app));
    let stats = fleet.client.get(&path).await.unwrap().expect(200).unwrap();
    assert_eq!(
        (
            &stats["total_backups"],
            &stats["completed_backups"],
            &stats["failed_backups"]
        ),
        (&json!(3), &json!(3), &json!(0))
    );
    assert!(
        stats["average_size_mb"].is_number() && stats["total_size_gb"].is_number(),
        "{stats:#}"
    );
    for (field, value) in [("backup_type", "clone"), ("compression", "rar")] {
        let answer = fleet.client.post(&backups(&app), &json!({field: value})).await.unwrap();
        answer.expect(422).unwrap();
    }

    // What stands still is copied as it is, whatever the mode.
    act(&fleet, &app, "stop").await;
    let still = ask(&fleet, &app, json!({"backup_type": "snapshot", "storage": "local"})).await;
    assert_eq!((&still["mode"], &still["fallback"]), (&json!("snapshot"), &Value::Null));
    fleet.done(&still).await.unwrap();
    status(&fleet, &app, "stopped").await;

    let one = format!("{}/{}", backups(&app), ids[0]);
    let plan = fleet
        .client
        .delete(&format!("{one}?dry_run=true"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert!(
        plan["plan"]["loses"][0]
            .as_str()
            .unwrap()
            .contains("the archive local:backup/"),
        "{plan:#}"
    );
    let before = dump(&fleet).len();
    let deleted = fleet.client.delete(&one).await.unwrap().expect(202).unwrap();
    assert_eq!(deleted["status"], "deleting");
    fleet.done(&deleted).await.unwrap();
    fleet.client.get(&one).await.unwrap().expect(404).unwrap();
    assert_eq!(dump(&fleet).len() + 3, before, "archive, log and notes");
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_waited_for_or_told() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "web").await.unwrap();
    let number = vmid(&app).to_string();

    // Somebody's backup holds the container: waited for, and told at once.
    fleet.nodes[0]
        .tool("pct", &["set", &number, "--lock", "backup"])
        .unwrap();
    let started = ask(&fleet, &app, json!({"backup_type": "suspend", "storage": "local"})).await;
    assert!(
        started["message"].as_str().unwrap().contains("it waits for a backup"),
        "{started:#}"
    );
    let path = format!("/api/operations/{}", started["operation_id"].as_str().unwrap());
    let waiting = until("it waits", PATIENCE, async || {
        let operation = fleet.client.get(&path).await?.expect(200)?;
        Ok((operation["state"] == "waiting").then_some(operation))
    })
    .await
    .unwrap();
    assert!(waiting["reason"].as_str().unwrap().contains("locked by"), "{waiting:#}");
    let refusal = fleet
        .client
        .post(&backups(&app), &json!({}))
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(refusal.contains("under way"), "{refusal}");
    fleet.nodes[0].tool("pct", &["unlock", &number]).unwrap();
    fleet.done(&started).await.unwrap();

    // A full disk: nothing is left, the app goes on, and the row says why.
    fleet.nodes[0]
        .script(&Script::new().rule(Rule::on("vzdump", Fault::DiskFull)))
        .unwrap();
    let before = dump(&fleet).len();
    let started = ask(&fleet, &app, json!({"backup_type": "stop", "storage": "local"})).await;
    let operation = ended(&fleet, &started).await;
    assert_eq!(operation["state"], "undone", "{operation:#}");
    let backup = shown(&fleet, &app, &started["id"]).await;
    assert_eq!((&backup["status"], &backup["volid"]), (&json!("failed"), &Value::Null));
    assert!(backup["error_message"].as_str().unwrap().contains("full"), "{backup:#}");
    assert_eq!(dump(&fleet).len(), before);
    assert!(page(app["url"].as_str().unwrap()).await.is_some(), "{}", fleet.logs());
    fleet.nodes[0].script(&Script::new()).unwrap();
    let one = format!("{}/{}", backups(&app), started["id"]);
    fleet.client.delete(&one).await.unwrap().expect(204).unwrap();

    // HA would start it in the middle.
    let ha = root(&fleet).join("etc/pve/ha");
    fs::create_dir_all(&ha).unwrap();
    fs::write(ha.join("resources.cfg"), format!("ct: {number}\n\tstate started\n")).unwrap();
    let started = ask(&fleet, &app, json!({"backup_type": "stop", "storage": "local"})).await;
    assert_eq!(started["mode"], "suspend");
    assert!(
        started["fallback"].as_str().unwrap().contains("HA manages"),
        "{started:#}"
    );
    fleet.done(&started).await.unwrap();
    fs::remove_file(ha.join("resources.cfg")).unwrap();

    // A storage that is not there, or is none for backups.
    for (storage, words) in [
        ("nostore", "there is no storage nostore"),
        ("local-lvm", "there is no storage local-lvm"),
    ] {
        let answer = fleet
            .client
            .post(&backups(&app), &json!({"storage": storage}))
            .await
            .unwrap();
        let refusal = answer.refusal(409).unwrap();
        assert!(refusal.contains(words) && refusal.contains("local"), "{refusal}");
    }
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_server_keeps_them_without_a_file() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "web").await.unwrap();
    more_storages(&fleet, &app).await.unwrap();
    let backup = made(&fleet, &app, json!({"backup_type": "suspend", "compression": "gzip"})).await;
    assert_eq!(
        (&backup["storage_name"], &backup["format"]),
        (&json!("pbs"), &json!("pbs-ct"))
    );
    assert_eq!(backup["checksum"], Value::Null);
    assert!(
        backup["fallback"].as_str().unwrap().contains("compresses by itself"),
        "{backup:#}"
    );
    let offline = root(&fleet).join("pbs/pbs/offline");
    fs::write(&offline, "").unwrap();
    let restore = format!("{}/{}/restore", backups(&app), backup["id"]);
    let refusal = fleet
        .client
        .post(&restore, &json!({}))
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(refusal.contains("pbs"), "{refusal}");
    assert_eq!(
        shown(&fleet, &app, &backup["id"]).await["status"],
        "completed",
        "away is not gone"
    );
    fs::remove_file(&offline).unwrap();
    let started = fleet
        .client
        .post(&restore, &json!({}))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    fleet.done(&started).await.unwrap();
    assert!(page(app["url"].as_str().unwrap()).await.is_some(), "{}", fleet.logs());
    let again = status(&fleet, &app, "running").await;
    assert!(conf(&fleet, vmid(&again)).unwrap().contains("onboot: 1"));
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}
