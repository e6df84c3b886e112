//! Loss of quorum in the middle of things.

use super::{Held, app, ask, cluster, delete, deploy, serves_on, settled, tasks, waits_for};
use proximity_tests::{
    api::page,
    fleet::{Fleet, SHARED_STORAGE},
    process::{PATIENCE, until},
};
use pve_sim::At;
use serde_json::json;

/// The tools of a deployment at which the quorum is lost: tool, subcommand, moment, calls to let pass.
const POINTS: &[(&str, &str, At, u64)] = &[
    ("pveam", "download", At::Middle, 0),
    ("pct", "create", At::Before, 0),
    ("pct", "create", At::Middle, 0),
    ("pct", "create", At::After, 0),
    ("pct", "start", At::Before, 0),
    ("pct", "start", At::After, 0),
    ("pct", "push", At::Before, 0),
    ("pct", "exec", At::Before, 1),
    ("pct", "exec", At::After, 2),
    ("nft", "-f", At::Before, 0),
];

async fn lose_and_find(fleet: &Fleet, number: usize) {
    let (tool, sub, at, skip) = POINTS[number];
    let context = format!("{tool} {sub} {at:?}");
    // The template is there after the first.
    if tool == "pveam" {
        let cache = fleet.nodes[0]
            .root()
            .join(format!("mnt/pve/{SHARED_STORAGE}/template/cache"));
        let _ = std::fs::remove_dir_all(cache);
    }
    let made = tasks(fleet, "vzcreate");
    takes_apps_again(fleet).await;
    let held = Held::at(fleet, 0, tool, sub, at, skip);
    let created = ask(fleet, &format!("app-{number}"), "pve1").await;
    held.reached(fleet).await;
    fleet.partition(0, &[]).unwrap();
    held.let_go();
    // The last act needs nothing of the cluster: there is nothing left to wait for.
    if tool != "nft" {
        waits_for(fleet, &created, "quorum").await;
        let spent = "SELECT COALESCE(SUM(tries), 0) FROM operation_steps s JOIN operations o ON o.id = s.operation_id WHERE o.state = 'waiting'";
        let mut registry = fleet.registry().await.unwrap();
        assert_eq!(registry.count(spent).await.unwrap(), 0, "{context}: a try was spent");
    }
    fleet.heal(0).unwrap();
    fleet.done(&created).await.unwrap();
    let id = created["id"].as_str().unwrap();
    serves_on(fleet, id, 0).await;
    // A creation whose last write was refused is made again; every other one is made once.
    let tries = if (sub, at) == ("create", At::Middle) { 2 } else { 1 };
    let refused = usize::from((sub, at) == ("create", At::Before));
    let now = tasks(fleet, "vzcreate") - made;
    assert!(now == tries || now == tries + refused, "{context}: created {now} times");
    settled(fleet).await;
    fleet.done(&delete(fleet, id).await).await.unwrap();
    settled(fleet).await;
}

/// Waits until the coordinator knows of the quorum that is there again.
async fn takes_apps_again(fleet: &Fleet) {
    let body = json!({"catalog_id": "nginx", "hostname": "would-be", "node": "pve1"});
    until("pve1 takes apps again", PATIENCE, async || {
        let plan = fleet.client.post("/api/apps?dry_run=true", &body).await?;
        Ok((plan.status == 200).then_some(()))
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_waits_for_the_quorum_at_every_step_and_goes_on() {
    let fleet = cluster(2).await;
    for number in 0..POINTS.len() {
        lose_and_find(&fleet, number).await;
    }
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_the_quorum_and_goes_on() {
    let fleet = cluster(2).await;
    for (number, (sub, at)) in [
        ("shutdown", At::Before),
        ("destroy", At::Before),
        ("destroy", At::Middle),
    ]
    .into_iter()
    .enumerate()
    {
        let deployed = deploy(&fleet, &format!("app-{number}"), "pve1").await;
        let id = deployed["id"].as_str().unwrap();
        let held = Held::at(&fleet, 0, "pct", sub, at, 0);
        let deleted = delete(&fleet, id).await;
        held.reached(&fleet).await;
        fleet.partition(0, &[]).unwrap();
        held.let_go();
        waits_for(&fleet, &deleted, "quorum").await;
        fleet.heal(0).unwrap();
        fleet.done(&deleted).await.unwrap();
        settled(&fleet).await;
    }
    fleet.stop().await.unwrap();
}

/// The network of one node breaks. What it believes is of before: nothing is deleted, freed or moved by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_partitioned_node_believes_deletes_and_frees_nothing() {
    let mut fleet = cluster(3).await;
    let here = deploy(&fleet, "stays", "pve1").await;
    let gone = deploy(&fleet, "leaves", "pve2").await;
    let id = |app: &serde_json::Value| app["id"].as_str().unwrap().to_owned();
    fleet.partition(0, &[&[0], &[1, 2]]).unwrap();
    // On the other side life goes on: one container moves, one is made, which the partitioned node sees nothing of.
    let vmid = gone["lxc_id"].to_string();
    fleet.nodes[1]
        .tool("pct", &["migrate", &vmid, "pve3", "--restart"])
        .unwrap();
    serves_on(&fleet, &id(&gone), 2).await;
    let fresh = deploy(&fleet, "fresh", "pve2").await;
    // Its agent tells all that it believes when it comes anew.
    fleet.nodes[0].stop_agent().await.unwrap();
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();
    // An operation there waits; those on the other side do not.
    let stopping = super::act(&fleet, &id(&here), "stop").await;
    waits_for(&fleet, &stopping, "quorum").await;
    let url = here["url"].as_str().unwrap();
    assert!(page(url).await.is_some(), "what runs goes on, reachable as before");
    for (app_before, node) in [(&gone, 2), (&fresh, 1)] {
        let now = serves_on(&fleet, &id(app_before), node).await;
        assert_eq!(now["lxc_id"], app_before["lxc_id"]);
    }
    fleet.heal(0).unwrap();
    fleet.done(&stopping).await.unwrap();
    assert_eq!(app(&fleet, &id(&here)).await.unwrap()["status"], "stopped");
    settled(&fleet).await;
    fleet.stop().await.unwrap();
}
