//! The executable door: links, signals, lost readers, faults, many calls at once, and the stub that answers on ports.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pve_sim::{At, Fault, Node, NodeSpec, Rule, Script};

const TEMPLATE: &str = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";

struct Sim {
    folder: tempfile::TempDir,
}

impl Sim {
    /// Addresses come from the process and the test, so that runs at the same time do not meet. Containers get loopback
    /// addresses, so that they answer directly as well.
    fn new(test: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [low, high, ..] = std::process::id().to_le_bytes();
        let at = |host| Ipv4Addr::new(127, 64 + low % 128, (high % 20) * 12 + test, host);
        let mut spec = NodeSpec::new("pve1", at(1)).executable(Path::new(env!("CARGO_BIN_EXE_pve-sim")));
        spec.dhcp_range = (at(100), at(200));
        Node::create(&folder.path().join("root"), &spec).unwrap();
        Self { folder }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root").canonicalize().unwrap()
    }

    /// Without any environment, as a service would be started.
    fn command(&self, tool: &str, words: &[&str]) -> Command {
        let mut command = Command::new(self.root().join("usr/bin").join(tool));
        command
            .args(words)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, tool: &str, words: &[&str]) -> Output {
        self.command(tool, words).output().unwrap()
    }

    fn ok(&self, tool: &str, words: &[&str]) -> String {
        let output = self.run(tool, words);
        assert!(
            output.status.success(),
            "{tool} {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn create_words(vmid: &str) -> [&str; 7] {
        [
            "create",
            vmid,
            TEMPLATE,
            "--rootfs",
            "local:1",
            "--net0",
            "name=eth0,bridge=vmbr0,ip=dhcp",
        ]
    }

    fn has_disk(&self, vmid: u32) -> bool {
        self.root().join(format!("var/lib/vz/images/{vmid}")).exists()
    }

    fn conf(&self, vmid: u32) -> Option<String> {
        std::fs::read_to_string(self.root().join(format!("etc/pve/lxc/{vmid}.conf"))).ok()
    }

    fn last_task(&self, kind: &str) -> String {
        let mut found = Vec::new();
        for place in std::fs::read_dir(self.root().join("var/log/pve/tasks")).unwrap() {
            let place = place.unwrap().path();
            if place.is_dir() {
                found.extend(std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        let path = found
            .into_iter()
            .find(|path| path.to_string_lossy().contains(&format!(":{kind}:")))
            .unwrap();
        std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned()
    }

    /// Starts a create that pauses in its middle, and waits until it is there.
    fn create_paused(&self, vmid: &str) -> (Child, PathBuf) {
        let go = self.folder.path().join("go");
        Script::new()
            .rule(Rule::on("pct", Fault::PauseUntil(go.clone())).subcommand("create"))
            .write(&self.root())
            .unwrap();
        let child = self.command("pct", &Self::create_words(vmid)).spawn().unwrap();
        let reached = self.folder.path().join("go.reached");
        wait_for("the middle of create", || reached.exists());
        (child, go)
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "waited too long for {what}");
        std::thread::yield_now();
    }
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn term_rolls_a_create_back() {
    let sim = Sim::new(1);
    let (child, _) = sim.create_paused("120");
    assert_eq!(sim.conf(120).as_deref(), Some("lock: create\n"));
    signal(&child, Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("unable to create CT 120 - command 'tar xpf")
            && stderr.ends_with("failed: received interrupt\n"),
        "{stderr}"
    );
    assert_eq!((sim.conf(120), sim.has_disk(120)), (None, false));
    assert!(
        sim.last_task("vzcreate")
            .starts_with("TASK ERROR: unable to create CT 120")
    );
}

#[test]
fn kill_leaves_a_locked_configuration_and_the_disk() {
    let sim = Sim::new(2);
    let (mut child, _) = sim.create_paused("121");
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    assert_eq!(
        (sim.conf(121).as_deref(), sim.has_disk(121)),
        (Some("lock: create\n"), true)
    );
    assert!(
        sim.last_task("vzcreate").starts_with("extracting archive"),
        "a killed worker's log has no end"
    );
    assert!(
        sim.ok("pct", &["list"])
            .contains("121        stopped    create       CT121")
    );
    assert!(!sim.run("pct", &["destroy", "121"]).status.success());
    sim.ok("pct", &["unlock", "121"]);
    sim.ok("pct", &["destroy", "121"]);
    assert_eq!(
        (sim.conf(121), sim.has_disk(121)),
        (None, true),
        "destroy leaves the disk that no configuration names"
    );
}

#[test]
fn destroy_unreferenced_disks_removes_what_a_kill_left() {
    let sim = Sim::new(3);
    Script::new()
        .rule(Rule::on("pct", Fault::KillSelf).subcommand("create").times(1))
        .write(&sim.root())
        .unwrap();
    assert_eq!(sim.run("pct", &Sim::create_words("122")).status.code(), None);
    sim.ok("pct", &["unlock", "122"]);
    sim.ok("pct", &["destroy", "122", "--destroy-unreferenced-disks", "1"]);
    assert!(!sim.has_disk(122));
    assert_eq!(Script::hits(&sim.root()).unwrap()[0].acted, 1);
}

#[test]
fn a_lost_reader_rolls_a_create_back() {
    let sim = Sim::new(4);
    let (mut child, go) = sim.create_paused("123");
    drop(child.stdout.take());
    std::fs::write(go, "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(255));
    assert_eq!((sim.conf(123), sim.has_disk(123)), (None, false));
    assert_eq!(sim.last_task("vzcreate"), "TASK ERROR: broken pipe");
}

#[test]
fn faults_do_what_they_say() {
    let sim = Sim::new(5);
    let rule = |fault| Rule::on("pct", fault).subcommand("create").times(1);
    Script::new().rule(rule(Fault::DiskFull)).write(&sim.root()).unwrap();
    let output = sim.run("pct", &Sim::create_words("100"));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
    assert_eq!((sim.conf(100), sim.has_disk(100)), (None, false));

    Script::new().rule(rule(Fault::HalfCreate)).write(&sim.root()).unwrap();
    assert!(!sim.run("pct", &Sim::create_words("101")).status.success());
    assert_eq!(
        (sim.conf(101).as_deref(), sim.has_disk(101)),
        (Some("lock: create\n"), true)
    );

    Script::new()
        .rule(rule(Fault::LoseAnswer).at(At::After))
        .write(&sim.root())
        .unwrap();
    assert_eq!(sim.run("pct", &Sim::create_words("102")).status.code(), None, "killed");
    assert!(
        sim.conf(102).is_some_and(|conf| !conf.contains("lock:")),
        "and yet done"
    );

    let fail = Fault::Fail {
        exit: 7,
        stderr: "injected".to_owned(),
        stdout: String::new(),
    };
    Script::new()
        .rule(Rule::on("pct", fail).subcommand("start").vmid(102).skip(1))
        .write(&sim.root())
        .unwrap();
    sim.ok("pct", &["start", "102"]);
    sim.ok("pct", &["stop", "102"]);
    let output = sim.run("pct", &["start", "102"]);
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (Some(7), "injected\n")
    );
    assert_eq!(sim.ok("pct", &["status", "102"]), "status: stopped\n");
    let hits = Script::hits(&sim.root()).unwrap();
    assert_eq!((hits[0].reached, hits[0].acted), (2, 1));

    Script::new()
        .rule(
            Rule::on("pct", Fault::Lock("backup".to_owned()))
                .subcommand("start")
                .at(At::Before),
        )
        .write(&sim.root())
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&sim.run("pct", &["start", "102"]).stderr),
        "CT is locked (backup)\n"
    );
}

#[test]
fn many_creates_at_once_get_one_number_each() {
    let sim = Sim::new(6);
    let children: Vec<(u32, Child)> = (0..24)
        .map(|n| {
            let vmid = 200 + n % 12;
            (
                vmid,
                sim.command("pct", &Sim::create_words(&vmid.to_string()))
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();
    let mut won: Vec<u32> = children
        .into_iter()
        .filter_map(|(vmid, child)| child.wait_with_output().unwrap().status.success().then_some(vmid))
        .collect();
    won.sort_unstable();
    assert_eq!(won, (200..212).collect::<Vec<_>>(), "each number once");
    let vmlist: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(sim.root().join("etc/pve/.vmlist")).unwrap()).unwrap();
    assert_eq!(vmlist["ids"].as_object().unwrap().len(), 12);
    assert_eq!(sim.ok("pct", &["list"]).lines().count(), 13);
}

#[test]
fn what_is_not_simulated_fails_loudly() {
    let sim = Sim::new(7);
    for words in [&["df", "100"][..], &["mount", "100"], &["migrate", "100", "pve1"]] {
        let output = sim.run("pct", words);
        assert!(!output.status.success(), "{words:?}");
    }
    let output = sim.run("pct", &["fsck", "100"]);
    assert_eq!(output.status.code(), Some(pve_sim::EXIT_NOT_SIMULATED));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("pve-sim: not simulated: "));
}

/// The process behind a node's ports; ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn fetch(address: Ipv4Addr, port: u16) -> Option<String> {
    let mut connection = TcpStream::connect((address, port)).ok()?;
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    connection.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn a_published_port_answers_and_closes_again() {
    let sim = Sim::new(8);
    let public = Node::open(&sim.root()).unwrap().layout().info().address;
    let own = Node::open(&sim.root()).unwrap().layout().info().dhcp_range.0;
    let server = Command::new(env!("CARGO_BIN_EXE_pve-sim"))
        .args(["serve", "--root"])
        .arg(sim.root())
        .spawn()
        .unwrap();
    let _server = Server(server);
    wait_for("serve", || sim.root().join("serve/state.json").exists());
    sim.ok("pct", &Sim::create_words("100"));
    sim.ok("pct", &["start", "100"]);
    let file = sim.folder.path().join("file");
    std::fs::write(&file, "8080\n").unwrap();
    let file = file.to_string_lossy().into_owned();
    sim.ok(
        "pct",
        &[
            "exec",
            "100",
            "--",
            "mkdir",
            "-p",
            "-m",
            "0700",
            "/var/lib/proximity/recipe",
        ],
    );
    for name in ["install", "health", "port"] {
        sim.ok(
            "pct",
            &[
                "push",
                "100",
                &file,
                &format!("/var/lib/proximity/recipe/{name}"),
                "--perms",
                "0600",
            ],
        );
    }
    let health = ["exec", "100", "--", "/bin/sh", "/var/lib/proximity/recipe/health"];
    assert_eq!(sim.run("pct", &health).status.code(), Some(1));
    assert!(fetch(own, 8080).is_none(), "not installed, so nothing listens");
    sim.ok(
        "pct",
        &["exec", "100", "--", "/bin/sh", "/var/lib/proximity/recipe/install"],
    );
    assert_eq!(sim.run("pct", &health).status.code(), Some(0));
    let page = fetch(own, 8080).unwrap();
    assert!(
        page.starts_with("HTTP/1.1 200 OK")
            && page.contains("simulated by pve-sim (hollow body): container 100 CT100, port 8080")
    );

    let mut nft = sim
        .command("nft", &["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    nft.stdin
        .take()
        .unwrap()
        .write_all(RULESET.replace("ADDRESS", &own.to_string()).as_bytes())
        .unwrap();
    assert!(nft.wait().unwrap().success());
    assert!(fetch(public, 30080).unwrap().contains("container 100"));
    assert!(
        sim.ok("nft", &["-j", "list", "table", "ip", "proximity"])
            .contains("published")
    );
    sim.ok("pct", &["stop", "100"]);
    assert!(fetch(public, 30080).is_none(), "stopped");
    sim.ok("pct", &["start", "100"]);
    assert!(fetch(public, 30080).is_some(), "started again");
    sim.ok("nft", &["delete", "table", "ip", "proximity"]);
    assert!(fetch(public, 30080).is_none(), "published no more");
    assert!(!sim.run("nft", &["list", "table", "ip", "proximity"]).status.success());
}

const RULESET: &str = r#"{"nftables": [
    {"add": {"table": {"family": "ip", "name": "proximity"}}},
    {"flush": {"table": {"family": "ip", "name": "proximity"}}},
    {"add": {"map": {"family": "ip", "table": "proximity", "name": "published", "type": "inet_service",
        "map": ["ipv4_addr", "inet_service"], "elem": [[30080, {"concat": ["ADDRESS", 8080]}]]}}},
    {"add": {"chain": {"family": "ip", "table": "proximity", "name": "prerouting", "type": "nat", "hook": "prerouting", "prio": -100,
        "policy": "accept"}}},
    {"add": {"rule": {"family": "ip", "table": "proximity", "chain": "prerouting", "expr": [
        {"dnat": {"family": "ip", "addr": {"map": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "data": "@published"}}}}]}}}
]}"#;

#[test]
fn the_in_process_door_has_strangers_and_reboots() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::create(
        &folder.path().join("root"),
        &NodeSpec::new("pve1", Ipv4Addr::new(127, 9, 9, 1)),
    )
    .unwrap();
    let run = |node: &Node, words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = node.run("pct", &words, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    node.add_stranger("pve2", "qemu", 100).unwrap();
    assert_eq!(
        run(&node, &Sim::create_words("100")).2,
        "VM 100 already exists on node 'pve2'\n"
    );
    for (vmid, onboot) in [("101", "1"), ("102", "0")] {
        assert_eq!(
            run(
                &node,
                &[&Sim::create_words(vmid)[..], &["--onboot", onboot, "--start", "1"]].concat()
            )
            .0,
            0
        );
    }
    let before = node.layout().info().boot_id.clone();
    let address = std::fs::read_to_string(node.layout().lxc_dir(101).join("address")).unwrap();
    assert_eq!(address, "10.9.1.1/24\n");
    let node = node.reboot(true).unwrap();
    assert_ne!(node.layout().info().boot_id, before);
    assert_eq!(run(&node, &["status", "101"]).1, "status: running\n");
    assert_eq!(run(&node, &["status", "102"]).1, "status: stopped\n");
    assert_eq!(
        std::fs::read_to_string(node.layout().lxc_dir(101).join("address")).unwrap(),
        address,
        "DHCP remembers"
    );
}
