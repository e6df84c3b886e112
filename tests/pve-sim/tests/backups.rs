//! Backups through the executable door: what a killed `vzdump` leaves, modes and storages, pruning, mail, what comes back.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pve_sim::{Fault, Node, NodeSpec, Rule, Script};

const STORAGES: &str = "\nlvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n\npbs: pbs\n\tdatastore main\n\tserver pbs.example.org\n\tcontent backup\n";

struct Sim {
    folder: tempfile::TempDir,
}

impl Sim {
    fn new(test: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [low, high, ..] = std::process::id().to_le_bytes();
        let at = |host| Ipv4Addr::new(127, 64 + low % 128, 240 - (high % 10) * 12 - test, host);
        let mut spec = NodeSpec::new("pve1", at(1)).executable(Path::new(env!("CARGO_BIN_EXE_pve-sim")));
        spec.dhcp_range = (at(100), at(200));
        Node::create(&folder.path().join("root"), &spec).unwrap();
        let sim = Self { folder };
        let cfg = sim.root().join("etc/pve/storage.cfg");
        fs::write(&cfg, fs::read_to_string(&cfg).unwrap() + STORAGES).unwrap();
        sim
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root").canonicalize().unwrap()
    }

    fn run(&self, line: &str) -> Output {
        let words: Vec<&str> = line.split(' ').collect();
        Command::new(self.root().join("usr/bin").join(words[0]))
            .args(&words[1..])
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn container(&self, storage: &str) {
        let template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
        self.ok(&format!(
            "pct create 100 {template} --rootfs {storage}:1 --mp0 {storage}:1,mp=/srv/kept,backup=1 --mp1 {storage}:1,mp=/srv/left --unprivileged 1"
        ));
        self.ok("pct start 100");
        self.ok("pct exec 100 -- mkdir -p /srv/kept /srv/left");
        for file in ["/root/a", "/srv/kept/b", "/srv/left/c"] {
            self.ok(&format!("pct exec 100 -- touch {file}"));
        }
    }

    fn dump(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root().join("var/lib/vz/dump"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn conf(&self, vmid: u32) -> String {
        fs::read_to_string(self.root().join(format!("etc/pve/lxc/{vmid}.conf"))).unwrap()
    }

    fn has(&self, vmid: u32, file: &str) -> bool {
        self.root().join(format!("var/lib/lxc/{vmid}/files{file}")).exists()
    }

    fn backups(&self, storage: &str) -> Vec<String> {
        let listed = self.ok(&format!("pvesm list {storage} --content backup"));
        listed
            .lines()
            .skip(1)
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn a_killed_vzdump_leaves_what_the_real_one_leaves() {
    let sim = Sim::new(0);
    sim.container("local");
    let kill = Script::new().rule(Rule::on("vzdump", Fault::KillSelf).times(1));
    for (mode, status, left) in [("stop", "stopped", 2), ("suspend", "running", 0)] {
        kill.write(&sim.root()).unwrap();
        assert!(
            !sim.run(&format!("vzdump 100 --storage local --mode {mode}"))
                .status
                .success()
        );
        assert_eq!(sim.ok("pct status 100").trim(), format!("status: {status}"), "{mode}");
        assert!(!sim.conf(100).contains("lock:"), "{mode}");
        let names = sim.dump();
        assert_eq!(names.len(), left, "{names:?}");
        assert!(
            names
                .iter()
                .all(|name| name.ends_with(".tar.dat") || name.ends_with(".tmp")),
            "{names:?}"
        );
        for name in names {
            let path = sim.root().join("var/lib/vz/dump").join(name);
            if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        }
        sim.run("pct start 100");
    }
    // A machine that loses power keeps the lock as well.
    let crash = Script::new().rule(Rule::on("vzdump", Fault::HalfCreate).times(1));
    crash.write(&sim.root()).unwrap();
    sim.run("vzdump 100 --storage local --mode stop");
    assert!(sim.conf(100).contains("lock: backup"));
    assert_eq!(sim.dump().len(), 2);
}

#[test]
fn an_archive_holds_what_is_said_and_comes_back() {
    let sim = Sim::new(1);
    sim.container("local");
    for (compress, end) in [
        ("zstd", "tar.zst"),
        ("gzip", "tar.gz"),
        ("lzo", "tar.lzo"),
        ("0", "tar"),
    ] {
        let said = sim.ok(&format!(
            "vzdump 100 --storage local --mode suspend --compress {compress} --notes-template {{{{guestname}}}}-{{{{vmid}}}}"
        ));
        assert!(
            said.contains("excluding volume mount point mp1 ('/srv/left') from backup (disabled)"),
            "{said}"
        );
        let volid = sim
            .backups("local")
            .into_iter()
            .find(|volid| volid.ends_with(&format!(".{end}")))
            .unwrap();
        assert!(
            sim.ok(&format!("pvesm extractconfig {volid}"))
                .contains("mp0: local:100/vm-100-disk-1.raw")
        );
        let file = sim
            .root()
            .join("var/lib/vz/dump")
            .join(volid.split('/').nth(1).unwrap());
        assert_eq!(
            fs::read_to_string(format!("{}.notes", file.display())).unwrap(),
            "CT100-100"
        );
        sim.ok(&format!("pct restore 101 {volid} --storage local"));
        assert!(sim.has(101, "/root/a") && sim.has(101, "/srv/kept/b") && !sim.has(101, "/srv/left/c"));
        assert!(!sim.has(101, "/etc/vzdump"));
        sim.ok("pct destroy 101");
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes.truncate(middle);
        fs::write(&file, bytes).unwrap();
        let broken = sim.run(&format!("pct restore 101 {volid} --storage local"));
        assert!(!broken.status.success(), "{compress}");
        assert!(!sim.root().join("etc/pve/lxc/101.conf").exists());
        sim.ok(&format!("pvesm free {volid}"));
        assert!(sim.dump().is_empty(), "{:?}", sim.dump());
    }
}

#[test]
fn lvm_thin_is_backed_up_and_cloned_through_snapshots() {
    let sim = Sim::new(2);
    sim.container("local-lvm");
    assert!(
        sim.conf(100).contains("rootfs: local-lvm:vm-100-disk-0,size=1G"),
        "{}",
        sim.conf(100)
    );
    let said = sim.ok("vzdump 100 --storage local --mode snapshot --compress zstd");
    assert!(
        said.contains("backup mode: snapshot") && said.contains("cleanup temporary 'vzdump' snapshot"),
        "{said}"
    );
    assert!(!sim.conf(100).contains("vzdump"), "{}", sim.conf(100));
    sim.ok("pct snapshot 100 before");
    sim.ok("pct exec 100 -- touch /root/later");
    sim.ok("pct clone 100 101 --snapname before --full 1 --hostname copy");
    assert!(sim.has(101, "/root/a") && !sim.has(101, "/root/later"));
    sim.ok("pct rollback 100 before");
    assert!(!sim.has(100, "/root/later"));
    sim.ok("pct delsnapshot 100 before");
    sim.ok("pct destroy 100");
    sim.ok("pct destroy 101");
    assert_eq!(fs::read_dir(sim.root().join("dev/pve")).unwrap().count(), 0);
}

#[test]
fn a_backup_server_has_no_archive_file() {
    let sim = Sim::new(3);
    sim.container("local");
    let said = sim.ok("vzdump 100 --storage pbs --mode stop --notes-template mine");
    assert!(
        said.contains("INFO: creating Proxmox Backup Server archive 'ct/100/"),
        "{said}"
    );
    let volid = sim.backups("pbs").pop().unwrap();
    assert!(volid.starts_with("pbs:backup/ct/100/20"), "{volid}");
    let listed = sim.ok("pvesh get /nodes/pve1/storage/pbs/content --content backup --vmid 100 --output-format json");
    assert!(
        listed.contains("\"notes\":\"mine\"") && listed.contains("\"format\":\"pbs-ct\""),
        "{listed}"
    );
    sim.ok(&format!("pct restore 101 {volid} --storage local"));
    assert!(sim.has(101, "/srv/kept/b"));
    fs::write(sim.root().join("pbs/pbs/offline"), "").unwrap();
    for line in [
        "vzdump 100 --storage pbs".to_owned(),
        format!("pct restore 102 {volid}"),
        format!("pvesm free {volid}"),
    ] {
        let output = sim.run(&line);
        assert!(!output.status.success(), "{line}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("Can't connect"),
            "{output:?}"
        );
    }
    fs::remove_file(sim.root().join("pbs/pbs/offline")).unwrap();
    sim.ok(&format!("pvesm free {volid}"));
    assert!(sim.backups("pbs").is_empty());
}

#[test]
fn older_archives_go_and_mail_is_sent_unless_told_not_to() {
    let sim = Sim::new(4);
    sim.container("local");
    let cfg = sim.root().join("etc/pve/storage.cfg");
    let text = fs::read_to_string(&cfg).unwrap();
    fs::write(
        &cfg,
        text.replacen(
            "\tpath /var/lib/vz\n",
            "\tpath /var/lib/vz\n\tprune-backups keep-last=1\n",
            1,
        ),
    )
    .unwrap();
    let mail = sim.root().join("var/mail/root");
    let quiet = "--notification-mode legacy-sendmail --mailnotification failure";
    for (line, left, mailed) in [
        (
            format!("vzdump 100 --storage local --mode suspend --compress zstd --remove 0 {quiet}"),
            1,
            false,
        ),
        (
            format!("vzdump 100 --storage local --mode suspend --compress gzip --remove 0 {quiet}"),
            2,
            false,
        ),
        (
            "vzdump 100 --storage local --mode suspend --compress lzo".to_owned(),
            1,
            true,
        ),
    ] {
        sim.ok(&line);
        assert_eq!(sim.backups("local").len(), left, "{line}");
        assert_eq!(mail.exists(), mailed, "{line}");
    }
    fs::rename(sim.root().join("mnt/btr"), sim.root().join("mnt/away")).unwrap();
    let output = sim.run("vzdump 100 --storage btr");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("does not exist or is unreachable"),
        "{said}"
    );
}
