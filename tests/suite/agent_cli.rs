//! What an operator does on the node: `doctor`, `policy check`, `leave`.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    fleet::{Fleet, FleetSpec, LoneNode, SimNode},
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
    for (text, words) in [
        ("\nvmid = 'x'\n", "line 2, key vmid"),
        ("ports = [9, 8]\n", "line 1, key ports"),
        ("deny_verbs = ['rm']\n", "\"rm\""),
    ] {
        let wrong = check(text);
        assert_eq!(wrong.status.code(), Some(32));
        assert!(
            err(&wrong).contains(words) && err(&wrong).contains("my-policy.toml"),
            "{}",
            err(&wrong)
        );
    }
    let missing = run(node, &["policy", "check", "/nonexistent/policy.toml"]);
    assert_eq!(missing.status.code(), Some(32));
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_refuses_what_would_harm_and_touches_no_container() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    fleet.deploy("nginx", "my-nginx").await.unwrap();
    let node = &mut fleet.nodes[0];
    let joined = |node: &SimNode| node.state().join("identity/identity.json").exists();
    let conf = node.root().join("etc/pve/nodes/pve1/lxc");
    let containers = |node: &SimNode| {
        let entries = std::fs::read_dir(&conf).unwrap().map(|entry| entry.unwrap());
        let texts = entries.map(|entry| (entry.file_name(), std::fs::read_to_string(entry.path()).unwrap()));
        let table = node.root().join("run/nft/ruleset.json");
        (texts.collect::<Vec<_>>(), std::fs::read_to_string(table).unwrap())
    };

    let running = run(node, &["leave", "--yes", "--keep-apps"]);
    assert_eq!(running.status.code(), Some(6), "{}", err(&running));
    assert!(err(&running).contains("systemctl disable --now"), "{}", err(&running));
    node.stop_agent().await.unwrap();
    let apps = run(node, &["leave", "--yes"]);
    assert_eq!(apps.status.code(), Some(33), "{}", err(&apps));
    assert!(err(&apps).contains("--keep-apps"), "{}", err(&apps));
    let unasked = run(node, &["leave", "--keep-apps"]);
    assert_eq!(unasked.status.code(), Some(2), "{}", err(&unasked));
    assert!(joined(node) && node.state().join("journal").exists());

    let before = containers(node);
    let left = run(node, &["leave", "--yes", "--keep-apps"]);
    assert!(left.status.success(), "{}", err(&left));
    assert!(err(&left).contains("/revoke"), "{}", err(&left));
    assert_eq!(containers(node), before);
    let entries = std::fs::read_dir(node.state()).unwrap();
    let mut rest: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    rest.sort();
    assert_eq!(rest, ["lock", "published.json"]);
    assert_eq!(run(node, &["leave", "--yes"]).status.code(), Some(30), "twice");

    // The node comes back by taking its record over, and finds its port in force.
    let token = fleet
        .join_token(&serde_json::json!({"node_name": "pve1"}))
        .await
        .unwrap();
    let node = &mut fleet.nodes[0];
    let back = tokio::task::block_in_place(|| node.join_output(&token, &["--take-over"])).unwrap();
    assert!(back.status.success(), "{}", err(&back));
    let gone = run(node, &["leave", "--yes", "--keep-apps", "--unpublish"]);
    assert!(gone.status.success(), "{}", err(&gone));
    let (conf_after, table) = containers(node);
    assert_eq!(conf_after, before.0);
    assert!(!table.contains("\"proximity\""), "{table}");
    assert!(!node.state().join("published.json").exists());
    fleet.stop().await.unwrap();
}
