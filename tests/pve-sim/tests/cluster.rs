//! Clusters in-process and with time in hand: quorum, one list of guests, migration, HA.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pve_sim::ha::{Patience, ServiceState, round};
use pve_sim::{Clock, Cluster, Node, NodeSpec};

const TEMPLATE: &str = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";

#[derive(Debug, Clone)]
struct HandClock(Arc<AtomicU64>);

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn sleep(&self, duration: Duration) {
        self.0
            .fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

struct World {
    folder: tempfile::TempDir,
    cluster: Cluster,
    clock: HandClock,
    patience: Vec<Patience>,
}

impl World {
    fn new(nodes: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::create(&folder.path().join("cluster"), "lab", &["nas"]).unwrap();
        let clock = HandClock(Arc::new(AtomicU64::new(1_700_000_000_000)));
        for number in 1..=nodes {
            let mut spec = NodeSpec::new(&format!("pve{number}"), Ipv4Addr::new(127, 9, number, 1));
            spec.cluster = Some(cluster.clone());
            let root = folder.path().join(format!("pve{number}"));
            Node::create_with_clock(&root, &spec, Arc::new(clock.clone())).unwrap();
        }
        Self {
            folder,
            cluster,
            clock,
            patience: (0..nodes).map(|_| Patience::default()).collect(),
        }
    }

    fn root(&self, number: u8) -> PathBuf {
        self.folder.path().join(format!("pve{number}"))
    }

    fn node(&self, number: u8) -> Node {
        Node::open(&self.root(number))
            .unwrap()
            .with_clock(Arc::new(self.clock.clone()))
    }

    fn run(&self, number: u8, tool: &str, words: &str) -> Result<String, String> {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = self.node(number).run(tool, &words, &mut out, &mut err);
        let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
        if code == 0 { Ok(out) } else { Err(format!("{out}{err}")) }
    }

    fn ok(&self, number: u8, tool: &str, words: &str) -> String {
        self.run(number, tool, words)
            .unwrap_or_else(|said| panic!("{tool} {words} on pve{number}: {said}"))
    }

    fn create(&self, number: u8, vmid: u32, storage: &str) {
        let net = "name=eth0,bridge=vmbr0,ip=dhcp";
        self.ok(
            number,
            "pct",
            &format!("create {vmid} {TEMPLATE} --rootfs {storage}:1 --net0 {net} --onboot 1"),
        );
    }

    fn runs(&self, number: u8, vmid: u32) -> bool {
        self.run(number, "pct", &format!("status {vmid}"))
            .is_ok_and(|status| status == "status: running\n")
    }

    fn file(&self, number: u8, name: &str) -> String {
        std::fs::read_to_string(self.root(number).join("etc/pve").join(name)).unwrap()
    }

    /// So many rounds of HA on every node that has power, ten seconds each.
    fn ha(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.clock.sleep(Duration::from_secs(10));
            let info = self.cluster.info().unwrap();
            for (number, member) in (1..).zip(&info.members) {
                if member.powered {
                    let node = self.node(number);
                    round(&node, &mut self.patience[usize::from(number - 1)]).unwrap();
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Without quorum its folders may not be removed but by root.
        self.cluster.whole_again().unwrap();
    }
}

#[test]
fn nodes_share_one_list_of_guests_and_keep_their_own_view() {
    let world = World::new(3);
    world.create(1, 100, "local");
    let list: serde_json::Value = serde_json::from_str(&world.file(2, ".vmlist")).unwrap();
    assert_eq!(
        (&list["ids"]["100"]["node"], &list["ids"]["100"]["type"]),
        (&"pve1".into(), &"lxc".into())
    );
    let members: serde_json::Value = serde_json::from_str(&world.file(2, ".members")).unwrap();
    assert_eq!(members["nodename"], "pve2");
    assert_eq!(
        (&members["cluster"]["nodes"], &members["cluster"]["quorate"]),
        (&3.into(), &1.into())
    );
    assert_eq!(members["nodelist"]["pve3"]["ip"], "127.9.3.1");
    assert!(world.file(1, "lxc/100.conf").contains("rootfs: local:100/"));
    assert!(!world.root(2).join("etc/pve/lxc/100.conf").exists());
    assert!(world.root(2).join("etc/pve/nodes/pve1/lxc/100.conf").exists());
    let refused = world
        .run(2, "pct", &format!("create 100 {TEMPLATE} --rootfs local:1"))
        .unwrap_err();
    assert!(refused.contains("CT 100 already exists on node 'pve1'"), "{refused}");
    world.node(3).add_stranger("pve3", "qemu", 101).unwrap();
    let refused = world
        .run(2, "pct", &format!("create 101 {TEMPLATE} --rootfs local:1"))
        .unwrap_err();
    assert!(refused.contains("VM 101 already exists on node 'pve3'"), "{refused}");
    assert_eq!(
        world.ok(2, "pvesh", "get /cluster/nextid --output-format json"),
        "102\n"
    );
    world
        .cluster
        .write("datacenter.cfg", "next-id: lower=500,upper=600\n")
        .unwrap();
    assert_eq!(
        world.ok(2, "pvesh", "get /cluster/nextid --output-format json"),
        "500\n"
    );
    world.cluster.power_off("pve3").unwrap();
    let nodes: serde_json::Value =
        serde_json::from_str(&world.ok(2, "pvesh", "get /nodes --output-format json")).unwrap();
    assert_eq!(
        (&nodes[1]["status"], &nodes[2]["node"], &nodes[2]["status"]),
        (&"online".into(), &"pve3".into(), &"offline".into())
    );
    let key = |number| world.file(number, "pve-root-ca.pem");
    assert_eq!(key(1), key(3));
}

#[test]
fn without_quorum_nothing_is_written_and_nothing_new_is_seen() {
    let world = World::new(3);
    world.create(1, 100, "local");
    world.cluster.partition(&[&["pve1"], &["pve2", "pve3"]]).unwrap();
    assert!(world.file(1, ".members").contains("\"quorate\": 0"));
    assert!(world.file(2, ".members").contains("\"quorate\": 1"));
    for (words, says) in [
        ("start 100", "cluster not ready - no quorum?"),
        ("migrate 100 pve2", "cluster not ready - no quorum?"),
        (
            "set 100 --memory 300",
            "unable to open file '/etc/pve/nodes/pve1/lxc/100.conf.tmp.",
        ),
        ("destroy 100", "Permission denied"),
    ] {
        let said = world.run(1, "pct", words).unwrap_err();
        assert!(said.contains(says), "{words}: {said}");
    }
    let said = world
        .run(1, "pct", &format!("create 101 {TEMPLATE} --rootfs local:1"))
        .unwrap_err();
    assert!(said.contains("cluster not ready - no quorum?"), "{said}");
    world.create(2, 101, "local");
    assert!(world.file(3, ".vmlist").contains("101"));
    assert!(!world.file(1, ".vmlist").contains("101"), "it sees what was before");
    world.cluster.heal().unwrap();
    assert!(world.file(1, ".vmlist").contains("101"));
    world.ok(1, "pct", "start 100");
    assert!(world.runs(1, 100));
}

/// Root writes where a mode forbids it, unless it has given CAP_DAC_OVERRIDE away, which is how an agent is run here.
#[test]
fn the_kernel_refuses_whoever_is_not_above_modes() {
    let world = World::new(3);
    let write = |path: &Path| {
        let script = format!("echo x > {0}/fresh && mv {0}/fresh {0}/kept", path.display());
        let mut command = Command::new("sh");
        if nix::unistd::geteuid().is_root() {
            command = Command::new("setpriv");
            let caps = "-dac_override,-dac_read_search";
            command.args(["--bounding-set", caps, "--inh-caps", caps, "sh"]);
        }
        command.args(["-c", &script]).output().unwrap()
    };
    let private = world.root(1).join("etc/pve/priv");
    assert!(write(&private).status.success());
    assert_eq!(world.file(3, "priv/kept"), "x\n", "shared at once");
    world.cluster.partition(&[]).unwrap();
    let refused = write(&private);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Permission denied"),
        "{refused:?}"
    );
    assert_eq!(world.file(1, "priv/kept"), "x\n", "reading goes on");
    world.cluster.heal().unwrap();
    assert!(write(&private).status.success());
}

#[test]
fn a_container_migrates_with_its_disk_and_what_is_inside() {
    let world = World::new(3);
    for (vmid, storage) in [(100, "local"), (101, "nas"), (102, "btr")] {
        world.create(1, vmid, storage);
        world.ok(1, "pct", &format!("start {vmid}"));
        world.ok(1, "pct", &format!("exec {vmid} -- touch /root/mark"));
    }
    let said = world.run(1, "pct", "migrate 100 pve2").unwrap_err();
    assert!(said.contains("without --online or --restart"), "{said}");
    let said = world.ok(1, "pct", "migrate 100 pve2 --restart");
    assert!(
        said.contains("starting migration of CT 100 to node 'pve2' (127.9.2.1)")
            && said.contains("found local volume 'local:100/vm-100-disk-0.raw'")
            && said.contains("migration finished successfully"),
        "{said}"
    );
    assert!(!world.root(1).join("var/lib/vz/images/100").exists());
    assert!(world.root(2).join("var/lib/vz/images/100/vm-100-disk-0.raw").exists());
    assert!(!world.runs(1, 100) && world.runs(2, 100));
    world.ok(2, "pct", "exec 100 -- test -f /root/mark");
    let said = world.ok(1, "pct", "migrate 101 pve3 --restart");
    assert!(
        said.contains("volume 'nas:101/vm-101-disk-0.raw' is on shared storage 'nas'"),
        "{said}"
    );
    assert!(world.runs(3, 101));
    assert!(!world.file(3, "lxc/101.conf").contains("lock"));
    let said = world.run(1, "pct", "migrate 102 pve3 --restart").unwrap_err();
    assert!(said.contains("storage type 'btrfs' not supported"), "{said}");
    assert!(world.runs(1, 102), "it goes on where it was");
    world.cluster.power_off("pve3").unwrap();
    let said = world.run(2, "pct", "migrate 100 pve3 --restart").unwrap_err();
    assert!(said.contains("Can't connect to destination address"), "{said}");
    assert!(world.runs(2, 100));
}

#[test]
fn ha_carries_out_later_what_is_asked_now() {
    let mut world = World::new(3);
    world.create(1, 100, "nas");
    world.ok(1, "ha-manager", "add ct:100");
    assert_eq!(world.file(2, "ha/resources.cfg"), "ct: 100\n\n");
    world.ha(3);
    assert!(world.runs(1, 100), "started is what HA wants by default");
    let said = world.ok(1, "pct", "stop 100");
    assert_eq!(said, "Requesting HA stop for CT 100\n");
    assert!(world.runs(1, 100), "only queued");
    world.ha(3);
    assert!(!world.runs(1, 100));
    assert!(world.file(1, "ha/resources.cfg").contains("\tstate stopped\n"));
    let said = world.ok(1, "pct", "start 100");
    assert_eq!(said, "Requesting HA start for CT 100\n");
    assert!(!world.runs(1, 100));
    world.ha(3);
    assert!(world.runs(1, 100));
    world.ok(1, "pct", "migrate 100 pve3 --restart");
    world.ha(4);
    assert!(world.runs(3, 100) && !world.runs(1, 100));
    world.ok(3, "ha-manager", "set ct:100 --state stopped");
    world.ha(3);
    let said = world.run(3, "pct", "destroy 100").unwrap_err();
    assert!(
        said.contains("unable to remove CT 100 - used in HA resources and purge parameter not set."),
        "{said}"
    );
    world.cluster.write("user.cfg", "pool:apps::100,101::\n").unwrap();
    let said = world.ok(3, "pct", "destroy 100 --purge 1");
    assert!(said.contains("NOTE: removed CT 100 from HA"), "{said}");
    assert_eq!(world.file(1, "ha/resources.cfg"), "");
    assert_eq!(world.file(1, "user.cfg"), "pool:apps::101::\n");
}

#[test]
fn ha_starts_elsewhere_what_a_dead_node_had() {
    let mut world = World::new(3);
    world.create(1, 100, "nas");
    world.ok(1, "pct", "start 100");
    world.ok(1, "ha-manager", "add ct:100 --state started");
    world.create(1, 101, "local");
    world.ok(1, "pct", "start 101");
    world.ha(3);
    world.cluster.power_off("pve1").unwrap();
    world.ha(6);
    assert!(
        world.file(2, ".vmlist").contains("\"100\": { \"node\": \"pve1\""),
        "not dead yet"
    );
    world.ha(10);
    assert!(world.runs(2, 100), "{}", world.file(2, "ha/manager_status"));
    assert!(world.file(2, ".vmlist").contains("\"101\": { \"node\": \"pve1\""));
    world.cluster.power_on("pve1").unwrap();
    world.ha(3);
    assert!(world.runs(1, 101), "started at boot, as it is on no other node");
    assert!(!world.runs(1, 100) && world.runs(2, 100));
}

/// `PVE::API2::Nodes::startall` goes on after a failure.
#[test]
fn a_container_that_cannot_be_started_does_not_keep_its_machine_down() {
    let world = World::new(3);
    for id in [100, 101] {
        world.create(1, id, "local");
    }
    let conf = world.root(1).join("etc/pve/nodes/pve1/lxc/100.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("lock: backup\n{text}")).unwrap();
    world.cluster.power_off("pve1").unwrap();
    world.cluster.power_on("pve1").unwrap();
    assert!(!world.runs(1, 100) && world.runs(1, 101));
}

#[test]
fn a_partitioned_node_with_services_resets_itself_before_they_run_elsewhere() {
    let mut world = World::new(3);
    world.create(1, 100, "nas");
    world.ok(1, "ha-manager", "add 100");
    world.ha(3);
    let boot = |world: &World| std::fs::read_to_string(world.root(1).join("proc/sys/kernel/random/boot_id")).unwrap();
    let before = boot(&world);
    world.cluster.partition(&[&["pve1"], &["pve2", "pve3"]]).unwrap();
    for _ in 0..16 {
        world.ha(1);
        assert!(!(world.runs(1, 100) && world.runs(2, 100)), "never twice");
    }
    assert!(world.runs(2, 100));
    assert_ne!(boot(&world), before);
}

#[test]
fn what_cannot_be_started_is_tried_elsewhere_and_then_given_up() {
    let mut world = World::new(3);
    world.create(1, 100, "local");
    world.ok(1, "ha-manager", "add 100 --max_restart 0");
    // The disk is only here, and gone.
    std::fs::remove_dir_all(world.root(1).join("var/lib/vz/images/100")).unwrap();
    world.ha(12);
    let status: serde_json::Value = serde_json::from_str(&world.file(2, "ha/manager_status")).unwrap();
    let service: pve_sim::ha::ServiceStatus =
        serde_json::from_value(status["service_status"]["ct:100"].clone()).unwrap();
    assert_eq!(service.state, ServiceState::Error, "{status:#}");
    let said = world.run(2, "ha-manager", "set ct:100 --state started").unwrap_err();
    assert!(
        said.contains("in error state, must be disabled and fixed first"),
        "{said}"
    );
    world.ok(2, "ha-manager", "set ct:100 --state disabled");
    world.ha(2);
    world.ok(2, "ha-manager", "remove ct:100");
    world.ha(2);
    let said = world.run(2, "ha-manager", "remove ct:100").unwrap_err();
    assert!(
        said.contains("cannot delete service 'ct:100', not HA managed!"),
        "{said}"
    );
    assert!(
        world
            .ok(2, "ha-manager", "status")
            .starts_with("quorum OK\nmaster pve1")
    );
}
