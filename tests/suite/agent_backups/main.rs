//! Backups as an agent makes, tests, finds again and removes them on a simulated node; what it leaves alone; and what it says when something is wrong.

#![allow(clippy::unwrap_used)]

mod restoring;

use proximity_agent::{
    config::Config,
    host::{NodeContext, OwnMachine},
    jobs::steps::execute,
};
use proximity_protocol::{
    backup::{
        ArchiveRef, ArchivesToDelete, BackupFacts, BackupMade, BackupMode, BackupQuestion, BackupSpec, Compression,
    },
    command::{Command, Outcome, Target, Verb},
    fault::{Fault, FaultKind},
    ids::{Epoch, Generation, OperationId, Owner, StepKey, Vmid},
    spec::{AddressSpec, ContainerSpec, NetworkSpec},
};
use proximity_tests::{
    fleet::LoneNode,
    process::{PATIENCE, until},
    programs::Programs,
};
use pve_sim::{At, Rule, Script};
use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};
use uuid::Uuid;

const STORAGES: &str = "\nlvmthin: local-lvm\n\tthinpool data\n\tvgname pve\n\tcontent rootdir,images\n\npbs: pbs\n\tdatastore main\n\tserver pbs.example.org\n\tcontent backup\n";

/// A node whose agent is called without a link.
struct Bench {
    node: LoneNode,
    context: NodeContext,
}

fn owner() -> Owner {
    Owner {
        app: "nginx-0a1b2c3d".parse().unwrap(),
        generation: Generation(1),
    }
}

fn target() -> Target {
    Target {
        vmid: Vmid::new(100).unwrap(),
        owner: owner(),
    }
}

fn command(operation: u128, attempt: u32, verb: Verb) -> Command {
    Command {
        operation: OperationId(Uuid::from_u128(operation)),
        step: StepKey {
            name: "step".parse().unwrap(),
            undo: false,
            attempt,
        },
        epoch: Epoch(1),
        verb,
    }
}

fn back_up(mode: BackupMode, storage: &str) -> Verb {
    Verb::EnsureBackedUp(BackupSpec {
        target: target(),
        storage: storage.parse().unwrap(),
        mode,
        compression: Compression::Zstd,
    })
}

fn wanted(made: &BackupMade) -> ArchiveRef {
    ArchiveRef {
        archive: made.archive.clone(),
        app: owner().app,
        vmid: target().vmid,
    }
}

fn undo_on(storage: &str) -> Verb {
    Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation {
        target: target(),
        storage: storage.parse().unwrap(),
    })
}

impl Bench {
    /// Container 100 runs, with its root on `storage`.
    async fn new(storage: &str) -> Self {
        let node = LoneNode::create().unwrap();
        let cfg = node.node.root().join("etc/pve/storage.cfg");
        fs::write(&cfg, fs::read_to_string(&cfg).unwrap() + STORAGES).unwrap();
        let config = Config::load(Some(node.node.config())).unwrap();
        let machine = OwnMachine::new(Programs::build().unwrap().agent.clone(), config.host.runner);
        let context = NodeContext::open_on(&config, None, Arc::new(machine)).unwrap();
        let bench = Self { node, context };
        let spec = ContainerSpec {
            vmid: target().vmid,
            owner: owner(),
            hostname: "my-nginx".parse().unwrap(),
            template: "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst".parse().unwrap(),
            storage: storage.parse().unwrap(),
            disk_gb: 1,
            cpu_cores: 1,
            memory_mb: 256,
            swap_mb: 0,
            network: NetworkSpec {
                bridge: "vmbr0".parse().unwrap(),
                vlan: None,
                address: AddressSpec::Static {
                    address: bench.node.node.network.first,
                    prefix: 24,
                    gateway: None,
                },
                dns: vec![],
                mac: None,
            },
            volumes: vec![],
            keyctl: false,
        };
        bench.did(900, 1, Verb::EnsureCreated(spec)).await;
        bench.did(901, 1, Verb::EnsureStarted(target())).await;
        bench
    }

    async fn run(&self, operation: u128, attempt: u32, verb: Verb) -> Result<Outcome, Fault> {
        let (progress, _listen) = tokio::sync::mpsc::unbounded_channel();
        let command = command(operation, attempt, verb);
        let end = tokio::time::timeout(PATIENCE, execute(&self.context, &command, &progress)).await;
        end.unwrap_or_else(|_| panic!("{:?} does not end", command.verb))
    }

    async fn did(&self, operation: u128, attempt: u32, verb: Verb) -> Outcome {
        self.run(operation, attempt, verb.clone())
            .await
            .unwrap_or_else(|fault| panic!("{verb:?}: {fault} {:?}", fault.detail))
    }

    async fn refused(&self, operation: u128, verb: Verb, kind: FaultKind, words: &str) {
        let fault = self.run(operation, 1, verb.clone()).await.expect_err("it was done");
        assert_eq!(fault.kind, kind, "{verb:?}: {fault} {:?}", fault.detail);
        assert!(fault.message.contains(words), "{fault}");
    }

    async fn backed_up(&self, operation: u128, mode: BackupMode, storage: &str) -> BackupMade {
        match self.did(operation, 1, back_up(mode, storage)).await {
            Outcome::BackedUp(made) => *made,
            other => panic!("{other:?}"),
        }
    }

    async fn facts(&self, question: BackupQuestion) -> BackupFacts {
        match self.did(999, 1, Verb::BackupFacts(question)).await {
            Outcome::BackupFacts(facts) => *facts,
            other => panic!("{other:?}"),
        }
    }

    fn tool(&self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.node.node.tool(words[0], &words[1..]).unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.node.node.root().join(path)
    }

    fn status(&self) -> String {
        self.tool("pct status 100").trim().to_owned()
    }

    fn conf(&self) -> String {
        fs::read_to_string(self.path("etc/pve/lxc/100.conf")).unwrap()
    }

    fn dump(&self) -> BTreeSet<String> {
        fs::read_dir(self.path("var/lib/vz/dump"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn records(&self) -> usize {
        fs::read_dir(self.path("etc/pve/priv/proximity/archives")).map_or(0, Iterator::count)
    }

    fn script(&self, rule: Rule) {
        self.node.node.script(&Script::new().rule(rule)).unwrap();
    }
}

fn about(target: Option<Target>, storage: Option<&str>, archive: Option<ArchiveRef>) -> BackupQuestion {
    BackupQuestion {
        target,
        storage: storage.map(|storage| storage.parse().unwrap()),
        archive,
        place: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_made_once_and_tested_and_goes_with_its_record() {
    let bench = Bench::new("local").await;
    bench.tool("pct set 100 --mp0 local:1,mp=/srv/kept,backup=1 --mp1 local:1,mp=/srv/left");
    for (operation, mode) in [(1, BackupMode::Suspend), (2, BackupMode::Stop)] {
        let made = bench.backed_up(operation, mode, "local").await;
        assert_eq!((made.mode, made.format.as_str()), (mode, "tar.zst"));
        assert!(made.size_bytes.is_some_and(|size| size > 0) && made.log.contains("Finished Backup of VM 100"));
        let left: Vec<_> = made.volumes.iter().filter(|volume| volume.left_out.is_some()).collect();
        assert_eq!((made.volumes.len(), left.len()), (3, 1), "{:?}", made.volumes);
        assert_eq!((left[0].key.as_str(), left[0].path.as_str()), ("mp1", "/srv/left"));
        assert_eq!(bench.status(), "status: running");
        // An agent that has forgotten everything finds it again: by its record, and by its notes.
        let count = bench.dump().len();
        let again = bench.did(operation, 2, back_up(mode, "local")).await;
        assert!(
            matches!(&again, Outcome::BackedUp(same) if same.archive == made.archive && same.volumes == made.volumes)
        );
        fs::remove_dir_all(bench.path("etc/pve/priv/proximity/archives")).unwrap();
        let again = bench.did(operation, 3, back_up(mode, "local")).await;
        assert!(
            matches!(&again, Outcome::BackedUp(same) if same.archive == made.archive && same.volumes == made.volumes)
        );
        assert_eq!((bench.dump().len(), bench.records()), (count, 1));

        let test = |sha256| Verb::TestArchive {
            archive: wanted(&made),
            sha256,
        };
        let Outcome::Tested(tested) = bench.did(10 * operation, 1, test(None)).await else {
            panic!()
        };
        assert!(tested.entries.is_some_and(|count| count > 3));
        assert_eq!(
            bench.did(11 * operation, 1, test(tested.sha256)).await,
            Outcome::Tested(tested)
        );
        bench
            .refused(
                12 * operation,
                test(Some([7; 32])),
                FaultKind::ArchiveDamaged,
                "checksum",
            )
            .await;
        let facts = bench
            .facts(about(None, None, Some(wanted(&made))))
            .await
            .archive
            .unwrap();
        assert_eq!((facts.size_bytes, facts.refused), (made.size_bytes, None));
        assert_eq!(facts.volumes, made.volumes);

        let delete = Verb::EnsureArchivesDeleted(ArchivesToDelete::One(wanted(&made)));
        bench.did(13 * operation, 1, delete.clone()).await;
        assert_eq!((bench.dump(), bench.records()), (BTreeSet::new(), 0));
        bench.did(13 * operation, 2, delete).await;
        assert_eq!(bench.facts(about(None, None, Some(wanted(&made)))).await.archive, None);
        bench
            .refused(14 * operation, test(None), FaultKind::ArchiveMissing, "somebody else")
            .await;
    }
    assert!(!bench.path("var/mail/root").exists(), "no mail for what went well");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_storage_cannot_do_is_said_before_anything_begins() {
    let bench = Bench::new("local").await;
    let snapshot = back_up(BackupMode::Snapshot, "local");
    bench
        .refused(1, snapshot.clone(), FaultKind::NotPossible, "suspend or stop")
        .await;
    bench
        .refused(
            2,
            back_up(BackupMode::Stop, "local-lvm"),
            FaultKind::StorageUnavailable,
            "content backup",
        )
        .await;
    fs::create_dir_all(bench.path("etc/pve/ha")).unwrap();
    fs::write(bench.path("etc/pve/ha/resources.cfg"), "ct: 100\n\tstate started\n").unwrap();
    bench
        .refused(
            3,
            back_up(BackupMode::Stop, "local"),
            FaultKind::NotPossible,
            "managed by HA",
        )
        .await;
    fs::remove_file(bench.path("etc/pve/ha/resources.cfg")).unwrap();
    let facts = bench.facts(about(Some(target()), Some("pbs"), None)).await;
    let container = facts.container.unwrap();
    assert!(
        container.running && !container.ha_managed && container.waits_for.is_none() && facts.storage_trouble.is_none()
    );
    assert_eq!(container.volumes[0].storage_kind, "dir");
    let facts = bench.facts(about(None, Some("nostore"), None)).await;
    assert!(facts.storage_trouble.unwrap().contains("nostore"));
    assert_eq!(bench.dump(), BTreeSet::new());
    // What stands still is copied in any mode.
    bench.tool("pct stop 100");
    bench.backed_up(4, BackupMode::Snapshot, "local").await;
    assert_eq!(bench.status(), "status: stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_server_keeps_no_file() {
    let bench = Bench::new("local-lvm").await;
    let made = bench.backed_up(1, BackupMode::Snapshot, "pbs").await;
    assert_eq!((made.format.as_str(), made.mode), ("pbs-ct", BackupMode::Snapshot));
    assert!(!bench.conf().contains("vzdump"));
    fs::remove_dir_all(bench.path("etc/pve/priv/proximity/archives")).unwrap();
    let again = bench.did(1, 2, back_up(BackupMode::Snapshot, "pbs")).await;
    assert!(matches!(again, Outcome::BackedUp(same) if same.archive == made.archive));
    let test = Verb::TestArchive {
        archive: wanted(&made),
        sha256: None,
    };
    let Outcome::Tested(tested) = bench.did(2, 1, test.clone()).await else {
        panic!()
    };
    assert_eq!((tested.sha256, tested.entries), (None, None));
    let offline = bench.path("pbs/pbs/offline");
    fs::write(&offline, "").unwrap();
    bench.refused(3, test, FaultKind::StorageUnavailable, "pbs").await;
    bench
        .refused(
            4,
            back_up(BackupMode::Snapshot, "pbs"),
            FaultKind::StorageUnavailable,
            "",
        )
        .await;
    let delete = Verb::EnsureArchivesDeleted(ArchivesToDelete::One(wanted(&made)));
    bench
        .refused(5, delete.clone(), FaultKind::StorageUnavailable, "pbs")
        .await;
    assert_eq!(bench.records(), 1, "what cannot be seen is not taken for gone");
    fs::remove_file(offline).unwrap();
    bench.did(5, 2, delete).await;
    assert_eq!(bench.records(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_backup_left_is_cleaned_and_nothing_of_others() {
    let bench = Bench::new("local").await;
    let strangers = [
        "vzdump-lxc-100-2020_01_01-00_00_00.tar.dat",
        "vzdump-lxc-100-2020_01_01-00_00_01.tmp",
    ];
    for name in strangers {
        fs::write(bench.path("var/lib/vz/dump").join(name), "").unwrap();
    }
    let theirs: BTreeSet<String> = strangers.map(str::to_owned).into();
    for (operation, fault) in [(1, pve_sim::Fault::KillSelf), (2, pve_sim::Fault::HalfCreate)] {
        bench.script(Rule::on("vzdump", fault.clone()).times(1));
        let ended = bench
            .run(operation, 1, back_up(BackupMode::Stop, "local"))
            .await
            .unwrap_err();
        assert!(ended.kind.retryable(), "{fault:?}: {ended}");
        assert_eq!(bench.status(), "status: running", "{fault:?}");
        assert_eq!(bench.dump(), theirs, "{fault:?}");
        if fault == pve_sim::Fault::KillSelf {
            assert!(!bench.conf().contains("lock:"), "{fault:?}");
        }
        bench.tool("pct unlock 100");
        let made = bench.did(operation, 2, back_up(BackupMode::Stop, "local")).await;
        assert!(matches!(made, Outcome::BackedUp(_)));
        bench.did(operation, 3, undo_on("local")).await;
        assert_eq!((bench.dump(), bench.records()), (theirs.clone(), 0));
    }
    bench.script(Rule::on("vzdump", pve_sim::Fault::DiskFull));
    bench
        .refused(
            3,
            back_up(BackupMode::Stop, "local"),
            FaultKind::DiskFull,
            "storage is full",
        )
        .await;
    assert_eq!((bench.status().as_str(), bench.dump()), ("status: running", theirs));
}

#[tokio::test(flavor = "multi_thread")]
async fn others_at_work_are_waited_for() {
    let bench = Bench::new("local").await;
    bench.tool("pct set 100 --lock backup");
    bench
        .refused(1, back_up(BackupMode::Suspend, "local"), FaultKind::Locked, "backup")
        .await;
    let facts = bench.facts(about(Some(target()), None, None)).await;
    assert!(facts.container.unwrap().waits_for.unwrap().contains("vzdump"));
    bench.tool("pct unlock 100");
    fs::create_dir_all(bench.path("run")).unwrap();
    let lock = fs::File::create(bench.path("run/vzdump.lock")).unwrap();
    lock.lock().unwrap();
    bench
        .refused(
            1,
            back_up(BackupMode::Suspend, "local"),
            FaultKind::Locked,
            "one at a time",
        )
        .await;
    drop(lock);
    bench.did(1, 3, back_up(BackupMode::Suspend, "local")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_way_is_taken_back() {
    let bench = Bench::new("local").await;
    let go = bench.path("go");
    bench.script(
        Rule::on("vzdump", pve_sim::Fault::PauseUntil(go.clone()))
            .at(At::Middle)
            .times(1),
    );
    let begun = tokio::spawn({
        let context = bench.context.clone();
        async move {
            let (progress, _listen) = tokio::sync::mpsc::unbounded_channel();
            execute(&context, &command(1, 1, back_up(BackupMode::Stop, "local")), &progress).await
        }
    });
    let reached = bench.path("go.reached");
    until("vzdump is in its middle", PATIENCE, async || {
        Ok(reached.exists().then_some(()))
    })
    .await
    .unwrap();
    begun.abort();
    // It does not hear TERM in its middle: it is waited for, and what it made is removed.
    let (_, ()) = tokio::join!(bench.did(1, 2, undo_on("local")), async {
        fs::write(&go, "").unwrap();
    });
    assert_eq!(
        (bench.status().as_str(), bench.dump(), bench.records()),
        ("status: running", BTreeSet::new(), 0)
    );
    assert!(!bench.conf().contains("lock:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_protection_and_strangers_archives_have_their_own_words() {
    let bench = Bench::new("local").await;
    let made = bench.backed_up(1, BackupMode::Suspend, "local").await;
    let delete = |archive| Verb::EnsureArchivesDeleted(ArchivesToDelete::One(archive));
    let test = |archive| Verb::TestArchive { archive, sha256: None };
    let others = ArchiveRef {
        app: "nginx-ffffffff".parse().unwrap(),
        ..wanted(&made)
    };
    bench.tool("vzdump 100 --storage local --mode suspend --compress gzip");
    let strangers = ArchiveRef {
        archive: bench
            .tool("pvesm list local --content backup")
            .split_whitespace()
            .find(|word| word.ends_with(".tar.gz"))
            .unwrap()
            .parse()
            .unwrap(),
        ..wanted(&made)
    };
    let before = bench.dump();
    for archive in [others, strangers] {
        bench
            .refused(2, delete(archive.clone()), FaultKind::NotOurs, "not touched")
            .await;
        bench
            .refused(3, test(archive.clone()), FaultKind::NotOurs, "not touched")
            .await;
        let question = Verb::BackupFacts(about(None, None, Some(archive)));
        bench.refused(4, question, FaultKind::NotOurs, "not touched").await;
    }
    assert_eq!(bench.dump(), before);

    let mark = bench
        .path("var/lib/vz/dump")
        .join(format!("{}.protected", made.archive.name()));
    fs::write(&mark, "").unwrap();
    bench
        .refused(5, delete(wanted(&made)), FaultKind::NotPossible, "protected in Proxmox")
        .await;
    assert_eq!(
        bench.dump().len(),
        before.len() + 1,
        "only the mark of protection is new"
    );

    let file = bench.path("var/lib/vz/dump").join(made.archive.name());
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(bytes.len() - 40);
    fs::write(&file, &bytes).unwrap();
    bench
        .refused(6, test(wanted(&made)), FaultKind::ArchiveDamaged, "is damaged")
        .await;
}
