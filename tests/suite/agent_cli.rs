//! What an operator does on the node: `status`, `doctor`, `policy check`, `leave`.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    fleet::{Fleet, FleetSpec, LoneNode, SimNode},
    impostor::{Impostor, hospitable},
    process::{PATIENCE, until},
};
use serde_json::Value;
use std::process::{Output, Stdio};

fn run(node: &SimNode, args: &[&str]) -> Output {
    tokio::task::block_in_place(|| node.agent_cli(args).stdin(Stdio::null()).output()).unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code, and all findings.
fn doctor(node: &SimNode) -> (i32, Vec<Value>) {
    let output = run(node, &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", out(&output), err(&output)));
    let findings = report["findings"].as_array().unwrap().clone();
    (output.status.code().unwrap(), findings)
}

fn failed(findings: &[Value]) -> Vec<&Value> {
    findings.iter().filter(|finding| finding["level"] == "fail").collect()
}

async fn linked(node: &SimNode) {
    until("linked", PATIENCE, async || {
        let report: Value = serde_json::from_slice(&run(node, &["status", "--json"]).stdout)?;
        Ok((report["agent"]["link"]["state"] == "connected").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_what_is_broken_and_nothing_else() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let app = fleet.deploy("nginx", "my-nginx").await.unwrap();
    linked(&fleet.nodes[0]).await;
    let address = fleet.coordinator.as_ref().unwrap().quic.to_string();

    let (code, findings) = doctor(&fleet.nodes[0]);
    assert_eq!((code, failed(&findings)), (0, vec![]), "{findings:#?}");
    for check in [
        "coordinator",
        "tools",
        "pve_version",
        "cluster",
        "storage",
        "published_ports",
        "packet_filter",
        "ip_forward",
        "cgroups",
        "certificate",
        "disk",
        "policy",
        "state_folder",
        "agent",
    ] {
        assert!(
            findings.iter().any(|finding| finding["check"] == check),
            "{check} was not looked at"
        );
    }
    let of = |findings: &[Value], check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check).unwrap();
        (
            found["level"].as_str().unwrap().to_owned(),
            found["says"].as_str().unwrap().to_owned(),
        )
    };
    assert!(of(&findings, "coordinator").1.contains(&address), "{findings:#?}");
    assert!(of(&findings, "agent").1.contains("linked to"));
    // The look did not cost the agent its own link.
    let status: Value = serde_json::from_slice(&run(&fleet.nodes[0], &["status", "--json"]).stdout).unwrap();
    assert_eq!(status["agent"]["link"]["state"], "connected");
    let words = out(&run(&fleet.nodes[0], &["doctor"]));
    assert!(words.contains("0 failed"), "{words}");

    std::fs::create_dir_all(fleet.nodes[0].policy().parent().unwrap()).unwrap();
    std::fs::write(fleet.nodes[0].policy(), "ports = [2000, 1000]\n").unwrap();
    let (code, findings) = doctor(&fleet.nodes[0]);
    assert_eq!((code, failed(&findings).len()), (31, 1), "{findings:#?}");
    assert!(of(&findings, "policy").1.contains("line 1, key ports"));
    std::fs::remove_file(fleet.nodes[0].policy()).unwrap();

    // Without an agent nobody sets the table again.
    fleet.nodes[0].stop_agent().await.unwrap();
    tokio::task::block_in_place(|| nft(&fleet.nodes[0], &["flush", "ruleset"]));
    let (code, findings) = doctor(&fleet.nodes[0]);
    assert_eq!((code, failed(&findings).len()), (31, 1), "{findings:#?}");
    let port = app["public_port"]
        .as_u64()
        .or_else(|| app["ports"][0]["public_port"].as_u64());
    let says = of(&findings, "published_ports").1;
    assert!(port.is_none_or(|port| says.contains(&port.to_string())), "{says}");
    assert_eq!(of(&findings, "agent").0, "warn");
    fleet.nodes[0].start_agent().unwrap();
    linked(&fleet.nodes[0]).await;
    assert_eq!(doctor(&fleet.nodes[0]).0, 0);

    fleet.stop_coordinator().await.unwrap();
    let (code, findings) = doctor(&fleet.nodes[0]);
    assert_eq!((code, failed(&findings).len()), (31, 1), "{findings:#?}");
    let (level, says) = of(&findings, "coordinator");
    assert!(level == "fail" && says.contains(&address), "{says}");
    fleet.stop().await.unwrap();
}

fn nft(node: &SimNode, args: &[&str]) {
    let status = std::process::Command::new(node.root().join("usr/sbin/nft"))
        .args(args)
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "nft {args:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_before_joining_says_what_to_do_and_makes_nothing() {
    let lone = LoneNode::create().unwrap();
    let there = lone.node.state().exists();
    let (code, findings) = doctor(&lone.node);
    let failed = failed(&findings);
    assert_eq!((code, failed.len()), (31, 1), "{findings:#?}");
    assert!(failed[0]["todo"].as_str().unwrap().contains("proximity-agent join"));
    assert_eq!(lone.node.state().exists(), there);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_check_says_what_is_allowed_or_where_the_mistake_is() {
    let lone = LoneNode::create().unwrap();
    let node = &lone.node;
    let good = run(node, &["policy", "check"]);
    assert!(
        good.status.success() && out(&good).contains("verbs: all"),
        "{}",
        err(&good)
    );
    for words in [
        "What each verb may do here:",
        "inventory           may look at what is on the node",
        "ensure_created      may make an unprivileged container: VMID 100 to 999999999, storages: all, bridges: all",
    ] {
        assert!(out(&good).contains(words), "{}", out(&good));
    }
    let file = node.root().join("my-policy.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(node, &["policy", "check", file.to_str().unwrap()])
    };
    let narrow = check("vmid = [5000, 5999]\nstorages = ['local']\n");
    assert!(
        narrow.status.success() && out(&narrow).contains("VMID 5000 to 5999"),
        "{}",
        out(&narrow)
    );
    let denied = check("deny_verbs = ['ensure_destroyed']\nports = [8000, 8999]\n");
    assert!(out(&denied).contains("ensure_destroyed    denied"), "{}", out(&denied));
    assert!(out(&denied).contains("ports 8000 to 8999"), "{}", out(&denied));
    for (text, words, allowed) in [
        ("\nvmid = 'x'\n", "line 2, key vmid", "such as [5000, 5999]"),
        ("ports = [9, 8]\n", "line 1, key ports", "from 1 to 65535"),
        ("deny_verbs = ['rm']\n", "\"rm\"", "the verbs are inventory"),
        ("vmids = [1, 2]\n", "line 1", "The keys are deny_verbs, vmid"),
        ("\n\nadoption = 'some'\n", "line 3, key adoption", "\"none\", \"any\""),
    ] {
        let wrong = check(text);
        assert_eq!(wrong.status.code(), Some(32));
        assert!(
            err(&wrong).contains(words) && err(&wrong).contains(allowed) && err(&wrong).contains("my-policy.toml"),
            "{}",
            err(&wrong)
        );
    }
    let missing = run(node, &["policy", "check", "/nonexistent/policy.toml"]);
    assert_eq!(missing.status.code(), Some(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_is_and_scripts_can_read_it() {
    let mut lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let not_yet = run(&lone.node, &["status", "--json"]);
    assert_eq!(not_yet.status.code(), Some(30), "{}", err(&not_yet));
    let report: Value = serde_json::from_slice(&not_yet.stdout).unwrap();
    assert_eq!((&report["joined"], &report["running"]), (&false.into(), &false.into()));
    assert!(err(&not_yet).contains("proximity-agent join"), "{}", err(&not_yet));

    let token = impostor.token().unwrap();
    tokio::task::block_in_place(|| lone.node.join(&token)).unwrap();
    let joined = run(&lone.node, &["status"]);
    assert!(joined.status.success(), "{}", err(&joined));
    for words in [
        &impostor.node().to_string(),
        &impostor.address().unwrap(),
        "not running",
    ] {
        assert!(out(&joined).contains(words), "{}", out(&joined));
    }
    lone.node.start_agent().unwrap();
    let running = until("it runs", PATIENCE, async || {
        let report: Value = serde_json::from_slice(&run(&lone.node, &["status", "--json"]).stdout)?;
        Ok((report["running"] == true && !report["agent"].is_null()).then_some(report))
    })
    .await
    .unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&running), ["agent", "identity", "joined", "running"]);
    assert_eq!(
        keys(&running["identity"]),
        [
            "certificate_not_after",
            "certificate_not_before",
            "coordinator_addresses",
            "node_id"
        ]
    );
    for key in [
        "pid",
        "agent_version",
        "link",
        "link_since",
        "problem",
        "open_jobs",
        "published",
    ] {
        assert!(running["agent"].get(key).is_some(), "{key} is not in {running:#}");
    }
    lone.node.stop_agent().await.unwrap();
    let stopped: Value = serde_json::from_slice(&run(&lone.node, &["status", "--json"]).stdout).unwrap();
    assert_eq!(
        (&stopped["running"], &stopped["agent"]["link"]["state"]),
        (&false.into(), &"stopped".into())
    );
}

struct Leaving {
    fleet: Fleet,
}

impl Leaving {
    async fn new() -> Self {
        let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
        fleet.deploy("nginx", "my-nginx").await.unwrap();
        Self { fleet }
    }

    fn node(&self) -> &SimNode {
        &self.fleet.nodes[0]
    }

    fn leave(&self, more: &[&str]) -> Output {
        run(self.node(), &[&["leave"], more].concat())
    }

    fn joined(&self) -> bool {
        self.node().state().join("identity/identity.json").exists()
    }

    fn table(&self) -> String {
        std::fs::read_to_string(self.node().root().join("run/nft/ruleset.json")).unwrap()
    }

    /// Configurations of containers, and the records of whose they are.
    fn containers(&self) -> Vec<(std::ffi::OsString, String)> {
        let mut all = Vec::new();
        for folder in ["etc/pve/nodes/pve1/lxc", "etc/pve/priv/proximity"] {
            let entries = std::fs::read_dir(self.node().root().join(folder)).unwrap();
            all.extend(entries.map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name(), std::fs::read_to_string(entry.path()).unwrap())
            }));
        }
        assert_eq!(all.len(), 2);
        all
    }

    fn rest(&self) -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(self.node().state()).unwrap();
        let mut rest: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        rest.sort();
        rest
    }

    async fn status(&self) -> Value {
        let nodes = self.fleet.client.get("/api/proxmox/nodes").await.unwrap();
        nodes.expect(200).unwrap()[0]["status"].clone()
    }

    async fn come_back(&self) {
        let wanted = serde_json::json!({"node_name": "pve1"});
        let token = self.fleet.join_token(&wanted).await.unwrap();
        let back = tokio::task::block_in_place(|| self.node().join_output(&token, &["--take-over"])).unwrap();
        assert!(back.status.success(), "{}", err(&back));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_refuses_what_would_harm() {
    let mut stage = Leaving::new().await;
    let running = stage.leave(&["--yes", "--keep-apps"]);
    assert_eq!(running.status.code(), Some(6), "{}", err(&running));
    assert!(err(&running).contains("systemctl stop"), "{}", err(&running));
    stage.fleet.nodes[0].stop_agent().await.unwrap();
    let apps = stage.leave(&["--yes"]);
    assert_eq!(apps.status.code(), Some(33), "{}", err(&apps));
    assert!(
        err(&apps).contains("nginx-") && err(&apps).contains("--keep-apps"),
        "{}",
        err(&apps)
    );
    let unasked = stage.leave(&["--keep-apps"]);
    assert_eq!(unasked.status.code(), Some(2), "{}", err(&unasked));
    assert!(stage.joined() && stage.node().state().join("journal").exists());
    assert_eq!(stage.status().await, "offline");

    // A coordinator that does not answer is not told, and then nothing goes.
    stage.fleet.stop_coordinator().await.unwrap();
    let before = (stage.containers(), stage.table());
    let untold = stage.leave(&["--yes", "--keep-apps"]);
    assert_eq!(untold.status.code(), Some(46), "{}", err(&untold));
    for words in [
        "could not be told",
        "nothing takes UDP",
        "--offline",
        "Nothing was removed",
    ] {
        assert!(err(&untold).contains(words), "{words:?}: {}", err(&untold));
    }
    assert!(stage.joined());
    assert_eq!((stage.containers(), stage.table()), before);
    let offline = stage.leave(&["--yes", "--keep-apps", "--offline"]);
    assert!(offline.status.success(), "{}", err(&offline));
    assert!(err(&offline).contains("/revoke"), "{}", err(&offline));
    assert!(!stage.joined());
    stage.fleet.start_coordinator().await.unwrap();
    assert_eq!(stage.status().await, "offline", "nobody told it");
    stage.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_tells_the_coordinator_and_touches_no_container() {
    let mut stage = Leaving::new().await;
    stage.fleet.nodes[0].stop_agent().await.unwrap();
    let before = stage.containers();
    assert!(stage.table().contains("\"proximity\""));
    let left = stage.leave(&["--yes", "--keep-apps"]);
    assert!(left.status.success(), "{}", err(&left));
    for words in ["is revoked there", "1 app(s)", "--take-over"] {
        assert!(err(&left).contains(words), "{words:?}: {}", err(&left));
    }
    assert_eq!(stage.status().await, "revoked");
    let sql = "SELECT COUNT(*) FROM audit WHERE action = 'node.leave' AND outcome = 'ok'";
    assert_eq!(stage.fleet.registry().await.unwrap().count(sql).await.unwrap(), 1);
    assert_eq!(stage.containers(), before);
    assert!(!stage.table().contains("\"proximity\""), "{}", stage.table());
    assert_eq!(stage.rest(), ["lock"]);
    assert_eq!(stage.leave(&["--yes"]).status.code(), Some(30), "twice");

    // The node comes back by taking its record over; its port is set again, and this time it stays in force.
    stage.come_back().await;
    stage.fleet.nodes[0].start_agent().unwrap();
    until("the port stands again", PATIENCE, async || {
        Ok(stage.table().contains("\"proximity\"").then_some(()))
    })
    .await
    .unwrap();
    stage.fleet.nodes[0].stop_agent().await.unwrap();
    let table = stage.table();
    let kept = stage.leave(&["--yes", "--keep-apps", "--keep-ports"]);
    assert!(kept.status.success(), "{}", err(&kept));
    assert_eq!(stage.table(), table);
    assert_eq!(stage.rest(), ["lock", "published.json"]);
    assert_eq!(stage.containers(), before);
    stage.fleet.stop().await.unwrap();
}
