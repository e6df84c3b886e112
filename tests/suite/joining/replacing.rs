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
    path::{Path, PathBuf},
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

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_enabled_and_started_where_systemd_is() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the service is started: mount namespaces need root");
        return;
    }
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    let machine = Machine::new(&lone);
    let token = super::token_file(&lone.node, &impostor.token().unwrap());
    let systemctl = |load: &str, restart: &str| machine.systemctl(load, "inactive", "true", restart);
    let told = || machine.told().join("\n");
    let join = |more: &[&str]| run(machine.join(&lone, &token, more));

    systemctl("loaded", "true");
    let output = join(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("is enabled and runs"), "{}", said(&output));
    assert_eq!(
        machine.told()[1..],
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

    fs::remove_dir(machine.folder.join("run/systemd/system")).unwrap();
    let output = join(&["--replace"]);
    assert!(
        output.status.success() && said(&output).contains("systemd does not run"),
        "{}",
        said(&output)
    );
}

/// A machine with systemd, as far as the agent looks. In a mount namespace of its own.
struct Machine {
    folder: PathBuf,
}

impl Machine {
    fn new(lone: &LoneNode) -> Self {
        let folder = lone.node.root().join("machine");
        for name in ["bin", "run/systemd/system", "etc"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        // The service reads the configuration at its usual place, and only then is it this agent's.
        fs::copy(lone.node.config(), folder.join("etc/agent.toml")).unwrap();
        Self { folder }
    }

    /// A `systemctl` that writes down what it was told, and does this.
    fn systemctl(&self, load: &str, active: &str, stop: &str, restart: &str) {
        let path = self.folder.join("bin/systemctl");
        let log = self.folder.join("told");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>{}\ncase \"$1\" in\nshow) printf 'LoadState={load}\\nActiveState={active}\\n';;\nstop) {stop};;\nrestart) {restart};;\nesac\n",
            log.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(log, "").unwrap();
    }

    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("told")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn join(&self, lone: &LoneNode, token: &Path, more: &[&str]) -> Command {
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
        command.arg(&self.folder).arg(token).arg(agent.get_program()).args(more);
        command.stdin(Stdio::null());
        command
    }
}

/// The service's agent is stopped for the moment in which the identity is replaced, and started again.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_stopped_while_its_identity_is_replaced() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: the service is stopped: mount namespaces need root");
        return;
    }
    let lone = LoneNode::create().unwrap();
    let (impostor, _serving) = hospitable(Impostor::listen().unwrap());
    assert!(run(join(&lone.node, &impostor.token().unwrap(), &[])).status.success());
    let before = identity(&lone);
    let machine = Machine::new(&lone);
    // What the running agent holds.
    let held = fs::File::options()
        .write(true)
        .open(lone.node.state().join("lock"))
        .unwrap();
    held.try_lock().unwrap();
    let asked = machine.folder.join("asked");
    machine.systemctl(
        "loaded",
        "active",
        &format!("touch {0}; while [ -e {0} ]; do sleep 0.05; done", asked.display()),
        "true",
    );
    let token = super::token_file(&lone.node, &impostor.token().unwrap());
    let mut child = machine
        .join(&lone, &token, &["--replace"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    proximity_tests::process::until("it asks for the stop", PATIENCE, async || {
        Ok(asked.exists().then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(identity(&lone), before, "not while the agent runs");
    drop(held);
    fs::remove_file(&asked).unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_ne!(identity(&lone), before);
    let orders = machine.told();
    assert_eq!(
        orders[orders.len() - 3..],
        [
            "stop proximity-agent.service",
            "enable --quiet proximity-agent.service",
            "restart proximity-agent.service"
        ]
    );
}
