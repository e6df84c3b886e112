//! What an operator does to apps after they were deployed, and to containers that were there before: discover, adopt, change, let go, destroy, cancel. On hollow
//! nodes, through the API, with real processes.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec, SimNode},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf, process::Command};

const BY_HAND: u32 = 150;

/// A container that an operator makes and starts on the node. Port 80 answers in it.
fn made_by_hand(node: &SimNode, vmid: u32, hostname: &str) {
    let id = vmid.to_string();
    let template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
    let net = "name=eth0,bridge=vmbr0,ip=dhcp";
    node.tool(
        "pct",
        &[
            "create",
            &id,
            template,
            "--rootfs",
            "local:1",
            "--hostname",
            hostname,
            "--net0",
            net,
            "--tags",
            "mine",
            "--cores",
            "1",
            "--memory",
            "256",
        ],
    )
    .unwrap();
    std::fs::write(node.root().join(format!("var/lib/lxc/{vmid}/listens")), "80\n").unwrap();
    node.tool("pct", &["start", &id]).unwrap();
}

fn conf_path(node: &SimNode, vmid: u32) -> PathBuf {
    node.root().join(format!("etc/pve/nodes/{}/lxc/{vmid}.conf", node.name))
}

fn conf(node: &SimNode, vmid: u32) -> String {
    std::fs::read_to_string(conf_path(node, vmid)).unwrap()
}

fn record(node: &SimNode, vmid: u32) -> Option<Value> {
    let path = node.root().join(format!("etc/pve/priv/proximity/{vmid}"));
    std::fs::read_to_string(path)
        .ok()
        .map(|text| serde_json::from_str(&text).unwrap())
}

fn is_running(node: &SimNode, vmid: u32) -> bool {
    node.tool("pct", &["status", &vmid.to_string()]).unwrap().trim() == "status: running"
}

/// Does on the node what a refusal says: the command after `run there:`.
fn obey(refusal: &str) {
    let (_, rest) = refusal
        .split_once("run there: ")
        .unwrap_or_else(|| panic!("no command in {refusal:?}"));
    let command = rest.split("; or delete").next().unwrap();
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

async fn adopt(fleet: &Fleet, body: Value) -> Value {
    fleet
        .client
        .post("/api/apps/adopt", &body)
        .await
        .unwrap()
        .expect(202)
        .unwrap()
}

async fn status(fleet: &Fleet, id: &Value, wanted: &str) -> Value {
    fleet
        .client
        .app_status(id.as_str().unwrap(), &[wanted], PATIENCE)
        .await
        .unwrap()
}

async fn act(fleet: &Fleet, id: &Value, action: &str) {
    let path = format!("/api/apps/{}/action", id.as_str().unwrap());
    let answer = fleet.client.post(&path, &json!({"action": action})).await.unwrap();
    fleet.done(&answer.expect(200).unwrap()).await.unwrap();
}

async fn patch(fleet: &Fleet, id: &Value, body: Value, expected: u16) -> Value {
    let path = format!("/api/apps/{}", id.as_str().unwrap());
    fleet
        .client
        .patch(&path, &body)
        .await
        .unwrap()
        .expect(expected)
        .unwrap()
}

async fn log(fleet: &Fleet, id: &Value) -> String {
    let path = format!("/api/apps/{}/logs?per_page=200", id.as_str().unwrap());
    let page = fleet.client.get(&path).await.unwrap().expect(200).unwrap();
    let lines = page["logs"].as_array().unwrap().iter();
    lines
        .map(|line| format!("{}\n", line["message"].as_str().unwrap()))
        .collect()
}

/// Nothing of the strangers counts as stray.
async fn assert_promises(fleet: &Fleet, strangers: &[u32]) {
    let strangers: BTreeSet<u32> = strangers.iter().copied().collect();
    let broken = fleet.broken_promises_beside(&strangers).await.unwrap();
    assert!(broken.is_empty(), "{}\n{}", broken.join("\n"), fleet.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_made_by_hand_is_found_adopted_served_and_let_go() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    made_by_hand(&fleet.nodes[0], BY_HAND, "my-nginx01");
    made_by_hand(&fleet.nodes[0], 151, "others");
    let before = (conf(&fleet.nodes[0], BY_HAND), conf(&fleet.nodes[0], 151));

    let answer = fleet.client.get("/api/apps/discover").await.unwrap();
    assert!(!answer.headers.contains_key("x-incomplete"));
    let found = answer.expect(200).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2, "{found:#}");
    let one = &found[0];
    for (field, value) in [
        ("vmid", json!(BY_HAND)),
        ("name", json!("my-nginx01")),
        ("status", json!("running")),
        ("node", json!("pve1")),
        ("memory", json!(256_u64 << 20)),
        ("disk", json!(1_u64 << 30)),
        ("cpus", json!(1)),
        ("listening_ports", json!([80])),
        ("suggested_type", json!("nginx")),
    ] {
        assert_eq!(one[field], value, "{field}: {one:#}");
    }
    assert!(one["uptime"].is_u64() && one["ip_address"].is_string(), "{one:#}");

    // The node's own policy is asked, and what would allow it is said.
    let body = json!({"vmid": BY_HAND, "node_name": "pve1"});
    let refusal = fleet
        .client
        .post("/api/apps/adopt", &body)
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(refusal.contains("adoption = [150]"), "{refusal}");
    obey(&refusal);
    let accepted = adopt(&fleet, body.clone()).await;
    assert_eq!(
        (
            &accepted["success"],
            &accepted["vmid"],
            &accepted["node"],
            &accepted["type"],
            &accepted["port_detection"]
        ),
        (
            &json!(true),
            &json!(BY_HAND),
            &json!("pve1"),
            &json!("nginx"),
            &json!("automatic")
        )
    );
    fleet.done(&accepted).await.unwrap();
    let id = &accepted["id"];
    let app = status(&fleet, id, "running").await;
    assert_eq!(
        (&app["adopted"], &app["lxc_id"], &app["hostname"]),
        (&json!(true), &json!(BY_HAND), &json!("my-nginx01"))
    );
    assert_eq!(app["adopted_configuration"]["text"], json!(before.0));
    let url = app["url"].as_str().unwrap();
    assert!(page(url).await.unwrap().contains("container 150"), "{}", fleet.logs());
    assert_eq!(record(&fleet.nodes[0], BY_HAND).unwrap()["adopted"], true);
    let found = fleet
        .client
        .get("/api/apps/discover")
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found:#}");
    let refusal = fleet
        .client
        .post("/api/apps/adopt", &body)
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(refusal.contains("managed already"), "{refusal}");

    // Words may be changed, the container may not.
    let asked = json!({"config": {"memory_mb": 512}});
    let path = format!("/api/apps/{}", id.as_str().unwrap());
    let refusal = fleet.client.patch(&path, &asked).await.unwrap().refusal(409).unwrap();
    assert!(refusal.contains("adopted"), "{refusal}");
    assert_eq!(
        patch(&fleet, id, json!({"description": "by hand"}), 200).await["description"],
        "by hand"
    );
    for (action, then) in [("stop", "stopped"), ("start", "running"), ("restart", "running")] {
        act(&fleet, id, action).await;
        status(&fleet, id, then).await;
    }
    assert!(page(url).await.is_some());

    // Behind the system's back.
    fleet.nodes[0].tool("pct", &["stop", "150"]).unwrap();
    status(&fleet, id, "stopped").await;
    assert!(log(&fleet, id).await.contains("was stopped on pve1 without Proximity"));
    fleet.nodes[0].tool("pct", &["start", "150"]).unwrap();
    status(&fleet, id, "running").await;
    until("the page is back", PATIENCE, async || Ok(page(url).await.map(drop)))
        .await
        .unwrap();

    // A node that is away is named beside what the others tell, and is never "nothing there".
    fleet.nodes[1].kill_agent().unwrap();
    until("pve2 is named", PATIENCE, async || {
        let answer = fleet.client.get("/api/apps/discover").await?;
        let line = answer
            .headers
            .get("x-incomplete")
            .map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(answer.expect(200)?.as_array().unwrap().len(), 1);
        Ok(line.filter(|line| line.contains("pve2: its agent is not connected")))
    })
    .await
    .unwrap();
    let host = app["host_id"].as_i64().unwrap();
    let other = fleet
        .client
        .get(&format!("/api/apps/discover?host_id={}", 3 - host))
        .await
        .unwrap();
    assert!(other.refusal(503).unwrap().contains("pve2"));

    // Deleted, it is only forgotten.
    let plan = fleet
        .client
        .delete(&format!("{path}?dry_run=true"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert!(
        plan["plan"]["loses"].to_string().contains("nothing of container 150"),
        "{plan:#}"
    );
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    fleet.done(&deleted).await.unwrap();
    fleet.client.get(&path).await.unwrap().expect(404).unwrap();
    assert!(is_running(&fleet.nodes[0], BY_HAND) && record(&fleet.nodes[0], BY_HAND).is_none());
    assert!(page(url).await.is_none());
    assert_eq!((conf(&fleet.nodes[0], BY_HAND), conf(&fleet.nodes[0], 151)), before);
    assert_promises(&fleet, &[BY_HAND, 151]).await;

    // Adopted again, it is destroyed only where the node's policy allows that.
    let again = adopt(
        &fleet,
        json!({"vmid": BY_HAND, "node_name": "pve1", "suggested_type": "web", "port_to_expose": 80}),
    )
    .await;
    assert_eq!(
        (&again["port_detection"], &again["type"]),
        (&json!("manual:80"), &json!("web"))
    );
    fleet.done(&again).await.unwrap();
    let destroy = format!("/api/apps/{}?destroy_container=true", again["id"].as_str().unwrap());
    let refusal = fleet.client.delete(&destroy).await.unwrap().refusal(409).unwrap();
    assert!(refusal.contains("destroy_adopted = true"), "{refusal}");
    obey(&refusal);
    let deleted = fleet.client.delete(&destroy).await.unwrap().expect(202).unwrap();
    fleet.done(&deleted).await.unwrap();
    assert!(!conf_path(&fleet.nodes[0], BY_HAND).exists());
    assert_eq!(conf(&fleet.nodes[0], 151), before.1);
    assert_promises(&fleet, &[151]).await;
    fleet.nodes[1].start_agent().unwrap();
    fleet.stop().await.unwrap();
}

/// The adoption fails in its last step: the container is as if nothing had been asked, and can be adopted afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_that_fails_leaves_the_container_as_it_was() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let node = &fleet.nodes[0];
    made_by_hand(node, BY_HAND, "by-hand");
    let before = conf(node, BY_HAND);
    std::fs::create_dir_all(node.policy().parent().unwrap()).unwrap();
    std::fs::write(node.policy(), "adoption = \"any\"\n").unwrap();
    let fails = Fault::Fail {
        exit: 1,
        stderr: "Error: Could not process rule: Device or resource busy".into(),
        stdout: String::new(),
    };
    // Each of three tries.
    let rule = Rule::on("nft", fails).subcommand("-f").at(At::Before).times(3);
    node.script(&Script::new().rule(rule)).unwrap();
    let accepted = adopt(&fleet, json!({"vmid": BY_HAND, "node_name": "pve1"})).await;
    let operation = accepted["operation_id"].as_str().unwrap();
    let ended = fleet.client.operation_end(operation, PATIENCE).await.unwrap();
    assert_eq!(ended["state"], "undone", "{ended:#}\n{}", fleet.logs());
    assert_eq!(node.hits().unwrap()[0].acted, 3);
    let app = status(&fleet, &accepted["id"], "error").await;
    assert!(
        app["status_reason"].as_str().unwrap().contains("publish failed"),
        "{app:#}"
    );
    assert!(is_running(node, BY_HAND) && record(node, BY_HAND).is_none());
    assert_eq!(conf(node, BY_HAND), before);
    assert_promises(&fleet, &[BY_HAND]).await;

    node.script(&Script::new()).unwrap();
    let second = adopt(&fleet, json!({"vmid": BY_HAND, "node_name": "pve1"})).await;
    fleet.done(&second).await.unwrap();
    let path = format!("/api/apps/{}", accepted["id"].as_str().unwrap());
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    fleet.done(&deleted).await.unwrap();
    status(&fleet, &second["id"], "running").await;
    assert_eq!(
        record(node, BY_HAND).unwrap()["app"],
        second["id"],
        "the failed one takes nothing of the other's with it"
    );
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_changed_and_what_waits_is_told_until_a_restart() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let node = &fleet.nodes[0];
    let app = fleet.deploy("nginx", "changing").await.unwrap();
    let (id, vmid) = (&app["id"], u32::try_from(app["lxc_id"].as_u64().unwrap()).unwrap());
    let disk_gb = app["config"]["disk_gb"].as_u64().unwrap_or(20);
    let line = |key: &str| {
        let text = conf(node, vmid);
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}: ")).map(str::to_owned));
        found.unwrap_or_else(|| panic!("no {key} in {text}"))
    };
    let title = |name: &str| {
        node.root()
            .join(format!("var/lib/lxc/{vmid}/files/var/lib/proximity/recipe/env/{name}"))
    };
    let read = |name: &str| std::fs::read_to_string(title(name)).unwrap();

    let asked = json!({"config": {"memory_mb": 640, "cpu_cores": 1, "swap_mb": 64, "disk_gb": disk_gb + 2}, "environment": {"SITE_TITLE": "Changed", "API_TOKEN": "very-secret-token"}});
    let accepted = patch(&fleet, id, asked, 202).await;
    assert_eq!(accepted["status"], "updating");
    fleet.done(&accepted).await.unwrap();
    let after = status(&fleet, id, "running").await;
    assert_eq!(
        (line("memory"), line("cores"), line("swap")),
        ("640".into(), "1".into(), "64".into())
    );
    assert!(
        line("rootfs").contains(&format!("size={}G", disk_gb + 2)),
        "{}",
        line("rootfs")
    );
    assert_eq!(
        (read("SITE_TITLE"), read("API_TOKEN")),
        ("Changed".into(), "very-secret-token".into())
    );
    assert_eq!(after["config"]["memory_mb"], 640);
    assert_eq!(
        (
            &after["environment"]["SITE_TITLE"],
            after["environment"].get("API_TOKEN")
        ),
        (&json!("Changed"), None)
    );
    assert_eq!(after["pending_restart"], json!([]));
    assert!(!log(&fleet, id).await.contains("very-secret-token"));
    let ran = std::fs::read_to_string(node.root().join(format!("var/lib/lxc/{vmid}/exec.log"))).unwrap();
    assert!(!ran.contains("very-secret-token"));
    assert_eq!(
        ran.lines().filter(|line| line.ends_with("\"install\"]")).count(),
        2,
        "installed once, told its new values once: {ran}"
    );

    // Something that an operator has queued by hand waits for a restart; the next change finds it, a restart puts it into force.
    let id_text = vmid.to_string();
    node.tool("pct", &["set", &id_text, "--features", "nesting=1,keyctl=1"])
        .unwrap();
    fleet
        .done(&patch(&fleet, id, json!({"config": {"memory_mb": 512}}), 202).await)
        .await
        .unwrap();
    assert_eq!(
        status(&fleet, id, "running").await["pending_restart"],
        json!(["features"])
    );
    assert_eq!(line("features"), "nesting=1");
    act(&fleet, id, "restart").await;
    assert_eq!(status(&fleet, id, "running").await["pending_restart"], json!([]));
    assert_eq!(
        line("features"),
        "keyctl=1,nesting=1"
            .to_owned()
            .replace("keyctl=1,nesting=1", "nesting=1,keyctl=1")
    );

    // A tool that says success and did nothing is found out, and what was changed before it is brought back.
    let nothing = Fault::Fail {
        exit: 0,
        stderr: String::new(),
        stdout: String::new(),
    };
    let rule = Rule::on("pct", nothing).subcommand("resize").at(At::Before);
    node.script(&Script::new().rule(rule)).unwrap();
    let asked = json!({"config": {"memory_mb": 768, "disk_gb": disk_gb + 3}, "environment": {"SITE_TITLE": "Never", "API_TOKEN": null}});
    let accepted = patch(&fleet, id, asked, 202).await;
    let ended = fleet
        .client
        .operation_end(accepted["operation_id"].as_str().unwrap(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(ended["state"], "undone", "{ended:#}\n{}", fleet.logs());
    assert!(
        ended["reason"].as_str().unwrap().contains("as large as before"),
        "{ended:#}"
    );
    assert_eq!(node.hits().unwrap()[0].acted, 3);
    let after = status(&fleet, id, "running").await;
    assert_eq!(
        (line("memory"), &after["config"]["memory_mb"]),
        ("512".into(), &json!(512))
    );
    assert_eq!(
        (read("SITE_TITLE"), read("API_TOKEN")),
        ("Changed".into(), "very-secret-token".into())
    );
    node.script(&Script::new()).unwrap();

    // A value that goes takes its file with it.
    fleet
        .done(&patch(&fleet, id, json!({"environment": {"API_TOKEN": null}}), 202).await)
        .await
        .unwrap();
    assert!(!title("API_TOKEN").exists());
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_is_cancelled_leaves_nothing() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let go = fleet.folder().join("create.go");
    let rule = Rule::on("pct", Fault::PauseUntil(go.clone()))
        .subcommand("create")
        .at(At::Middle)
        .times(1);
    fleet.nodes[0].script(&Script::new().rule(rule)).unwrap();
    let created = fleet.client.create_app("nginx", "cancelled").await.unwrap();
    until("pct create is in the middle", PATIENCE, async || {
        Ok(go.with_extension("go.reached").exists().then_some(()))
    })
    .await
    .unwrap();
    let operation = format!("/api/operations/{}", created["operation_id"].as_str().unwrap());
    let cancel = format!("{operation}/cancel");
    let asked = fleet
        .client
        .post(&cancel, &json!({}))
        .await
        .unwrap()
        .expect(202)
        .unwrap();
    assert_eq!(asked["cancel_requested"], true);
    // A tool that acts is not broken off: its end is waited for.
    std::fs::write(&go, "").unwrap();
    let ended = fleet
        .client
        .operation_end(created["operation_id"].as_str().unwrap(), PATIENCE)
        .await
        .unwrap();
    assert_eq!(
        (&ended["state"], &ended["reason"]),
        (&json!("undone"), &json!("cancelled")),
        "{ended:#}"
    );
    let refusal = fleet
        .client
        .post(&cancel, &json!({}))
        .await
        .unwrap()
        .refusal(409)
        .unwrap();
    assert!(refusal.contains("taken back already"), "{refusal}");
    let left = fleet.nodes[0].files().read().unwrap();
    assert!(
        left.containers.is_empty() && left.records.is_empty() && left.volumes.is_empty(),
        "{left:?}"
    );
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

/// What happens behind the system's back is said, and nothing of others is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_removed_by_hand_is_told_and_nothing_else_is_touched() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let node = &fleet.nodes[0];
    made_by_hand(node, BY_HAND, "others");
    let others = conf(node, BY_HAND);
    let app = fleet.deploy("nginx", "removed").await.unwrap();
    let kept = fleet.deploy("nginx", "kept").await.unwrap();
    let (id, vmid) = (&app["id"], app["lxc_id"].to_string());
    node.tool("pct", &["stop", &vmid]).unwrap();
    node.tool("pct", &["destroy", &vmid]).unwrap();
    let told = status(&fleet, id, "error").await;
    assert!(
        told["status_reason"].as_str().unwrap().contains("no longer on pve1"),
        "{told:#}"
    );
    assert!(page(kept["url"].as_str().unwrap()).await.is_some());
    assert_eq!((conf(node, BY_HAND), is_running(node, BY_HAND)), (others, true));
    let path = format!("/api/apps/{}", id.as_str().unwrap());
    let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
    fleet.done(&deleted).await.unwrap();
    assert_promises(&fleet, &[BY_HAND]).await;
    fleet.stop().await.unwrap();
}
