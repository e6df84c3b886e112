//! Containers that somebody else made: found, adopted, served, let go, destroyed.

use super::{BY_HAND, act, assert_promises, conf, conf_path, is_running, log, made_by_hand, patch, record, status};
use proximity_tests::{
    api::page,
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

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

/// Who is killed while the port of a container is being opened or closed.
async fn killed_at_the_ports(fleet: &mut Fleet, go: &Path, coordinator: bool, agent: bool) {
    let mark = go.with_extension("go.reached");
    until("nft is at work", PATIENCE, async || Ok(mark.exists().then_some(())))
        .await
        .unwrap();
    if coordinator {
        fleet.kill_coordinator().unwrap();
    }
    if agent {
        fleet.nodes[0].kill_agent().unwrap();
    }
    std::fs::write(go, "").unwrap();
    if agent {
        fleet.nodes[0].start_agent().unwrap();
    }
    if coordinator {
        fleet.start_coordinator().await.unwrap();
    }
}

/// Adoption and its end call no tool of Proxmox's; what they change is the record and the port.
#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_and_its_end_survive_the_death_of_either_side() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    made_by_hand(&fleet.nodes[0], BY_HAND, "by-hand");
    let before = conf(&fleet.nodes[0], BY_HAND);
    let policy = fleet.nodes[0].policy();
    std::fs::create_dir_all(policy.parent().unwrap()).unwrap();
    std::fs::write(&policy, "adoption = \"any\"\n").unwrap();
    for (coordinator, agent) in [(true, false), (false, true), (true, true)] {
        let hold = |fleet: &Fleet, what: &str| {
            let go = fleet.folder().join(format!("{what}-{coordinator}-{agent}.go"));
            let rule = Rule::on("nft", Fault::PauseUntil(go.clone()))
                .subcommand("-f")
                .at(At::Before);
            fleet.nodes[0].script(&Script::new().rule(rule.times(1))).unwrap();
            go
        };
        let go = hold(&fleet, "adopt");
        let accepted = adopt(&fleet, json!({"vmid": BY_HAND, "node_name": "pve1"})).await;
        killed_at_the_ports(&mut fleet, &go, coordinator, agent).await;
        fleet
            .done(&accepted)
            .await
            .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
        let app = status(&fleet, &accepted["id"], "running").await;
        assert!(page(app["url"].as_str().unwrap()).await.is_some(), "{app:#}");
        assert_eq!(record(&fleet.nodes[0], BY_HAND).unwrap()["app"], app["id"]);

        let go = hold(&fleet, "forget");
        let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
        let deleted = fleet.client.delete(&path).await.unwrap().expect(202).unwrap();
        killed_at_the_ports(&mut fleet, &go, coordinator, agent).await;
        fleet
            .done(&deleted)
            .await
            .unwrap_or_else(|error| panic!("{error:#}\n{}", fleet.logs()));
        assert!(page(app["url"].as_str().unwrap()).await.is_none());
        assert!(is_running(&fleet.nodes[0], BY_HAND) && record(&fleet.nodes[0], BY_HAND).is_none());
        assert_eq!(conf(&fleet.nodes[0], BY_HAND), before);
        assert_promises(&fleet, &[BY_HAND]).await;
    }
    fleet.stop().await.unwrap();
}
