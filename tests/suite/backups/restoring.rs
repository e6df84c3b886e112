//! A restore brings the app back beside what it was, keeps that, and falls back to it.

use super::{act, backups, conf, ended, id, made, note, root, shown, status, vmid};
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
};
use pve_sim::{Fault, Rule, Script};
use serde_json::{Value, json};
use std::fs;

fn line<'c>(conf: &'c str, key: &str) -> Option<&'c str> {
    conf.lines().find(|line| line.starts_with(&format!("{key}:")))
}

/// An app with a backup of a note that says `before`; the note says `after` now.
async fn with_backup(fleet: &Fleet) -> (Value, Value) {
    let app = fleet.deploy("nginx", "web").await.unwrap();
    fs::write(note(fleet, vmid(&app)), "before").unwrap();
    let backup = made(fleet, &app, json!({"backup_type": "suspend", "storage": "local"})).await;
    fs::write(note(fleet, vmid(&app)), "after").unwrap();
    (app, backup)
}

fn restore(app: &Value, backup: &Value) -> String {
    format!("{}/{}/restore", backups(app), backup["id"])
}

async fn restored(fleet: &Fleet, app: &Value, backup: &Value, body: Value) -> Value {
    let answer = fleet.client.post(&restore(app, backup), &body).await.unwrap();
    let started = answer.expect(202).unwrap();
    fleet.done(&started).await.unwrap();
    started
}

async fn refused(fleet: &Fleet, app: &Value, backup: &Value, body: Value) -> String {
    let answer = fleet.client.post(&restore(app, backup), &body).await.unwrap();
    answer.refusal(409).unwrap()
}

/// What a restore has replaced is removed by an operation of its own; it has ended.
async fn gone(fleet: &Fleet, app: &Value, vmid: u32) {
    let path = format!("/api/apps/{}", id(app));
    let app = fleet.client.get(&path).await.unwrap().expect(200).unwrap();
    let operation = fleet.done(&app).await.unwrap();
    assert_eq!(operation["kind"], "discard", "{operation:#}");
    assert_eq!(conf(fleet, vmid), None);
}

async fn serves(app: &Value) -> bool {
    page(app["url"].as_str().unwrap()).await.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_comes_back_under_its_name_and_the_old_container_is_kept() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let (app, backup) = with_backup(&fleet).await;
    let old = vmid(&app);
    let path = format!("{}?dry_run=true", restore(&app, &backup));
    let plan = fleet.client.post(&path, &json!({})).await.unwrap().expect(200).unwrap();
    let loses = plan["plan"]["loses"][0].as_str().unwrap();
    assert!(loses.contains(&format!("only in container {old}")), "{plan:#}");
    assert_eq!(plan["plan"]["node"], "pve1");

    let started = fleet
        .client
        .post(&restore(&app, &backup), &json!({}))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    assert_eq!(
        (&started["status"], &started["previous_lxc_id"], &started["backup_id"]),
        (&json!("restoring"), &json!(old), &backup["id"])
    );
    // One at a time.
    let second = refused(&fleet, &app, &backup, json!({})).await;
    assert!(second.contains("restor"), "{second}");
    let other = fleet
        .client
        .post(&backups(&app), &json!({}))
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(other.contains("restor"), "{other}");
    fleet.done(&started).await.unwrap();

    let now = status(&fleet, &app, "running").await;
    let new = vmid(&now);
    assert_ne!(new, old);
    for field in [
        "id",
        "hostname",
        "url",
        "public_port",
        "ip_address",
        "node",
        "internal_port",
    ] {
        assert_eq!(now[field], app[field], "{field}");
    }
    assert!(serves(&app).await, "{}", fleet.logs());
    assert_eq!(fs::read_to_string(note(&fleet, new)).unwrap(), "before");
    assert_eq!(
        fs::read_to_string(note(&fleet, old)).unwrap(),
        "after",
        "the old one is kept as it was"
    );
    let (was, is) = (conf(&fleet, old).unwrap(), conf(&fleet, new).unwrap());
    assert_eq!(
        line(&was, "net0"),
        line(&is, "net0"),
        "the same address, by either kind of address"
    );
    assert_eq!(
        (line(&was, "onboot"), line(&is, "onboot")),
        (Some("onboot: 0"), Some("onboot: 1"))
    );
    assert_eq!(line(&is, "unprivileged"), Some("unprivileged: 1"));
    let row = shown(&fleet, &app, &backup["id"]).await;
    assert!(
        row["status"] == "completed" && row["verified_at"].is_string(),
        "{row:#}"
    );
    fleet.assert_promises().await.unwrap();

    // Reconciliation knows it, and no stop, start or restart touches it.
    act(&fleet, &app, "restart").await;
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    let path = format!("/api/apps/{}/previous", id(&app));
    let kept = fleet.client.get(&path).await.unwrap().expect(200).unwrap();
    assert_eq!(
        (&kept["previous"][0]["lxc_id"], &kept["previous"][1]),
        (&json!(old), &Value::Null)
    );
    assert!(kept["previous"][0]["keep_until"].is_string(), "{kept:#}");
    fleet
        .client
        .delete(&format!("{path}/{new}"))
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    let going = fleet
        .client
        .delete(&format!("{path}/{old}"))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    fleet.done(&going).await.unwrap();
    assert_eq!(conf(&fleet, old), None);
    assert!(serves(&app).await, "{}", fleet.logs());
    fleet.assert_promises().await.unwrap();

    // Tried out: nothing of it is left, and the app is not touched.
    let path = format!("{}/{}/verify", backups(&app), backup["id"]);
    let before = shown(&fleet, &app, &backup["id"]).await["verified_at"].clone();
    let trial = fleet.client.post(&path, &json!({})).await.unwrap().expect(202).unwrap();
    fleet.done(&trial).await.unwrap();
    assert_ne!(shown(&fleet, &app, &backup["id"]).await["verified_at"], before);
    assert_eq!(vmid(&status(&fleet, &app, "running").await), new);
    fleet.assert_promises().await.unwrap();

    // Again, and the old one goes at once; then the app with everything of it.
    restored(&fleet, &app, &backup, json!({"previous": "no"})).await;
    let latest = vmid(&status(&fleet, &app, "running").await);
    gone(&fleet, &app, new).await;
    restored(&fleet, &app, &backup, json!({"previous": "until_asked"})).await;
    assert!(conf(&fleet, latest).is_some());
    let deleted = fleet
        .client
        .delete(&format!("/api/apps/{}", id(&app)))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    fleet.done(&deleted).await.unwrap();
    assert_eq!(conf(&fleet, latest), None);
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_leaves_the_old_one_serving() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let (app, backup) = with_backup(&fleet).await;
    let old = vmid(&app);
    // While the old one serves still, and after it was stopped.
    let rules = ["restore", "start"].map(|sub| Rule::on("pct", Fault::DiskFull).subcommand(sub).times(1));
    for rule in rules {
        let words = "full";
        fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
        let answer = fleet.client.post(&restore(&app, &backup), &json!({})).await.unwrap();
        let operation = ended(&fleet, &answer.expect(202).unwrap()).await;
        assert_eq!(operation["state"], "undone", "{operation:#}\n{}", fleet.logs());
        assert!(operation["reason"].as_str().unwrap().contains(words), "{operation:#}");
        let now = status(&fleet, &app, "running").await;
        assert_eq!(vmid(&now), old);
        assert!(serves(&app).await, "{}", fleet.logs());
        assert_eq!(fs::read_to_string(note(&fleet, old)).unwrap(), "after");
        assert_eq!(line(&conf(&fleet, old).unwrap(), "onboot"), Some("onboot: 1"));
        let containers = fleet.nodes[0].files().read().unwrap().containers;
        assert_eq!(containers.into_iter().collect::<Vec<_>>(), [old], "the new one is gone");
        let row = shown(&fleet, &app, &backup["id"]).await;
        assert!(
            row["status"] == "completed" && row["error_message"].as_str().unwrap().contains(words),
            "{row:#}"
        );
        fleet.assert_promises().await.unwrap();
    }
    fleet.nodes[0].script(&Script::new()).unwrap();

    // Pruned by others, and damaged later.
    let second = made(&fleet, &app, json!({"backup_type": "stop", "storage": "local"})).await;
    let file = |backup: &Value| {
        root(&fleet)
            .join("var/lib/vz/dump")
            .join(backup["file_name"].as_str().unwrap())
    };
    fs::remove_file(file(&second)).unwrap();
    let told = refused(&fleet, &app, &second, json!({})).await;
    assert!(told.contains("somebody else removed it"), "{told}");
    assert_eq!(shown(&fleet, &app, &second["id"]).await["status"], "gone");
    let mut bytes = fs::read(file(&backup)).unwrap();
    let middle = bytes.len() - 30;
    bytes[middle] ^= 0xff;
    fs::write(file(&backup), &bytes).unwrap();
    let answer = fleet.client.post(&restore(&app, &backup), &json!({})).await.unwrap();
    if answer.status == 202 {
        let operation = ended(&fleet, &answer.body).await;
        assert_eq!(operation["state"], "undone", "{operation:#}");
        assert!(
            operation["reason"].as_str().unwrap().contains("is damaged"),
            "{operation:#}"
        );
        let row = shown(&fleet, &app, &backup["id"]).await;
        assert_eq!(
            (&row["status"], &row["is_completed"]),
            (&json!("failed"), &json!(false)),
            "{row:#}"
        );
        let told = refused(&fleet, &app, &backup, json!({})).await;
        assert!(told.contains("is damaged"), "{told}");
    } else {
        // Already its configuration cannot be read.
        let told = answer.refusal(409).unwrap();
        assert!(told.contains("cannot be read"), "{told}");
    }
    status(&fleet, &app, "running").await;
    assert!(serves(&app).await, "{}", fleet.logs());
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_where_it_can_and_says_where_it_cannot() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let (app, backup) = with_backup(&fleet).await;
    let old = vmid(&app);
    let told = refused(&fleet, &app, &backup, json!({"storage": "nostore"})).await;
    assert!(told.contains("no storage nostore that takes containers"), "{told}");
    let answer = fleet
        .client
        .post(&restore(&app, &backup), &json!({"previous": "never"}))
        .await
        .unwrap();
    answer.expect(422).unwrap();

    // A volume that the backup does not hold.
    fleet.nodes[0]
        .tool("pct", &["set", &old.to_string(), "--mp1", "local:1,mp=/srv/left"])
        .unwrap();
    let told = refused(&fleet, &app, &backup, json!({})).await;
    assert!(
        told.contains("mp1 (/srv/left)") && told.contains("until_asked"),
        "{told}"
    );
    let started = restored(&fleet, &app, &backup, json!({"previous": "until_asked"})).await;
    assert!(
        started["left_out"][0].as_str().unwrap().contains("/srv/left"),
        "{started:#}"
    );
    let path = format!("/api/apps/{}/previous", id(&app));
    let kept = fleet.client.get(&path).await.unwrap().expect(200).unwrap();
    let kept = &kept["previous"][0];
    assert!(
        kept["keep_until"].is_null() && kept["note"].as_str().unwrap().contains("/srv/left"),
        "{kept:#}"
    );

    // What was stopped stays stopped.
    act(&fleet, &app, "stop").await;
    let second = vmid(&status(&fleet, &app, "stopped").await);
    restored(&fleet, &app, &backup, json!({"previous": "no"})).await;
    let now = status(&fleet, &app, "stopped").await;
    let third = vmid(&now);
    gone(&fleet, &app, second).await;
    assert!(third != second && !serves(&app).await);
    let text = fleet.nodes[0].tool("pct", &["status", &third.to_string()]).unwrap();
    assert_eq!(text.trim(), "status: stopped");
    act(&fleet, &app, "start").await;
    assert!(serves(&app).await, "{}", fleet.logs());

    // What is gone comes back.
    fleet.nodes[0].tool("pct", &["stop", &third.to_string()]).unwrap();
    fleet.nodes[0].tool("pct", &["destroy", &third.to_string()]).unwrap();
    status(&fleet, &app, "error").await;
    let started = restored(&fleet, &app, &backup, json!({})).await;
    assert_eq!(started["previous_lxc_id"], Value::Null);
    let now = status(&fleet, &app, "running").await;
    assert!(serves(&app).await, "{}", fleet.logs());
    assert_eq!(fs::read_to_string(note(&fleet, vmid(&now))).unwrap(), "before");
    fleet.stop().await.unwrap();
}
