//! Today's agent on the state folder of an older one: identity, journal, published ports, results of tools.

use super::{folder, recording};
use proximity_protocol::{
    codec,
    command::{Command, Outcome, Verb},
    ids::NodeId,
};
use proximity_tests::{
    authority::Authority,
    fleet::LoneNode,
    impostor::{Impostor, Link},
    process::PATIENCE,
    recording::Side,
};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Puts the recorded folder where the agent's is, with the names of this run.
fn lay(from: &Path, to: &Path, names: &[(&str, String)]) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            lay(&entry.path(), &target, names);
            continue;
        }
        let bytes = match String::from_utf8(fs::read(entry.path()).unwrap()) {
            Ok(text) => names
                .iter()
                .fold(text, |text, (name, now)| text.replace(name, now))
                .into_bytes(),
            Err(binary) => binary.into_bytes(),
        };
        fs::write(&target, bytes).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o600)).unwrap();
    }
}

struct Old {
    node: LoneNode,
    impostor: Impostor,
    id: NodeId,
}

/// A node on which the older agent ran, and the coordinator that it had joined.
fn old() -> Old {
    let node = LoneNode::create().unwrap();
    let text = fs::read(folder().join("state/identity/identity.json")).unwrap();
    let identity: Value = serde_json::from_slice(&text).unwrap();
    let id = serde_json::from_value(identity["node"].clone()).unwrap();
    let impostor = Impostor::listen_as(Authority::load(&folder()).unwrap(), id)
        .unwrap()
        .with_epoch(open_command().epoch.0);
    let names = [
        ("@ROOT@", node.node.root().display().to_string()),
        ("@COORDINATOR@", impostor.address().unwrap()),
    ];
    lay(&folder().join("state"), &node.node.state(), &names);
    Old { node, impostor, id }
}

impl Old {
    async fn link(&self) -> Link {
        tokio::time::timeout(PATIENCE, self.impostor.link())
            .await
            .unwrap_or_else(|_| panic!("no link\n{}", self.node.node.agent_log()))
            .unwrap()
    }
}

/// The command whose job is open in the recorded journal.
fn open_command() -> Command {
    let recording = recording();
    let part = recording.part("jobs that stay open").unwrap();
    let commands = part.frames.iter().filter(|frame| frame.by == Side::Coordinator);
    let mut commands = commands.filter_map(|frame| frame.as_message::<Command>());
    commands
        .rfind(|command| matches!(command.verb, Verb::EnsureCreated(_)))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_open_job_and_published_port_live_on() {
    let mut old = old();
    let status = tokio::task::block_in_place(|| old.node.node.agent_cli(&["status", "--json"]).output()).unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["identity"]["node_id"], old.id.to_string());
    assert_eq!(status["agent"]["agent_version"], "0.1.0", "{status}");

    old.node.node.start_agent().unwrap();
    let link = old.link().await;
    let command = open_command();
    let open: Vec<_> = link
        .hello
        .open_jobs
        .iter()
        .map(|job| (job.operation, job.step.clone()))
        .collect();
    assert_eq!(open, [(command.operation, command.step.clone())]);
    assert!(link.hello.epoch.0 > 0, "the newest epoch is known");
    // The port stands in the kernel's table although its container is not on this node.
    let table = fs::read_to_string(old.node.node.root().join("run/nft/ruleset.json")).unwrap();
    let published: Value = serde_json::from_slice(&fs::read(folder().join("state/published.json")).unwrap()).unwrap();
    let port = &published["ports"][0];
    assert!(
        table.contains(&port["public_port"].to_string()) && table.contains(port["address"].as_str().unwrap()),
        "{table}"
    );
    // The tool of then did not live to tell its end: its folder is understood, and nothing is guessed. The next try makes the container.
    let bytes = codec::encode(1, &command).unwrap();
    let end = tokio::time::timeout(PATIENCE, link.raw(&bytes)).await.unwrap().unwrap();
    let fault = end.unwrap_err();
    assert!(
        fault.kind.retryable() && fault.message.contains("pct create 101"),
        "{fault:?}"
    );
    let mut again = command.clone();
    again.step.attempt += 1;
    let bytes = codec::encode(1, &again).unwrap();
    let end = tokio::time::timeout(PATIENCE, link.raw(&bytes)).await.unwrap().unwrap();
    assert!(matches!(end, Ok(Outcome::Created { .. })), "{end:?}");
    old.node.node.stop_agent().await.unwrap();
    assert!(old.node.node.root().join("etc/pve/nodes/pve1/lxc/101.conf").exists());
}

/// The other way round: an agent of today on what a later one has left says so and touches nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_agent_is_left_alone() {
    let old = old();
    let state = old.node.node.state();
    let run = || tokio::task::block_in_place(|| old.node.node.agent_cli(&["run"]).output()).unwrap();
    for (file, content, code, words) in [
        ("format", "2\n", 4, "newer agent"),
        ("journal", "PXJOURN2", 7, "run the version that wrote it"),
        ("identity/identity.json", r#"{"format":2}"#, 4, "newer agent"),
    ] {
        let before = fs::read(state.join(file)).ok();
        fs::write(state.join(file), content).unwrap();
        let ended = run();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{file}: {said}");
        assert!(said.contains(words), "{file}: {said}");
        assert_eq!(fs::read_to_string(state.join(file)).unwrap(), content);
        match before {
            Some(before) => fs::write(state.join(file), before).unwrap(),
            None => fs::remove_file(state.join(file)).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_not_committed_is_told_again() {
    let mut old = old();
    fs::copy(folder().join("journal.finished"), old.node.node.state().join("journal")).unwrap();
    old.node.node.start_agent().unwrap();
    let link = old.link().await;
    assert!(
        link.hello.open_jobs.len() == 1 && link.hello.open_jobs[0].finished,
        "{:?}",
        link.hello.open_jobs
    );
    let bytes = codec::encode(1, &open_command()).unwrap();
    let end = link.raw(&bytes).await.unwrap();
    let Ok(Outcome::Created { mac: Some(mac) }) = &end else {
        panic!("{end:?}");
    };
    let journal = String::from_utf8_lossy(&fs::read(folder().join("journal.finished")).unwrap()).into_owned();
    assert!(
        journal.contains(&mac.to_string()),
        "the recorded result, not another act"
    );
    assert!(!old.node.node.root().join("etc/pve/nodes/pve1/lxc/101.conf").exists());
    old.node.node.stop_agent().await.unwrap();
}
