//! Real containers through the executable door: signals, killed callers, a lab whose process dies. Run as root:
//! `cargo test -p pve-sim --test real_containers -- --ignored --test-threads 1`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pve_sim::lab::{self, DEFAULT_CACHE, Lab};
use pve_sim::{BodyKind, Node, NodeSpec, TEMPLATES};

/// Told to the child that plays the process that dies.
const VICTIM: &str = "PVE_SIM_TEST_VICTIM";

fn lay_out(lab: &Lab) -> PathBuf {
    let place = lab.node(0);
    let template = lab::ensure_template(Path::new(DEFAULT_CACHE), &mut |line| eprintln!("{line}")).unwrap();
    let mut spec = NodeSpec::new("pve1", place.address).executable(Path::new(env!("CARGO_BIN_EXE_pve-sim")));
    spec.body = BodyKind::Lxc;
    spec.lab = place.settings();
    spec.templates = vec![(TEMPLATES[0].to_owned(), Some(template))];
    Node::create(&place.root, &spec).unwrap();
    place.root.clone()
}

fn tool(lab: &Lab, name: &str) -> Command {
    let mut command = lab.command_in(0, lab.node(0).root.join("usr/bin").join(name));
    command.stdin(Stdio::null());
    command
}

fn create(lab: &Lab, vmid: &str) -> Command {
    let template = format!("local:vztmpl/{}", TEMPLATES[0]);
    let mut command = tool(lab, "pct");
    command.args([
        "create",
        vmid,
        &template,
        "--unprivileged",
        "1",
        "--memory",
        "256",
        "--hostname",
        "web",
    ]);
    command.args([
        "--rootfs",
        "local:2",
        "--net0",
        "name=eth0,bridge=vmbr0,ip=dhcp",
        "--mp0",
        "local:1,mp=/srv,backup=1",
    ]);
    command
}

fn ok(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", words(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn words(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn pct(lab: &Lab, words: &[&str]) -> String {
    let mut command = tool(lab, "pct");
    command.args(words);
    ok(command)
}

fn mounts_below(root: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|point| Path::new(point).starts_with(root))
        })
        .count()
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn a_container_outlives_its_caller_and_keeps_stdin_stdout_and_codes() {
    let lab = Lab::up("x", 1).unwrap();
    let root = lay_out(&lab);
    ok(create(&lab, "100"));
    // The caller and its whole process group die right after the start.
    let script = format!("{} start 100 && kill -9 0", root.join("usr/bin/pct").display());
    let mut shell = lab.command_in(0, "/bin/sh");
    shell.args(["-c", &script]).process_group(0);
    assert!(!shell.status().unwrap().success());
    assert_eq!(pct(&lab, &["status", "100"]), "status: running\n");
    // As the agent looks: in its own namespace's table, and in cgroups.
    let mut cat = lab.command_in(0, "/bin/cat");
    cat.arg("/proc/net/unix");
    assert!(ok(cat).contains(&format!("@{}/var/lib/lxc/100/command", root.display())));
    let mut exec = tool(&lab, "pct");
    exec.args(["exec", "100", "--", "sh", "-c", "cat; echo err >&2; exit 7"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = exec.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout, &*output.stderr),
        (Some(7), &b"through"[..], &b"err\n"[..])
    );
    pct(&lab, &["stop", "100"]);
    pct(&lab, &["destroy", "100"]);
    assert_eq!(mounts_below(&root), 0);
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn a_create_that_is_told_to_end_leaves_nothing_and_a_killed_one_can_be_destroyed() {
    let lab = Lab::up("x", 1).unwrap();
    let root = lay_out(&lab);
    let images = root.join("var/lib/vz/images/100");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = create(&lab, "100")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let unpacking = root.join("var/lib/lxc/100/rootfs/usr");
        wait("unpacking", || unpacking.exists());
        // nsenter has become the tool by now, so this is the tool's own process.
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        assert!(!child.wait().unwrap().success());
        if signal == Signal::SIGTERM {
            assert_eq!(mounts_below(&root), 0);
            assert!(
                !images.exists()
                    && !root.join("var/lib/lxc/100").exists()
                    && !root.join("etc/pve/lxc/100.conf").exists()
            );
        }
    }
    assert_eq!(
        fs::read_to_string(root.join("etc/pve/lxc/100.conf")).unwrap().trim(),
        "lock: create"
    );
    assert!(images.exists());
    pct(&lab, &["unlock", "100"]);
    // Its `tar` may still unpack; destroy waits for that to end.
    pct(&lab, &["destroy", "100", "--destroy-unreferenced-disks", "1"]);
    assert!(!images.exists());
    assert_eq!(mounts_below(&root), 0);
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn what_a_killed_process_left_is_removed_by_the_next() {
    if std::env::var_os(VICTIM).is_some() {
        let lab = Lab::up("x", 2).unwrap();
        lay_out(&lab);
        ok(create(&lab, "100"));
        pct(&lab, &["start", "100"]);
        println!("\nlab {}", lab.name());
        std::io::stdout().flush().unwrap();
        // Killed here.
        std::thread::park();
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "what_a_killed_process_left_is_removed_by_the_next",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let name = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("lab ").map(str::to_owned))
        .unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let files = Path::new("/var/lib/proximity-lab").join(&name);
    let there = || {
        let links = ok({
            let mut ip = Command::new("ip");
            ip.args(["netns", "list"]);
            ip
        });
        let mut table = Command::new("nft");
        table
            .args(["list", "table", "ip", &format!("pxlab_{}", name.replace('-', "_"))])
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        (links.contains(&name), files.exists(), table.status().unwrap().success())
    };
    assert_eq!(there(), (true, true, true));
    let cleaned = ok({
        let mut clean = Command::new(env!("CARGO_BIN_EXE_pve-sim"));
        clean.arg("lab-clean");
        clean
    });
    assert!(cleaned.lines().any(|line| line == name), "{cleaned}");
    assert_eq!(there(), (false, false, false));
    assert_eq!(mounts_below(&files), 0);
}
