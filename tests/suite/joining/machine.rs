//! The machine is not fit: not root, no Proxmox VE, no tools, no quorum. And the token in the wrong place.

use super::{failed, hospitable, join, joined, run, said};
use proximity_agent::cli::exit;
use proximity_tests::{
    fleet::{Fleet, FleetSpec, LoneNode},
    impostor::Impostor,
};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Stdio,
};

#[tokio::test(flavor = "multi_thread")]
async fn not_root() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: join by somebody else than root: only root can become somebody else");
        return;
    }
    let lone = LoneNode::create().unwrap();
    // Whoever may enter the folder at all finds that the state is root's.
    let folder = lone.node.root().parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(lone.node.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let impostor = Impostor::listen().unwrap();
    let mut command = join(&lone.node, &impostor.token().unwrap(), &[]);
    // The executable may lie where nobody else gets at it.
    let copy = folder.join("proximity-agent");
    fs::copy(command.get_program(), &copy).unwrap();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = std::process::Command::new(copy);
    command.args(arguments).stdin(Stdio::null()).uid(65_534).gid(65_534);
    failed(&lone.node, &run(command), exit::NOT_ROOT, &["needs root", "sudo"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxmox_no_tools_no_quorum() {
    let lone = LoneNode::create().unwrap();
    let node = &lone.node;
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let token = impostor.token().unwrap();
    let etc_pve = node.root().join("etc/pve");
    let away = node.root().join("etc/pve.away");

    fs::rename(&etc_pve, &away).unwrap();
    failed(
        node,
        &run(join(node, &token, &[])),
        exit::NO_PROXMOX,
        &["there is no ", "no Proxmox VE node", "Join on each node itself"],
    );
    fs::rename(&away, &etc_pve).unwrap();

    // There, and not mounted: pve-cluster does not run.
    let members = fs::read_to_string(etc_pve.join(".members")).unwrap();
    fs::remove_file(etc_pve.join(".members")).unwrap();
    failed(node, &run(join(node, &token, &[])), exit::NODE, &["pve-cluster"]);
    fs::write(etc_pve.join(".members"), &members).unwrap();

    for (tool, package) in [("usr/bin/pct", "pve-container"), ("usr/sbin/nft", "nftables")] {
        let path = node.root().join(tool);
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        failed(
            node,
            &run(join(node, &token, &[])),
            exit::NO_TOOLS,
            &[tool, "install the package", package],
        );
        fs::rename(&aside, &path).unwrap();
    }

    let without = r#"{"nodename": "pve1", "version": 4, "cluster": {"name": "lab", "version": 3, "nodes": 3, "quorate": 0},
        "nodelist": {"pve1": {"id": 1, "online": 1, "ip": "192.0.2.1"}}}"#;
    fs::write(etc_pve.join(".members"), without).unwrap();
    failed(
        node,
        &run(join(node, &token, &[])),
        exit::NO_QUORUM,
        &["cluster lab has no quorum", "pvecm status", "token was not used"],
    );
    fs::write(etc_pve.join(".members"), &members).unwrap();

    let output = run(join(node, &token, &[]));
    assert!(output.status.success() && joined(node), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_on_the_command_line_is_refused_and_not_said_again() {
    let lone = LoneNode::create().unwrap();
    let token = Impostor::listen().unwrap().token().unwrap();
    let secret = &token[10..60];
    for words in [
        vec!["join", &token],
        vec!["join", "--token-file", &token],
        vec!["join", "-", &token],
        vec!["--config", &token, "join"],
        vec![token.as_str()],
    ] {
        let mut command = lone.node.agent_cli(&words);
        command.stdin(Stdio::null());
        let output = run(command);
        let everything = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
        assert!(!everything.contains(secret), "{everything}");
        failed(
            &lone.node,
            &output,
            exit::USAGE,
            &["--token-file", "token revoke", "every user"],
        );
    }
    let mut half = lone.node.agent_cli(&["join", "pxj1-half"]);
    half.stdin(Stdio::null());
    failed(&lone.node, &run(half), exit::USAGE, &["--token-file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_from_stdin_too() {
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let path = super::token_file(&lone.node, &impostor.token().unwrap());
    for words in [
        &["join"][..],
        &["join", "-", "--replace"],
        &["join", "--replace", "--token-file", "-"],
    ] {
        let mut command = lone.node.agent_cli(words);
        command.stdin(fs::File::open(&path).unwrap());
        let output = run(command);
        assert!(output.status.success(), "{words:?}: {}", said(&output));
    }
    let mut missing = lone
        .node
        .agent_cli(&["join", "--replace", "--token-file", "/nonexistent/token"]);
    missing.stdin(Stdio::null());
    let output = run(missing);
    assert_eq!(
        output.status.code(),
        Some(exit::TOKEN_UNREADABLE.into()),
        "{}",
        said(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let lone = LoneNode::create().unwrap();
    // Another machine of the same Proxmox installation, with the same name.
    let root_ca = "etc/pve/pve-root-ca.pem";
    fs::copy(fleet.nodes[0].root().join(root_ca), lone.node.root().join(root_ca)).unwrap();
    let token = fleet.join_token(&serde_json::json!({})).await.unwrap();
    failed(
        &lone.node,
        &run(join(&lone.node, &token, &[])),
        exit::NAME_TAKEN,
        &["\"pve1\" is enrolled", "--take-over"],
    );
    // The token is not spent: the operator says that this machine replaces the other.
    let output = run(join(&lone.node, &token, &["--take-over"]));
    assert!(output.status.success(), "{}", said(&output));
    fleet.stop().await.unwrap();
}
