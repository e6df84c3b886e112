//! Real containers on two nodes. Run as root: `cargo test -p pve-sim --lib lab:: -- --ignored --test-threads 1`.
#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{DEFAULT_CACHE, Lab, clean_dead, ensure_template, mounts};
use crate::spec::TEMPLATES;
use crate::{BodyKind, Node, NodeSpec};

pub(super) struct Bench {
    pub(super) node: Node,
}

impl Bench {
    pub(super) fn new(lab: &Lab, index: usize) -> Self {
        let place = lab.node(index);
        let template = ensure_template(Path::new(DEFAULT_CACHE), &mut |line| eprintln!("{line}")).unwrap();
        let mut spec = NodeSpec::new(&format!("pve{}", index + 1), place.address);
        spec.body = BodyKind::Lxc;
        spec.lab = place.settings();
        spec.templates = vec![(TEMPLATES[0].to_owned(), Some(template))];
        Self {
            node: Node::create(&place.root, &spec).unwrap(),
        }
    }

    pub(super) fn try_run(&self, words: &[&str]) -> (i32, String, String) {
        let begin = Instant::now();
        let argv: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = self.node.run(words[0], &argv, &mut out, &mut err);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (out, err) = (text(out), text(err));
        eprintln!("{words:?} -> {code} in {:?}\n{out}{err}", begin.elapsed());
        (code, out, err)
    }

    pub(super) fn run(&self, words: &[&str]) -> String {
        let (code, out, err) = self.try_run(words);
        assert_eq!(code, 0, "{words:?}: {out}{err}");
        out
    }

    pub(super) fn create(&self, vmid: &str, ip: &str, gateway: &str, more: &[&str]) {
        let gw = if gateway.is_empty() {
            String::new()
        } else {
            format!(",gw={gateway}")
        };
        let net = format!("name=eth0,bridge=vmbr0,ip={ip}{gw}");
        let template = format!("local:vztmpl/{}", TEMPLATES[0]);
        let mut words = vec![
            "pct",
            "create",
            vmid,
            &template,
            "--unprivileged",
            "1",
            "--hostname",
            "web",
            "--memory",
            "256",
            "--cores",
            "1",
        ];
        words.extend(["--rootfs", "local:2", "--net0", &net, "--features", "nesting=1"]);
        words.extend(more);
        self.run(&words);
    }

    /// Waits, bounded, until a command inside says what is expected.
    pub(super) fn until(&self, vmid: &str, script: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let (_, out, _) = self.try_run(&["pct", "exec", vmid, "--", "/bin/sh", "-c", script]);
            if wanted(&out) {
                return out;
            }
            assert!(Instant::now() < until, "{script}: {out}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn a_container_lives_as_on_proxmox() {
    let lab = Lab::up("t", 1).unwrap();
    let place = lab.node(0).clone();
    let bench = Bench::new(&lab, 0);
    let ip = place.pool_first.to_string();
    bench.create(
        "100",
        &format!("{ip}/24"),
        &place.gateway.to_string(),
        &["--mp0", "local:1,mp=/srv/data,backup=1"],
    );
    assert!(
        mounts::below(&place.root).unwrap().is_empty(),
        "nothing stays mounted after create"
    );
    bench.run(&["pct", "start", "100"]);
    assert_eq!(bench.run(&["pct", "status", "100"]), "status: running\n");
    bench.until("100", "systemctl is-system-running", |out| out.trim() == "running");
    assert_eq!(bench.run(&["pct", "exec", "100", "--", "hostname"]), "web\n");
    // Unprivileged: root inside is user 100000 outside.
    assert!(
        bench
            .run(&["pct", "exec", "100", "--", "cat", "/proc/self/uid_map"])
            .contains("100000")
    );
    assert_eq!(bench.try_run(&["pct", "exec", "100", "--", "sh", "-c", "exit 7"]).0, 7);
    assert_eq!(bench.try_run(&["pct", "exec", "100", "--", "nosuch"]).0, 127);
    let disks = bench.run(&[
        "pct",
        "exec",
        "100",
        "--",
        "df",
        "-m",
        "--output=size",
        "/",
        "/srv/data",
    ]);
    let sizes: Vec<u64> = disks
        .lines()
        .skip(1)
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    assert!(
        (1800..=2048).contains(&sizes[0]) && (900..=1024).contains(&sizes[1]),
        "{disks}"
    );
    let limit = super::cgroups::controller("memory", &format!("{}/100", place.cgroup_parent))
        .unwrap()
        .0;
    let limit = std::fs::read_to_string(limit.join("memory.limit_in_bytes"))
        .or_else(|_| std::fs::read_to_string(limit.join("memory.max")))
        .unwrap();
    assert_eq!(limit.trim(), (256 * 1024 * 1024).to_string());
    // Files go in with the owner that was asked for, and come back.
    let file = place.root.join("note");
    std::fs::write(&file, "hello\n").unwrap();
    bench.run(&[
        "pct",
        "push",
        "100",
        &file.to_string_lossy(),
        "/srv/data/note",
        "--perms",
        "0600",
    ]);
    assert_eq!(
        bench.run(&["pct", "exec", "100", "--", "stat", "-c", "%a %u %g", "/srv/data/note"]),
        "600 0 0\n"
    );
    let (code, out, err) = bench.try_run(&["pct", "push", "100", &file.to_string_lossy(), "/nowhere/note"]);
    assert_eq!(code, 0);
    assert!(
        format!("{out}{err}").contains("failed to create file: /nowhere/note: No such file or directory"),
        "{out}{err}"
    );
    // Reboot from inside: the volumes are still there.
    bench.try_run(&[
        "pct",
        "exec",
        "100",
        "--",
        "sh",
        "-c",
        "touch /run/before; systemctl reboot",
    ]);
    bench.until("100", "[ ! -e /run/before ] && cat /srv/data/note", |out| {
        out.contains("hello")
    });
    // Another memory at once.
    bench.run(&["pct", "set", "100", "--memory", "300", "--hostname", "other"]);
    assert_eq!(bench.run(&["pct", "exec", "100", "--", "hostname"]), "other\n");
    // Backup of a running one, restore under another number with the volume.
    bench.run(&[
        "vzdump",
        "100",
        "--mode",
        "suspend",
        "--compress",
        "zstd",
        "--storage",
        "local",
    ]);
    let archives = bench.run(&["pvesm", "list", "local", "--content", "backup"]);
    let volid = archives
        .lines()
        .find_map(|line| line.split_whitespace().next().filter(|word| word.contains(":backup/")))
        .unwrap()
        .to_owned();
    bench.run(&["pct", "shutdown", "100", "--timeout", "20"]);
    assert!(
        mounts::below(&place.root).unwrap().is_empty(),
        "nothing stays mounted after shutdown"
    );
    bench.run(&[
        "pct",
        "restore",
        "101",
        &volid,
        "--storage",
        "local",
        "--unprivileged",
        "1",
    ]);
    bench.run(&["pct", "start", "101"]);
    bench.until("101", "cat /srv/data/note", |out| out == "hello\n");
    bench.run(&["pct", "stop", "101"]);
    bench.run(&["pct", "clone", "101", "102", "--full", "1", "--hostname", "copy"]);
    bench.run(&["pct", "start", "102"]);
    bench.until("102", "hostname; cat /srv/data/note", |out| out == "copy\nhello\n");
    for vmid in ["102", "101", "100"] {
        bench.try_run(&["pct", "stop", vmid]);
        bench.run(&["pct", "destroy", vmid, "--purge", "1"]);
        assert!(!bench.node.layout().lxc_dir(vmid.parse().unwrap()).exists());
    }
    let (name, root) = (lab.name().to_owned(), place.root.clone());
    lab.down().unwrap();
    assert!(!root.exists() && !Path::new(&format!("/run/netns/{}", place.netns)).exists());
    assert!(
        super::cgroups::processes(&format!("pxlab-{name}-0"))
            .unwrap()
            .is_empty()
    );
}

#[test]
#[ignore = "needs root, lxc and Debian's archive"]
fn nodes_with_the_same_numbers_do_not_meet_and_dhcp_gives_addresses() {
    let lab = Lab::up("t", 2).unwrap();
    let benches = [Bench::new(&lab, 0), Bench::new(&lab, 1)];
    for bench in &benches {
        bench.create("100", "dhcp", "", &[]);
        bench.run(&["pct", "start", "100"]);
    }
    let mut addresses = Vec::new();
    for (index, bench) in benches.iter().enumerate() {
        let [a, b, c, _] = lab.node(index).address.octets();
        let net = format!("{a}.{b}.{c}.");
        let out = bench.until("100", "ip -4 -o address show dev eth0", |out| out.contains(&net));
        addresses.push(
            out.split_whitespace()
                .find(|word| word.starts_with(&net))
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .to_owned(),
        );
    }
    assert_ne!(addresses[0], addresses[1]);
    benches[0].run(&["pct", "stop", "100"]);
    assert_eq!(benches[1].run(&["pct", "status", "100"]), "status: running\n");
    // A node answers at its address: nobody listens, so the refusal comes from there.
    let node = SocketAddr::from((lab.node(1).address, 9));
    let error = TcpStream::connect_timeout(&node, Duration::from_secs(3)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // With containers still running, the lab takes everything away, and a second time finds nothing.
    let name = lab.name().to_owned();
    drop(lab);
    super::clean(&name).unwrap();
    assert!(!clean_dead().unwrap().contains(&name));
}
