//! `ca rotate`, `ca backup` and `ca restore` on the command line, beside a coordinator that is killed in every stage.

use super::{audited, node};
use proximity_tests::{
    fleet::{Fleet, FleetSpec},
    process::{PATIENCE, until},
};
use serde_json::{Value, json};

fn status(fleet: &Fleet) -> Value {
    serde_json::from_str(&fleet.coordinator_cli(&["ca", "status", "--json"]).unwrap()).unwrap()
}

async fn until_status(fleet: &Fleet, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let waited = until(what, PATIENCE, async || {
        last = status(fleet);
        Ok(so(&last).then(|| last.clone()))
    })
    .await;
    waited.unwrap_or_else(|error| panic!("{error:#}: {last:#}\n{}", fleet.logs()))
}

async fn killed(fleet: &mut Fleet) {
    fleet.kill_coordinator().unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.node_online("pve1").await.unwrap();
    fleet.node_online("pve2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_on_the_command_line_survives_kill_9_in_every_stage() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(2), |_| ()).await.unwrap();
    let ids = [
        node(&fleet, "pve1").await["id"].clone(),
        node(&fleet, "pve2").await["id"].clone(),
    ];
    let created = fleet.client.create_app("nginx", "through-it-all").await.unwrap();
    // Announced: one node is away, so that it stays so.
    fleet.nodes[1].kill_agent().unwrap();
    let said = fleet
        .coordinator_cli(&["ca", "rotate", "--overlap-days", "100", "--renew-within", "0"])
        .unwrap();
    assert!(said.contains("announced") && said.contains("pve2"), "{said}");
    let view = until_status(&fleet, "the node that runs has heard", |view| view["told"] == 1).await;
    assert_eq!(
        (&view["stage"], &view["untold"]),
        (&json!("announced"), &json!(["pve2"])),
        "{view:#}"
    );
    fleet.nodes[1].start_agent().unwrap();
    killed(&mut fleet).await;

    // The new root signs, and both renew.
    let view = until_status(&fleet, "everybody has followed", |view| view["renewed"] == 2).await;
    assert_eq!(view["stage"], "overlap", "{view:#}");
    assert!(
        view["next"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line.as_str().unwrap().contains("ca backup"))
    );
    killed(&mut fleet).await;
    assert_eq!(status(&fleet)["roots"], view["roots"]);
    // An agent starts in this stage.
    fleet.nodes[0].kill_agent().unwrap();
    fleet.nodes[0].start_agent().unwrap();
    fleet.node_online("pve1").await.unwrap();

    // The old root goes.
    let said = fleet.coordinator_cli(&["ca", "rotate", "--proceed"]).unwrap();
    assert!(said.contains("its key is destroyed"), "{said}");
    assert!(!fleet.state().join("ca/ca.key").exists());
    killed(&mut fleet).await;
    for (name, id) in ["pve1", "pve2"].iter().zip(&ids) {
        assert_eq!(node(&fleet, name).await["id"], *id);
    }
    fleet.done(&created).await.unwrap();
    for (action, actor) in [
        ("ca.announce", "command line"),
        ("ca.switch", "coordinator"),
        ("ca.retire", "command line"),
    ] {
        let actors: Vec<String> = audited(&fleet, action).await.into_iter().map(|row| row.1).collect();
        assert_eq!(actors, [actor], "{action}");
    }
    fleet.assert_promises().await.unwrap();
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_authority_is_restored_and_every_node_is_back() {
    let mut fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let words = fleet.folder().join("passphrase");
    std::fs::write(&words, "correct horse battery staple\n").unwrap();
    let file = fleet.folder().join("authority.backup");
    let (words, file) = (words.to_str().unwrap(), file.to_str().unwrap());
    let backup = ["ca", "backup", file, "--passphrase-file", words];
    fleet.coordinator_cli(&backup).unwrap();
    assert!(status(&fleet)["backed_up_at"].is_string());
    let again = fleet.coordinator_cli(&backup).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    assert_eq!(audited(&fleet, "ca.backup").await.len(), 1);

    let restore = ["ca", "restore", file, "--passphrase-file", words];
    let running = fleet.coordinator_cli(&restore).unwrap_err().to_string();
    assert!(running.contains("another coordinator runs on"), "{running}");
    fleet.stop_coordinator().await.unwrap();
    let there = fleet.coordinator_cli(&restore).unwrap_err().to_string();
    assert!(there.contains("move that folder away first"), "{there}");
    std::fs::remove_dir_all(fleet.state().join("ca")).unwrap();
    std::fs::write(words, "a guess\n").unwrap();
    let guessed = fleet.coordinator_cli(&restore).unwrap_err().to_string();
    assert!(guessed.contains("does not open with this passphrase"), "{guessed}");
    std::fs::write(words, "correct horse battery staple\n").unwrap();
    fleet.coordinator_cli(&restore).unwrap();
    fleet.start_coordinator().await.unwrap();
    fleet.node_online("pve1").await.unwrap();
    // A token of before works too: the key of its secret came back with the rest.
    fleet.deploy("nginx", "my-nginx").await.unwrap();
    fleet.stop().await.unwrap();
}
