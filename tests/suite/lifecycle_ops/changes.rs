//! What is changed of an app while it runs.

use super::{act, conf, log, patch, status};
use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::PATIENCE,
};
use pve_sim::{At, Fault, Rule, Script};
use serde_json::json;

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
