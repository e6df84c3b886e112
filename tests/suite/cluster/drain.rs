//! A node is emptied: what can be moved goes to another node, what cannot stays and says why.

use super::{Held, act, app, cluster, deploy, serves_on, settled, silent, tasks};
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};

async fn drain(fleet: &Fleet, node: &str) -> Value {
    let nodes = fleet
        .client
        .get("/api/proxmox/nodes")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let nodes = nodes.as_array().unwrap();
    let node = nodes.iter().find(|n| n["name"] == node).unwrap();
    let path = format!("/api/proxmox/nodes/{}/drain", node["id"].as_str().unwrap());
    let drained = fleet.client.post(&path, &json!({})).await.unwrap().expect(200).unwrap();
    assert_eq!(drained["status"], "draining");
    drained["apps"].clone()
}

fn of<'a>(apps: &'a Value, hostname: &str) -> &'a Value {
    let apps = apps.as_array().unwrap();
    let found = apps.iter().find(|app| app["hostname"] == hostname);
    found.unwrap_or_else(|| panic!("no {hostname} in {apps:#?}"))
}

/// Waits until what moves an app has ended as asked.
async fn moved(fleet: &Fleet, app: &Value) {
    assert_eq!(app["can_move"], true, "{app:#}");
    fleet
        .done(app)
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_is_emptied_and_what_stays_says_why() {
    let fleet = cluster(2).await;
    let running = deploy(&fleet, "running", "pve1").await;
    let standing = deploy(&fleet, "standing", "pve1").await;
    let under_ha = deploy(&fleet, "underha", "pve1").await;
    let id = |app: &Value| app["id"].as_str().unwrap().to_owned();
    fleet.done(&act(&fleet, &id(&standing), "stop").await).await.unwrap();
    let ha = format!("ct:{}", under_ha["lxc_id"]);
    fleet.nodes[0].tool("ha-manager", &["add", &ha]).unwrap();

    let apps = drain(&fleet, "pve1").await;
    assert_eq!(apps.as_array().unwrap().len(), 3, "{apps:#}");
    for hostname in ["running", "standing"] {
        assert_eq!(of(&apps, hostname)["moves_to"], "pve2", "{apps:#}");
        moved(&fleet, of(&apps, hostname)).await;
    }
    let stays = of(&apps, "underha");
    assert_eq!(
        (&stays["can_move"], &stays["operation_id"]),
        (&json!(false), &Value::Null)
    );
    let because = stays["because"].as_str().unwrap();
    assert!(because.contains(&format!("ha-manager migrate {ha}")), "{because}");

    let there = serves_on(&fleet, &id(&running), 1).await;
    assert_eq!(there["ip_address"], running["ip_address"], "kept");
    silent(&fleet, running["url"].as_str().unwrap()).await;
    let standing = app(&fleet, &id(&standing)).await.unwrap();
    assert_eq!(
        (&standing["node"], &standing["status"]),
        (&json!("pve2"), &json!("stopped"))
    );
    let under_ha = app(&fleet, &id(&under_ha)).await.unwrap();
    assert_eq!(
        (&under_ha["node"], &under_ha["status"]),
        (&json!("pve1"), &json!("running"))
    );
    assert_eq!(tasks(&fleet, "vzmigrate"), 2);
    // It starts where it is now.
    fleet
        .done(&act(&fleet, standing["id"].as_str().unwrap(), "start").await)
        .await
        .unwrap();
    serves_on(&fleet, standing["id"].as_str().unwrap(), 1).await;
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// The migration fails in its middle each time: the app serves again where it was.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_cannot_be_moved_serves_where_it_was() {
    let fleet = cluster(2).await;
    let deployed = deploy(&fleet, "homesick", "pve1").await;
    let fails = Fault::Fail {
        exit: 255,
        stderr: "no route to host".into(),
        stdout: String::new(),
    };
    let rule = Rule::on("pct", fails).subcommand("migrate").at(At::Middle);
    fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
    let apps = drain(&fleet, "pve1").await;
    let path = format!(
        "/api/operations/{}",
        of(&apps, "homesick")["operation_id"].as_str().unwrap()
    );
    let ended = until("the move has ended", PATIENCE, async || {
        let operation = fleet.client.get(&path).await?.expect(200)?;
        Ok((operation["state"] == "undone").then_some(operation))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
    assert!(
        ended["reason"].as_str().unwrap().contains("migrate failed"),
        "{ended:#}"
    );
    let back = serves_on(&fleet, deployed["id"].as_str().unwrap(), 0).await;
    assert_eq!(back["public_port"], deployed["public_port"]);
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

/// Both sides die while the container is on its way: it is moved once, and serves there.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_the_death_of_both_sides() {
    let mut fleet = cluster(2).await;
    let deployed = deploy(&fleet, "survivor", "pve1").await;
    let held = Held::at(&fleet, 0, "pct", "migrate", At::Middle, 0);
    let apps = drain(&fleet, "pve1").await;
    held.reached(&fleet).await;
    fleet.nodes[0].kill_agent().unwrap();
    fleet.kill_coordinator().unwrap();
    held.let_go();
    fleet.start_coordinator().await.unwrap();
    fleet.nodes[0].start_agent().unwrap();
    moved(&fleet, of(&apps, "survivor")).await;
    serves_on(&fleet, deployed["id"].as_str().unwrap(), 1).await;
    assert_eq!(tasks(&fleet, "vzmigrate"), 1);
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_machine_without_a_cluster_nothing_can_be_moved() {
    let fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    let deployed = fleet.deploy("nginx", "lonely").await.unwrap();
    let node = deployed["node"].as_str().unwrap();
    let apps = drain(&fleet, node).await;
    let because = of(&apps, "lonely")["because"].as_str().unwrap();
    assert!(because.contains(&format!("{node} is in no cluster")), "{because}");
    assert!(
        page(deployed["url"].as_str().unwrap()).await.is_some(),
        "it goes on serving"
    );
    fleet.stop().await.unwrap();
}
