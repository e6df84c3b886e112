//! A machine that has joined already: it asks, or refuses where nobody can be asked; and the service of the agent.

use super::{hospitable, join, run, said};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use proximity_agent::cli::exit;
use proximity_tests::{fleet::LoneNode, impostor::Impostor, process::PATIENCE};
use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
};

fn identity(lone: &LoneNode) -> String {
    fs::read_to_string(lone.node.state().join("identity/identity.json")).unwrap()
}

/// Runs with a terminal as stdin, on which somebody types these lines, each when asked.
fn typed(mut command: Command, lines: &[(&str, &str)]) -> Output {
    let pair = nix::pty::openpty(None, None).unwrap();
    let mut keyboard = fs::File::from(pair.master);
    command
        .stdin(Stdio::from(pair.slave))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command holds the other end of the terminal.
    drop(command);
    let (done, ended) = mpsc::channel::<()>();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    std::thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            // It waits for a line that nobody types: the test fails by its exit code.
            let _ = kill(pid, Signal::SIGKILL);
        }
    });
    let mut stderr = child.stderr.take().unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    let mut lines = lines.iter();
    let mut next = lines.next();
    while stderr.read(&mut byte).unwrap() == 1 {
        said.push(byte[0]);
        if let Some((question, answer)) = next
            && said.ends_with(question.as_bytes())
        {
            keyboard.write_all(format!("{answer}\n").as_bytes()).unwrap();
            next = lines.next();
        }
    }
    let mut output = child.wait_with_output().unwrap();
    drop(done);
    output.stderr = said;
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_before_it_replaces_an_identity() {
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let token = impostor.token().unwrap();
    assert!(run(join(&lone.node, &token, &[])).status.success());
    let first = identity(&lone);

    let unasked = run(join(&lone.node, &token, &[]));
    assert_eq!(
        unasked.status.code(),
        Some(exit::ALREADY_JOINED.into()),
        "{}",
        said(&unasked)
    );
    let text = said(&unasked);
    assert!(
        text.contains(&impostor.node().to_string()) && text.contains("--replace"),
        "{text}"
    );
    assert_eq!(identity(&lone), first);

    let question = "Replace that identity? [y/N] ";
    let no = tokio::task::block_in_place(|| typed(join(&lone.node, &token, &[]), &[(question, "n")]));
    assert_eq!(no.status.code(), Some(exit::ALREADY_JOINED.into()), "{}", said(&no));
    assert!(said(&no).contains("nothing was changed"));
    assert_eq!(identity(&lone), first);

    let yes = tokio::task::block_in_place(|| typed(join(&lone.node, &token, &[]), &[(question, "y")]));
    assert!(yes.status.success(), "{}", said(&yes));
    let second = identity(&lone);
    assert_ne!(second, first);

    assert!(run(join(&lone.node, &token, &["--replace"])).status.success());
    assert_ne!(identity(&lone), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_prompt_does_not_show_the_token() {
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let token = impostor.token().unwrap();
    let command = lone.node.agent_cli(&["join"]);
    let asked = "Join token (it is not shown): ";
    let output = tokio::task::block_in_place(|| typed(command, &[(asked, &token)]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_is_not_written_over() {
    let mut lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let token = impostor.token().unwrap();
    assert!(run(join(&lone.node, &token, &[])).status.success());
    let before = identity(&lone);
    lone.node.start_agent().unwrap();
    proximity_tests::process::until("the agent runs", proximity_tests::process::PATIENCE, async || {
        let status = run(lone.node.agent_cli(&["status", "--json"]));
        let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        Ok((status["running"] == true).then_some(()))
    })
    .await
    .unwrap();
    let output = run(join(&lone.node, &token, &["--replace"]));
    assert_eq!(output.status.code(), Some(exit::IN_USE.into()), "{}", said(&output));
    assert!(
        said(&output).contains("systemctl stop proximity-agent"),
        "{}",
        said(&output)
    );
    assert_eq!(identity(&lone), before);
    lone.node.stop_agent().await.unwrap();
}

/// A machine with systemd, as far as the agent looks: its folder, and a `systemctl` that writes down what it was told. In a mount namespace of its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_enabled_and_started_where_systemd_is() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the service is started: mount namespaces need root");
        return;
    }
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let folder = lone.node.root().join("machine");
    for name in ["bin", "run/systemd/system", "etc"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    // The service reads the configuration at its usual place, and only then is it this agent's.
    fs::copy(lone.node.config(), folder.join("etc/agent.toml")).unwrap();
    let systemctl = |load: &str, restart: &str| {
        let path = folder.join("bin/systemctl");
        let log = folder.join("told");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>{}\ncase \"$1\" in\nshow) printf 'LoadState={load}\\nActiveState=inactive\\n';;\nrestart) {restart};;\nesac\n",
            log.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let _ = fs::remove_file(log);
    };
    let told = || fs::read_to_string(folder.join("told")).unwrap_or_default();
    let token = super::token_file(&lone.node, &impostor.token().unwrap());
    let join = |more: &[&str]| run(on_machine(&folder, &lone, &token, more));

    systemctl("loaded", "true");
    let output = join(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("is enabled and runs"), "{}", said(&output));
    let orders: Vec<String> = told().lines().skip(1).map(str::to_owned).collect();
    assert_eq!(
        orders,
        [
            "enable --quiet proximity-agent.service",
            "restart proximity-agent.service"
        ]
    );

    systemctl("loaded", "true");
    let output = join(&["--replace", "--no-start"]);
    assert!(
        output.status.success() && !told().contains("restart"),
        "{}",
        said(&output)
    );

    systemctl("not-found", "true");
    let output = join(&["--replace"]);
    assert!(
        output.status.success() && said(&output).contains("is not installed"),
        "{}",
        said(&output)
    );

    systemctl("loaded", "echo it would not >&2; exit 1");
    let output = join(&["--replace"]);
    assert_eq!(
        output.status.code(),
        Some(exit::NOT_STARTED.into()),
        "{}",
        said(&output)
    );
    assert!(
        said(&output).contains("it would not") && said(&output).contains("journalctl"),
        "{}",
        said(&output)
    );

    fs::remove_dir(folder.join("run/systemd/system")).unwrap();
    let output = join(&["--replace"]);
    assert!(
        output.status.success() && said(&output).contains("systemd does not run"),
        "{}",
        said(&output)
    );
}

fn on_machine(folder: &Path, lone: &LoneNode, token: &Path, more: &[&str]) -> Command {
    let agent = lone.node.agent_cli(&[]);
    let script = r#"
        set -e
        mkdir -p /etc/proximity
        mount --bind "$1/etc" /etc/proximity
        mount --bind "$1/run" /run
        PATH="$1/bin:$PATH"; token=$2 agent=$3; shift 3
        exec "$agent" join --token-file "$token" "$@"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(folder).arg(token).arg(agent.get_program()).args(more);
    command.stdin(Stdio::null());
    command
}
