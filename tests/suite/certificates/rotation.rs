//! The root is replaced while everything runs, and while some are away.

use super::days_left;
use futures_util::future::join_all;
use proximity_coordinator::pki::rotation::Terms;
use proximity_tests::{
    api::Client,
    inside::{Inside, admin},
    process::{PATIENCE, until},
    turned_clock::DAY,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};

/// How the authority stands, as the command line tells it.
async fn status(inside: &Inside) -> Value {
    let (authority, store) = inside.authority().await.unwrap();
    let view = authority.status(&admin()).await.unwrap();
    store.close().await;
    serde_json::to_value(view).unwrap()
}

async fn begin(inside: &Inside, terms: Terms) {
    let (authority, store) = inside.authority().await.unwrap();
    authority.begin(&admin(), terms).await.unwrap();
    store.close().await;
}

async fn proceed(inside: &Inside) {
    let (authority, store) = inside.authority().await.unwrap();
    authority.proceed(&admin()).await.unwrap();
    store.close().await;
}

async fn until_status(inside: &Inside, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let waited = until(what, 2 * PATIENCE, async || {
        last = status(inside).await;
        Ok(so(&last).then(|| last.clone()))
    })
    .await;
    waited.unwrap_or_else(|error| panic!("{error:#}: {last:#}"))
}

/// Every node has a certificate of the newest root, and runs with it.
async fn everybody_renewed(inside: &Inside) -> Value {
    let all = inside.nodes.len();
    until_status(inside, "every node has a certificate of the new root", |view| {
        view["renewed"] == all
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_the_whole_overlap_comes_back_by_itself() {
    let mut inside = Inside::start(2).await.unwrap();
    let id = inside.nodes[1].identity().unwrap()["node"].clone();
    // Twice: it is away for two roots.
    inside.nodes[1].stop().await.unwrap();
    for round in 0..2 {
        let terms = Terms {
            overlap_days: 100,
            announce_days: 3,
            renew_within_s: 0,
        };
        begin(&inside, terms).await;
        let view = until_status(&inside, "the node that runs has heard", |view| {
            view["untold"] == json!(["pve2"])
        })
        .await;
        assert_eq!(view["stage"], "announced", "{view:#}");
        // It is not waited for for ever.
        inside.pass(DAY * 3);
        until_status(&inside, "the new root signs", |view| view["stage"] == "overlap").await;
        until_status(&inside, "the node that runs has followed", |view| {
            view["nodes"].as_array().unwrap().iter().any(|node| {
                node["name"] == "pve1"
                    && node["certificate_root"] == view["roots"].as_array().unwrap().last().unwrap()["pin"]
            })
        })
        .await;
        inside.pass(DAY * 100);
        let view = until_status(&inside, "the old root is gone", |view| view["stage"] == "at_rest").await;
        assert_eq!(view["roots"].as_array().unwrap().len(), round + 2, "{view:#}");
        inside.login().await.unwrap();
        inside.online("pve1").await.unwrap();
    }
    inside.nodes[1].start().unwrap();
    let back = inside.online("pve2").await.unwrap();
    assert_eq!(back["id"], id);
    assert!(days_left(&inside, &back) >= 88, "{back}");
    everybody_renewed(&inside).await;
    let identity = inside.nodes[1].identity().unwrap();
    assert_eq!(
        identity["roots_der"].as_array().unwrap().len(),
        1,
        "it trusts the newest root alone"
    );
    inside.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_before_and_after_each_step_let_nodes_in() {
    let mut inside = Inside::start(3).await.unwrap();
    let tokens = |count: usize| {
        let inside = &inside;
        async move {
            let mut made = Vec::new();
            for _ in 0..count {
                made.push(inside.join_token(&json!({"ttl_seconds": 86_400})).await.unwrap());
            }
            made
        }
    };
    let pin = |token: &str| token.parse::<proximity_protocol::token::JoinToken>().unwrap().ca_pin;
    let terms = Terms {
        renew_within_s: 0,
        ..Terms::default()
    };
    let of_rest = tokens(1).await;
    begin(&inside, terms).await;
    let of_announced = tokens(1).await;
    until_status(&inside, "the new root signs", |view| view["stage"] == "overlap").await;
    everybody_renewed(&inside).await;
    let of_overlap = tokens(1).await;
    assert_eq!(pin(&of_rest[0]), pin(&of_announced[0]));
    assert_ne!(
        pin(&of_overlap[0]),
        pin(&of_announced[0]),
        "new tokens pin the root that signs"
    );
    // Each is used in the stage after its own.
    for (index, token) in [(0, &of_rest[0]), (1, &of_announced[0]), (2, &of_overlap[0])] {
        if index == 2 {
            proceed(&inside).await;
            until_status(&inside, "the old root is gone", |view| view["stage"] == "at_rest").await;
        }
        let node = &mut inside.nodes[index];
        node.stop().await.unwrap();
        let joined = tokio::task::block_in_place(|| node.node.join_output(token, &["--take-over"])).unwrap();
        assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
        node.start().unwrap();
        let name = node.node.name.clone();
        node.linked().await.unwrap();
        inside.online(&name).await.unwrap();
        everybody_renewed(&inside).await;
    }
    inside.stop().await.unwrap();
}

/// What is done on the nodes while the root is replaced.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    refreshed: AtomicUsize,
    missed: AtomicUsize,
    deployed: AtomicUsize,
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Asks each of these agents for facts and an inventory, again and again.
    async fn refresh(&self, client: &Client, hosts: &[i64]) {
        while self.goes_on() {
            for host in hosts {
                let path = format!("/api/proxmox/hosts/{host}/sync-nodes");
                let answer = client.post(&path, &json!({})).await.unwrap();
                // Its agent reconnects with its new certificate at this very moment.
                let missed = answer.body["message"] != "Synced 1 nodes";
                let counter = if missed { &self.missed } else { &self.refreshed };
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Deploys small apps, one after the other, and deletes each: every command of an agent is in it.
    async fn deploy(&self, client: &Client, name: &str) {
        let small = json!({"cpu_cores": 1, "memory_mb": 256, "disk_gb": 2, "swap_mb": 0});
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let body = json!({"catalog_id": "nginx", "hostname": format!("{name}-{number}"), "config": small});
            let created = client.post("/api/apps", &body).await.unwrap().expect(201).unwrap();
            done(client, &created).await;
            let path = format!("/api/apps/{}", created["id"].as_str().unwrap());
            done(client, &client.delete(&path).await.unwrap().expect(202).unwrap()).await;
            self.deployed.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn done(client: &Client, answer: &Value) {
    let operation = answer["operation_id"].as_str().unwrap();
    let ended = client.operation_end(operation, 2 * PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "done", "{ended:#}");
}

/// How often nodes went, and how long each was away before it was back, milliseconds.
async fn absences(inside: &Inside) -> Vec<i64> {
    let (_, store) = inside.authority().await.unwrap();
    let rows: Vec<(i64, String)> = sqlx::query_as("SELECT at, data FROM events WHERE kind = 'node' ORDER BY id")
        .fetch_all(&mut *store.read().await.unwrap())
        .await
        .unwrap();
    store.close().await;
    let (mut gone, mut away) = (BTreeMap::new(), Vec::new());
    for (at, data) in rows {
        let data: Value = serde_json::from_str(&data).unwrap();
        let node = data["node_id"].as_str().unwrap().to_owned();
        match data["change"].as_str().unwrap() {
            "offline" => drop(gone.insert(node, at)),
            "online" => away.extend(gone.remove(&node).map(|since| at - since)),
            _ => {}
        }
    }
    assert!(gone.is_empty(), "never back: {gone:?}");
    away
}

/// Fifty agents, figures every second, commands all the time: nobody is lost, nothing fails, and nobody is away for longer than a reconnect.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_follow_under_load() {
    const AGENTS: u8 = 50;
    let mut inside = Inside::start(AGENTS).await.unwrap();
    let hosts = inside
        .client
        .get("/api/proxmox/hosts")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    let hosts: Vec<i64> = hosts
        .as_array()
        .unwrap()
        .iter()
        .map(|host| host["id"].as_i64().unwrap())
        .collect();
    assert_eq!(hosts.len(), usize::from(AGENTS));
    let load = Load::default();
    let rotation = async {
        let begun = Instant::now();
        let terms = Terms {
            renew_within_s: 10,
            ..Terms::default()
        };
        begin(&inside, terms).await;
        until_status(&inside, "the new root signs", |view| view["stage"] == "overlap").await;
        let switched = begun.elapsed();
        let view = everybody_renewed(&inside).await;
        let renewed = begun.elapsed();
        assert_eq!(view["told"], AGENTS, "{view:#}");
        proceed(&inside).await;
        until_status(&inside, "the old root is gone", |view| view["stage"] == "at_rest").await;
        let retired = begun.elapsed();
        // Some more of the same with the new root alone.
        let (refreshed, deployed) = (
            load.refreshed.load(Ordering::SeqCst),
            load.deployed.load(Ordering::SeqCst),
        );
        until("more of the same", 2 * PATIENCE, async || {
            let more = load.refreshed.load(Ordering::SeqCst) >= refreshed + usize::from(AGENTS)
                && load.deployed.load(Ordering::SeqCst) > deployed;
            Ok(more.then_some(()))
        })
        .await
        .unwrap();
        load.stop.store(true, Ordering::SeqCst);
        (switched, renewed, retired)
    };
    let refreshers = hosts.chunks(10).map(|hosts| load.refresh(&inside.client, hosts));
    let deployers = ["one", "two", "three", "four"].map(|name| load.deploy(&inside.client, name));
    let (_, _, (switched, renewed, retired)) = tokio::join!(join_all(refreshers), join_all(deployers), rotation);
    let away = absences(&inside).await;
    let longest = away.iter().max().copied().unwrap_or_default();
    println!(
        "{AGENTS} agents: told and switched after {switched:?}, all renewed after {renewed:?}, old root gone after {retired:?}; meanwhile {} inventories asked \
         for ({} missed an agent that reconnected), {} apps deployed and deleted; {} reconnects, {} ms on average, {longest} ms at most",
        load.refreshed.load(Ordering::SeqCst),
        load.missed.load(Ordering::SeqCst),
        load.deployed.load(Ordering::SeqCst),
        away.len(),
        away.iter().sum::<i64>() / i64::try_from(away.len().max(1)).unwrap(),
    );
    assert_eq!(
        away.len(),
        usize::from(AGENTS),
        "each reconnects once, with its new certificate"
    );
    assert!(longest < 10_000, "away for longer than a reconnect: {away:?}");
    for node in &inside.nodes {
        assert!(node.runs(), "{} has ended", node.node.name);
        assert_eq!(inside.node(&node.node.name).await.unwrap()["status"], "online");
        let figures = inside.node(&node.node.name).await.unwrap();
        assert!(figures["memory_used"].is_number(), "figures stream: {figures}");
    }
    let (renewals,): (i64,) = {
        let mut registry = proximity_tests::world::Registry::open(&inside.state().join("registry.db"))
            .await
            .unwrap();
        let refused = "SELECT COUNT(*) FROM audit WHERE action LIKE 'certificate.%' AND outcome <> 'ok'";
        assert_eq!(registry.count(refused).await.unwrap(), 0, "a renewal was refused");
        let renewals = "SELECT COUNT(*) FROM audit WHERE action = 'certificate.renew' AND outcome = 'ok'";
        (registry.count(renewals).await.unwrap(),)
    };
    assert_eq!(renewals, i64::from(AGENTS), "each once");
    inside.login().await.unwrap();
    inside.stop().await.unwrap();
}
