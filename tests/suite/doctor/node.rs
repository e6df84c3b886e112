//! The node itself: its tools, cluster, storages, kernel, packet filter, disk, policy, and the agent's own files.

use super::{Report, altered, doctor, examine};
use proximity_tests::{
    fleet::{Fleet, FleetSpec, LoneNode, SimNode},
    process::{PATIENCE, until},
    wire::Island,
};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

const NO_QUORUM: &str = r#"{"nodename": "pve1", "version": 4, "cluster": {"name": "lab", "version": 3, "nodes": 3, "quorate": 0},
    "nodelist": {"pve1": {"id": 1, "online": 1, "ip": "192.0.2.1"}}}"#;
const STORAGES: &str = "dir: local
\tpath /var/lib/vz
\tcontent vztmpl,backup

lvmthin: thin
\tvgname pve
\tthinpool data
\tcontent rootdir,images

zfspool: tank
\tpool rpool/data
\tcontent rootdir

rbd: ceph
\tpool rbd
\tcontent rootdir

btrfs: butter
\tpath /var/lib/vz
\tcontent rootdir

nfs: share
\tpath /var/lib/vz
\texport /x
\tserver 192.0.2.9
\tcontent vztmpl

pbs: vault
\tserver 192.0.2.9
\tdatastore one
\tcontent backup
";

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_probe_of_the_node_notices_what_it_is_for() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    fleet.deploy("nginx", "my-nginx").await.unwrap();
    let node = &fleet.nodes[0];
    let root = node.root();
    let look = || examine(doctor(node));
    until("linked, and all is well", PATIENCE, async || {
        let report = look();
        let linked = report.of("agent").any(|finding| finding["level"] == "ok");
        Ok((report.code == 0 && linked).then_some(()))
    })
    .await
    .unwrap();
    let checks = [
        "coordinator",
        "clock",
        "tools",
        "pve_version",
        "nft_version",
        "cluster",
        "storage",
        "published_ports",
        "packet_filter",
        "ip_forward",
        "cgroups",
        "certificate",
        "disk",
        "policy",
        "state_folder",
        "agent",
    ];
    let before = look();
    for check in checks {
        before.well(check);
    }

    let etc_pve = root.join("etc/pve");
    let trouble = |path: &str, content: Option<&str>, check: &str, level: &str, words: &[&str]| {
        let altered = altered(&root.join(path), content);
        look().has(check, level, words);
        drop(altered);
        look().well(check);
    };
    trouble(
        "usr/bin/vzdump",
        None,
        "tools",
        "fail",
        &["vzdump", "is not there", "install the package"],
    );
    trouble("usr/bin/pct", Some(""), "tools", "fail", &["pct", "cannot be run"]);
    trouble(
        "etc/pve/.members",
        Some(NO_QUORUM),
        "cluster",
        "fail",
        &["cluster lab", "no quorum", "pvecm status"],
    );
    trouble(
        "etc/pve/.members",
        None,
        "cluster",
        "fail",
        &[".members", "pve-cluster"],
    );
    trouble(
        "etc/pve/.vmlist",
        Some("{"),
        "cluster",
        "fail",
        &[".vmlist", "pve-cluster"],
    );
    let no_containers = "dir: local\n\tpath /var/lib/vz\n\tcontent vztmpl\n";
    trouble(
        "etc/pve/storage.cfg",
        Some(no_containers),
        "storage",
        "fail",
        &["takes rootdir", "Datacenter, Storage"],
    );
    let gone = "dir: local\n\tpath /nonexistent\n\tcontent vztmpl,rootdir\n";
    trouble(
        "etc/pve/storage.cfg",
        Some(gone),
        "storage",
        "warn",
        &["does not say how full", "pvesm status"],
    );
    trouble(
        "proc/sys/net/ipv4/ip_forward",
        Some("0\n"),
        "ip_forward",
        "fail",
        &["off, although 1", "sysctl -w"],
    );
    trouble(
        "sys/fs/cgroup/cgroup.controllers",
        Some("cpu io pids\n"),
        "cgroups",
        "fail",
        &["memory", "kernel's command line"],
    );
    trouble(
        "etc/proximity/policy.toml",
        Some("ports = [9, 8]\n"),
        "policy",
        "fail",
        &["line 1, key ports", "policy check"],
    );
    trouble(
        "proc/net/ip_tables_names",
        Some("filter\n"),
        "packet_filter",
        "warn",
        &["legacy iptables", "iptables-legacy-save"],
    );
    trouble(
        "etc/pve/firewall/cluster.fw",
        Some("[OPTIONS]\nenable: 1\n"),
        "packet_filter",
        "warn",
        &["Proxmox firewall"],
    );
    let identity = "var/lib/proximity-agent/identity/identity.json";
    let damaged = altered(&root.join(identity), Some("{"));
    look().has("identity", "fail", &["damaged", "--take-over"]);
    drop(damaged);

    let pveversion = altered(&root.join("usr/bin/pveversion"), None);
    script(
        &root.join("usr/bin/pveversion"),
        "#!/bin/sh\necho pve-manager/7.4-3/9002ab8a\n",
    );
    look().has("pve_version", "warn", &["7.4-3", "8 and 9"]);
    drop(pveversion);
    let nft = altered(&root.join("usr/sbin/nft"), None);
    script(
        &root.join("usr/sbin/nft"),
        "#!/bin/sh\necho '{\"nftables\": [{\"metainfo\": {\"version\": \"0.9.0\"}}]}'\n",
    );
    let old = look();
    old.has("nft_version", "warn", &["0.9.0", "update the package nftables"]);
    old.has("published_ports", "fail", &["not in the table", "flushes the ruleset"]);
    script(
        &root.join("usr/sbin/nft"),
        "#!/bin/sh\necho no permission >&2\nexit 1\n",
    );
    look().has(
        "published_ports",
        "fail",
        &["cannot be listed", "no permission", "run this as root"],
    );
    drop(nft);
    look().well("nft_version");

    fs::set_permissions(node.state(), Permissions::from_mode(0o755)).unwrap();
    look().has("state_folder", "fail", &["mode 755", "chmod go="]);
    fs::set_permissions(node.state(), Permissions::from_mode(0o700)).unwrap();

    // What DESIGN says of each kind of storage.
    let storages = altered(&etc_pve.join("storage.cfg"), Some(STORAGES));
    let report = look();
    for (storage, words) in [
        (
            "local (dir)",
            &["suspend or stop", "no clone of a running one", "no rollback"][..],
        ),
        (
            "thin (lvmthin)",
            &["snapshots and clones of running", "rollback to any"],
        ),
        (
            "tank (zfspool)",
            &["snapshots and clones of running", "newest snapshot only"],
        ),
        (
            "ceph (rbd)",
            &["snapshots and clones of running", "any", "shared between nodes"],
        ),
        (
            "butter (btrfs)",
            &[
                "snapshots of volumes",
                "backups suspend or stop",
                "no clone",
                "any snapshot",
            ],
        ),
        ("share (nfs)", &["no clone", "shared between nodes"]),
        ("vault (pbs)", &["backups only", "shared between nodes"]),
    ] {
        let mut all = vec![storage];
        all.extend(words);
        report.has("storage", "ok", &all);
    }
    drop(storages);
    for check in checks {
        look().well(check);
    }
    fleet.stop().await.unwrap();
}

/// A small file system over the state folder, in a mount namespace of its own.
fn on_tmpfs(node: &SimNode, options: &str) -> Report {
    let agent = doctor(node);
    let state = node.state();
    fs::create_dir_all(&state).unwrap();
    let mut command = Command::new("unshare");
    let text = format!("mount -t tmpfs -o mode=700,{options} none \"$1\"; shift; exec \"$@\"");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &text, "sh"]);
    command.arg(&state).arg(agent.get_program()).args(agent.get_args());
    examine(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_one_without_inodes() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: doctor on a full disk: mount namespaces need root");
        return;
    }
    let lone = LoneNode::create().unwrap();
    on_tmpfs(&lone.node, "size=8m").has("disk", "fail", &["MiB are free", "journal", "df -h"]);
    on_tmpfs(&lone.node, "size=64m").has("disk", "warn", &["64 MiB are free", "df -i"]);
    on_tmpfs(&lone.node, "size=1g,nr_inodes=40").has("disk", "fail", &["more files", "df -i"]);
    on_tmpfs(&lone.node, "size=1g,nr_inodes=900").has("disk", "warn", &["more files"]);
    on_tmpfs(&lone.node, "size=1g,nr_inodes=9000").well("disk");
}

fn nft(island: &Island, text: &str) {
    let mut command = Command::new("nft");
    command.arg(text);
    let output = island.on(&command).stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{text}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Rulesets of the kernel's own nft, in a namespace.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernels_own_ruleset_drops_is_said() {
    let Some(island) = Island::new("doctor on real rulesets").unwrap() else {
        return;
    };
    let lone = LoneNode::create().unwrap();
    let real = altered(&lone.node.root().join("usr/sbin/nft"), None);
    std::os::unix::fs::symlink("/usr/sbin/nft", lone.node.root().join("usr/sbin/nft")).unwrap();
    let look = || examine(island.on(&doctor(&lone.node)));
    look().well("packet_filter");
    look().well("nft_version");

    nft(&island, "add table inet filter");
    nft(
        &island,
        "add chain inet filter forward { type filter hook forward priority 0; policy drop; }",
    );
    look().has(
        "packet_filter",
        "warn",
        &[
            "inet filter forward",
            "nft insert rule inet filter forward ct status dnat accept",
        ],
    );
    // Word for word what it says helps.
    nft(&island, "insert rule inet filter forward ct status dnat accept");
    look().well("packet_filter");
    nft(&island, "flush ruleset");

    nft(&island, "add table inet filter");
    nft(
        &island,
        "add chain inet filter input { type filter hook input priority 0; policy drop; }",
    );
    look().has(
        "packet_filter",
        "warn",
        &["inet filter input", "ct state established,related accept"],
    );
    nft(
        &island,
        "insert rule inet filter input ct state established,related accept",
    );
    look().well("packet_filter");
    nft(&island, "flush ruleset");

    // As Docker leaves it, and a chain that ends with a rule instead of a policy.
    nft(&island, "add table ip filter");
    nft(
        &island,
        "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }",
    );
    nft(&island, "add chain ip filter DOCKER-USER");
    nft(&island, "add rule ip filter FORWARD counter jump DOCKER-USER");
    look().has(
        "packet_filter",
        "warn",
        &["ip filter FORWARD", "Docker", "iptables -I DOCKER-USER"],
    );
    nft(&island, "add rule ip filter DOCKER-USER ct status dnat counter accept");
    look().well("packet_filter");
    nft(&island, "flush ruleset");
    nft(&island, "add table inet other");
    nft(
        &island,
        "add chain inet other way { type filter hook forward priority 0; policy accept; }",
    );
    nft(&island, "add rule inet other way counter reject");
    look().has("packet_filter", "warn", &["inet other way"]);
    drop(real);
}
