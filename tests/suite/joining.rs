//! `join` with each wrong thing: words of its own, what to do, and an exit code of its own. Nothing is stored, and no secret goes to whom it is not for.

#![allow(clippy::unwrap_used)]

#[path = "joining/clocks.rs"]
mod clocks;
#[path = "joining/machine.rs"]
mod machine;
#[path = "joining/network.rs"]
mod network;
#[path = "joining/replacing.rs"]
mod replacing;

use proximity_agent::cli::exit;
use proximity_tests::{
    fleet::{LoneNode, SimNode},
    impostor::{Impostor, hospitable},
};
use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// A join by a token file, not run yet.
fn join(node: &SimNode, token: &str, more: &[&str]) -> Command {
    let file = token_file(node, token);
    let mut command = node.agent_cli(&["join", "--token-file"]);
    command.arg(file).args(more).stdin(Stdio::null());
    command
}

fn token_file(node: &SimNode, token: &str) -> PathBuf {
    let file = node.root().join("join.token");
    std::fs::write(&file, token).unwrap();
    file
}

fn run(mut command: Command) -> Output {
    tokio::task::block_in_place(|| command.output()).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It failed with that code, said all these words, and stored nothing.
#[track_caller]
fn failed(node: &SimNode, output: &Output, code: u8, words: &[&str]) {
    let text = said(output);
    assert_eq!(output.status.code(), Some(code.into()), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    assert!(
        !node.state().join("identity/identity.json").exists(),
        "an identity is stored"
    );
}

fn joined(node: &SimNode) -> bool {
    node.state().join("identity/identity.json").exists()
}

/// Every failure in the tests of this file has another code.
#[test]
fn the_codes_of_wrong_things_differ() {
    let codes = [
        exit::NO_NETWORK,
        exit::NO_NAME,
        exit::PORT_CLOSED,
        exit::SILENT,
        exit::UDP_BLOCKED,
        exit::WRONG_PIN,
        exit::CLOCKS_DIFFER,
        exit::NAME_TAKEN,
        exit::ALREADY_JOINED,
        exit::NOT_ROOT,
        exit::NO_PROXMOX,
        exit::NO_TOOLS,
        exit::NO_QUORUM,
    ];
    let different: std::collections::BTreeSet<u8> = codes.into_iter().collect();
    assert_eq!(different.len(), codes.len());
    for code in codes {
        assert!(exit::CODES.iter().any(|(listed, _)| *listed == code), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_join_says_what_will_be_seen_allowed_and_proposed() {
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let output = run(join(&lone.node, &impostor.token().unwrap(), &[]));
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for words in [
        "The coordinator will see: node pve1 (standalone), Proxmox VE 8",
        "will allow: verbs: all",
        "storages local",
        "no network is proposed",
        "Joins the coordinator at 127.0.0.1:",
        "proximity-agent --config",
    ] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.starts_with("joined: pve1 is node "), "{stdout}");
    assert!(joined(&lone.node));
}
