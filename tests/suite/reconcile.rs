//! The registry is compared with the nodes. What a node does not tell (cut off, without quorum, unable to read) deletes nothing, frees nothing and changes
//! nothing, and the report says why. What it does tell counts.

#![allow(clippy::unwrap_used)]

use anyhow::{Context, Result};
use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use serde_json::{Value, json};
use sqlx::Row;
use std::path::PathBuf;

/// Asks for a round and answers its report.
async fn round(fleet: &Fleet, kind: &str) -> Result<Value> {
    let asked = fleet
        .client
        .post(&format!("/api/core/{kind}"), &json!({}))
        .await?
        .expect(202)?;
    let id = asked["report_id"].as_i64().context("report_id")?;
    let path = format!("/api/core/{kind}/reports/{id}");
    until("the report", PATIENCE, async || {
        let report = fleet.client.get(&path).await?.expect(200)?;
        Ok((report["state"] == "done").then_some(report))
    })
    .await
    .with_context(|| fleet.logs())
}

fn look<'r>(report: &'r Value, node: &str) -> &'r Value {
    let nodes = report["report"]["nodes"].as_array().unwrap();
    nodes.iter().find(|look| look["node"] == node).unwrap()
}

/// Rows that a reconciliation could change.
async fn rows(fleet: &Fleet) -> Result<Vec<String>> {
    let found = fleet
        .registry()
        .await?
        .rows(
            "SELECT id || ' ' || status || ' ' || COALESCE(vmid, '-') || ' ' || COALESCE(public_port, '-') || ' ' || COALESCE(ip_address, '-') AS row FROM apps
             UNION ALL SELECT 'VMID ' || vmid FROM vmid_reservations UNION ALL SELECT 'port ' || port FROM port_reservations
             UNION ALL SELECT 'address ' || address FROM address_reservations
             UNION ALL SELECT 'operation ' || id FROM operations WHERE kind <> 'publish' ORDER BY 1",
        )
        .await?;
    found.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The container goes, behind the back of everybody.
fn destroyed_by_hand(fleet: &Fleet, node: usize, app: &Value) {
    let vmid = app["lxc_id"].to_string();
    fleet.nodes[node].tool("pct", &["stop", &vmid]).unwrap();
    fleet.nodes[node].tool("pct", &["destroy", &vmid]).unwrap();
}

async fn status(fleet: &Fleet, app: &Value) -> Value {
    let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
    fleet.client.get(&path).await.unwrap().expect(200).unwrap()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_or_cannot_read_changes_nothing() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    let gone = fleet.deploy_on("nginx", "gone", "pve1").await.unwrap();
    let kept = fleet.deploy_on("nginx", "kept", "pve1").await.unwrap();
    let other = fleet.deploy_on("nginx", "other", "pve2").await.unwrap();

    // Cut off: its agent is killed, and a container is destroyed meanwhile.
    fleet.nodes[0].kill_agent().unwrap();
    fleet.node_offline("pve1").await.unwrap();
    destroyed_by_hand(&fleet, 0, &gone);
    let before = rows(&fleet).await.unwrap();
    let report = round(&fleet, "reconcile").await.unwrap();
    assert_eq!(look(&report, "pve1")["told"], "not_connected", "{report:#}");
    assert!(look(&report, "pve1")["why"].as_str().unwrap().contains("not connected"));
    assert_eq!(look(&report, "pve2")["told"], "complete");
    assert_eq!(report["report"]["findings"], json!([]));
    assert_eq!(report["requested_by"], "admin");
    assert!(report["duration_ms"].as_i64().unwrap() >= 0);
    assert_eq!(rows(&fleet).await.unwrap(), before);

    // A partial inventory: the other app's ownership record cannot be read, so the absence of the first proves nothing.
    let etc_pve = fleet.nodes[0].root().join("etc/pve");
    let record = etc_pve.join(format!("priv/proximity/{}", kept["lxc_id"]));
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, b"{").unwrap();
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();
    let report = round(&fleet, "reconcile").await.unwrap();
    assert_eq!(look(&report, "pve1")["told"], "incomplete", "{report:#}");
    assert!(
        look(&report, "pve1")["why"]
            .as_str()
            .unwrap()
            .contains("ownership record")
    );
    assert_eq!(rows(&fleet).await.unwrap(), before);

    // The list of guests is not there: /etc/pve is not mounted, or pve-cluster does not run.
    std::fs::write(&record, whole).unwrap();
    let (list, away): (PathBuf, PathBuf) = (etc_pve.join(".vmlist"), etc_pve.join(".vmlist.away"));
    // Taken away before the agent can tell that all is well.
    fleet.nodes[0].kill_agent().unwrap();
    fleet.node_offline("pve1").await.unwrap();
    std::fs::rename(&list, &away).unwrap();
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();
    let report = round(&fleet, "reconcile").await.unwrap();
    assert_eq!(look(&report, "pve1")["told"], "incomplete", "{report:#}");
    assert!(look(&report, "pve1")["why"].as_str().unwrap().contains(".vmlist"));
    assert_eq!(rows(&fleet).await.unwrap(), before);

    // Now it tells everything: the one that is gone is in error, with its row, and nothing else has changed.
    std::fs::rename(&away, &list).unwrap();
    let report = round(&fleet, "reconcile").await.unwrap();
    assert_eq!(look(&report, "pve1")["told"], "complete", "{report:#}");
    fleet
        .client
        .app_status(gone["id"].as_str().unwrap(), &["error"], PATIENCE)
        .await
        .unwrap();
    assert_eq!(
        (status(&fleet, &kept).await, status(&fleet, &other).await),
        (json!("running"), json!("running"))
    );
    let reservations = |rows: &[String]| rows.iter().filter(|row| !row.contains("nginx-")).count();
    assert_eq!(
        reservations(&rows(&fleet).await.unwrap()),
        reservations(&before),
        "nothing is freed"
    );
    let page = fleet
        .client
        .get("/api/core/reconcile/reports?per_page=2")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert!(
        page["total"].as_i64().unwrap() >= 4 && page["reports"].as_array().unwrap().len() == 2,
        "{page:#}"
    );
    assert!(
        page["reports"][0]["id"].as_i64() > page["reports"][1]["id"].as_i64(),
        "newest first"
    );
    fleet.stop().await.unwrap();
}

/// The node of the app is cut off from its cluster: what it tells is of yesterday. The whole cluster is kept as it is, and the report says why.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_quorum_changes_nothing() {
    let fleet = Fleet::start(&FleetSpec::cluster(3), |_| ()).await.unwrap();
    fleet.deploy_on("nginx", "alone", "pve1").await.unwrap();
    let before = rows(&fleet).await.unwrap();
    let told = async |wanted: &str| {
        until(&format!("pve1 tells {wanted}"), PATIENCE, async || {
            let report = round(&fleet, "reconcile").await?;
            Ok((look(&report, "pve1")["told"] == wanted).then_some(report))
        })
        .await
        .unwrap()
    };
    fleet.partition(0, &[&[1, 2]]).unwrap();
    let report = told("not_quorate").await;
    assert!(
        look(&report, "pve1")["why"].as_str().unwrap().contains("no quorum"),
        "{report:#}"
    );
    assert_eq!(
        (&report["report"]["freed"], &report["report"]["findings"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(rows(&fleet).await.unwrap(), before);
    fleet.heal(0).unwrap();
    told("complete").await;
    assert_eq!(rows(&fleet).await.unwrap(), before);
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// The node was installed anew: no container, no record. Its apps are in error, their rows and reservations are kept, and one alarm tells it, not one for each.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_empty_loses_no_row() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let mut apps = Vec::new();
    for n in 0..4 {
        apps.push(fleet.deploy("nginx", &format!("app-{n}")).await.unwrap());
    }
    let reserved = |rows: &[String]| {
        rows.iter()
            .filter(|row| !row.contains("nginx-") && !row.starts_with("operation"))
            .count()
    };
    let before = reserved(&rows(&fleet).await.unwrap());
    assert_eq!(before, 12);
    fleet.nodes[0].kill_agent().unwrap();
    fleet.node_offline("pve1").await.unwrap();
    for app in &apps {
        destroyed_by_hand(&fleet, 0, app);
        let record = format!("etc/pve/priv/proximity/{}", app["lxc_id"]);
        std::fs::remove_file(fleet.nodes[0].root().join(record)).unwrap();
    }
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();
    for app in &apps {
        let id = app["id"].as_str().unwrap();
        let app = fleet.client.app_status(id, &["error"], PATIENCE).await.unwrap();
        assert!(app["public_port"].is_i64(), "{app:#}");
    }
    assert_eq!(reserved(&rows(&fleet).await.unwrap()), before);
    let mut registry = fleet.registry().await.unwrap();
    let alarms = registry
        .rows("SELECT data FROM events WHERE kind = 'alarm'")
        .await
        .unwrap();
    let alarms: Vec<Value> = alarms
        .iter()
        .map(|row| serde_json::from_str(&row.get::<String, _>(0)).unwrap())
        .collect();
    assert_eq!(alarms.len(), 1, "{alarms:#?}");
    let message = alarms[0]["message"].as_str().unwrap();
    assert!(message.contains("4 of 4 apps of pve1 are missing at once"), "{message}");
    // The reconnection has a report of its own.
    let page = fleet
        .client
        .get("/api/core/reconcile/reports")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let reconnect = |report: &&Value| {
        report["cause"] == "reconnect" && report["report"]["findings"].as_array().is_some_and(|f| f.len() == 4)
    };
    assert!(
        page["reports"].as_array().unwrap().iter().any(|r| reconnect(&r)),
        "{page:#}"
    );
    fleet.stop().await.unwrap();
}

/// What the operator did by hand is told, or put right, as the app's policy says; what is nobody's is listed.
#[tokio::test(flavor = "multi_thread")]
async fn drift_and_what_is_nobodys() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let reported = fleet.deploy("nginx", "reported").await.unwrap();
    let body = json!({"catalog_id": "nginx", "hostname": "corrected", "labels": ["drift:correct"]});
    let created = fleet
        .client
        .post("/api/apps", &body)
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    fleet.done(&created).await.unwrap();
    let corrected = fleet
        .client
        .app_status(created["id"].as_str().unwrap(), &["running"], PATIENCE)
        .await
        .unwrap();
    let node = &fleet.nodes[0];
    let template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
    let net = "name=eth0,bridge=vmbr0,ip=dhcp";
    let stranger = [
        "create",
        "900",
        template,
        "--rootfs",
        "local:1",
        "--hostname",
        "strangers",
        "--net0",
        net,
    ];
    node.tool("pct", &stranger).unwrap();
    for app in [&reported, &corrected] {
        node.tool("pct", &["stop", &app["lxc_id"].to_string()]).unwrap();
    }
    let report = round(&fleet, "reconcile").await.unwrap();
    let unknown = &report["report"]["unknown_containers"];
    assert_eq!(
        (unknown[0]["vmid"].as_i64(), unknown[0]["hostname"].as_str()),
        (Some(900), Some("strangers")),
        "{report:#}"
    );
    fleet
        .client
        .app_status(reported["id"].as_str().unwrap(), &["stopped"], PATIENCE)
        .await
        .unwrap();
    let id = corrected["id"].as_str().unwrap();
    until("it is started again", PATIENCE, async || {
        let mut registry = fleet.registry().await?;
        let started = registry
            .count("SELECT COUNT(*) FROM operations WHERE kind = 'start' AND state = 'done' AND requested_by = 'coordinator'")
            .await?;
        Ok((started == 1).then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    let app = fleet.client.app_status(id, &["running"], PATIENCE).await.unwrap();
    assert!(proximity_tests::api::page(app["url"].as_str().unwrap()).await.is_some());
    assert!(
        node.tool("pct", &["config", "900"]).unwrap().contains("strangers"),
        "not touched"
    );
    node.tool("pct", &["destroy", "900"]).unwrap();
    let janitor = round(&fleet, "janitor").await.unwrap();
    assert_eq!(janitor["report"]["overdue"], json!([]), "{janitor:#}");
    assert!(janitor["report"]["forgotten"]["events"].is_i64());
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// Intervals are settings, runs are for admins, reports for operators.
#[tokio::test(flavor = "multi_thread")]
async fn intervals_are_settings_and_runs_are_for_admins() {
    let fleet = Fleet::start(&FleetSpec::hollow(0), |_| ()).await.unwrap();
    let path = "/api/core/settings/operations";
    let settings = fleet.client.get(path).await.unwrap().expect(200).unwrap();
    assert_eq!(
        (
            settings["reconcile_interval_s"].as_i64(),
            settings["janitor_interval_s"].as_i64()
        ),
        (Some(3600), Some(21600))
    );
    let changed = fleet
        .client
        .post(path, &json!({"janitor_interval_s": 600}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(changed["janitor_interval_s"], 600);
    let refused = fleet
        .client
        .post(path, &json!({"reconcile_interval_s": 5}))
        .await
        .unwrap()
        .expect(422)
        .unwrap();
    assert_eq!(refused["errors"][0]["loc"][1], "reconcile_interval_s", "{refused:#}");
    let mut stranger = fleet.client.clone();
    stranger.token = None;
    stranger
        .post("/api/core/reconcile", &json!({}))
        .await
        .unwrap()
        .expect(401)
        .unwrap();
    stranger
        .get("/api/core/janitor/reports")
        .await
        .unwrap()
        .expect(401)
        .unwrap();
    fleet
        .client
        .get("/api/core/reconcile/reports/999999")
        .await
        .unwrap()
        .expect(404)
        .unwrap();
    fleet
        .client
        .get("/api/core/reconcile/reports?page=0")
        .await
        .unwrap()
        .expect(422)
        .unwrap();
    let report = round(&fleet, "reconcile").await.unwrap();
    assert_eq!(report["report"]["nodes"], json!([]), "a coordinator without nodes");
    fleet.stop().await.unwrap();
}
