//! Containers that an agent makes of backups beside those that they were made of.

use super::{Bench, about, owner, target, wanted};
use proximity_protocol::{
    backup::{BackupMade, BackupMode, PlaceQuestion, RestoreSpec, RestoredNetwork},
    command::{Outcome, Target, Verb},
    fault::FaultKind,
    ids::{Generation, Owner, Vmid},
    spec::Settings,
};
use pve_sim::{Fault, Rule};
use std::fs;

fn new() -> Target {
    Target {
        vmid: Vmid::new(101).unwrap(),
        owner: Owner {
            generation: Generation(2),
            ..owner()
        },
    }
}

fn spec(made: &BackupMade, network: RestoredNetwork) -> RestoreSpec {
    RestoreSpec {
        vmid: new().vmid,
        owner: new().owner,
        archive: wanted(made),
        storage: "local".parse().unwrap(),
        hostname: None,
        network,
        settings: Settings {
            memory_mb: Some(300),
            ..Settings::default()
        },
        disk_gb: Some(2),
        of_adopted: false,
    }
}

fn line(conf: &str, key: &str) -> Option<String> {
    let found = conf.lines().find(|line| line.starts_with(&format!("{key}:")));
    found.map(str::to_owned)
}

impl Bench {
    fn conf_of(&self, vmid: u32) -> Option<String> {
        fs::read_to_string(self.path(&format!("etc/pve/lxc/{vmid}.conf"))).ok()
    }

    fn record_of(&self, vmid: u32) -> Option<String> {
        fs::read_to_string(self.path(&format!("etc/pve/priv/proximity/{vmid}"))).ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_made_beside_the_other_once_and_does_not_start_by_itself() {
    let bench = Bench::new("local").await;
    bench.tool("pct set 100 --tags proximity;mine --mp0 local:1,mp=/srv/kept,backup=1");
    fs::write(bench.path("var/lib/lxc/100/files/note"), "before").unwrap();
    let made = bench.backed_up(1, BackupMode::Suspend, "local").await;
    let before = bench.conf();
    let restore = Verb::EnsureRestored(spec(&made, RestoredNetwork::Of(target())));
    for attempt in 1..=2 {
        assert!(matches!(
            bench.did(2, attempt, restore.clone()).await,
            Outcome::Created { mac: Some(_) }
        ));
        let conf = bench.conf_of(101).unwrap();
        assert_eq!(
            line(&conf, "net0"),
            line(&before, "net0"),
            "by either kind of address the other"
        );
        for (key, value) in [
            ("onboot", "onboot: 0"),
            ("unprivileged", "unprivileged: 1"),
            ("memory", "memory: 300"),
            ("hostname", "hostname: my-nginx"),
        ] {
            assert_eq!(line(&conf, key).as_deref(), Some(value), "{conf}");
        }
        assert!(line(&conf, "tags").unwrap().contains("mine") && line(&conf, "tags").unwrap().contains("proximity"));
        assert!(
            line(&conf, "rootfs").unwrap().contains("size=2G") && line(&conf, "mp0").unwrap().contains("/srv/kept")
        );
        assert_eq!(bench.tool("pct status 101").trim(), "status: stopped");
    }
    assert_eq!(
        fs::read_to_string(bench.path("var/lib/lxc/101/files/note")).unwrap(),
        "before"
    );
    assert_eq!(
        (bench.conf(), bench.status().as_str()),
        (before, "status: running"),
        "the other is as it was"
    );

    let onboot = |target, onboot| Verb::EnsureOnboot { target, onboot };
    for wanted in [true, true, false] {
        bench.did(3, u32::from(wanted) + 1, onboot(new(), wanted)).await;
        let expected = format!("onboot: {}", u8::from(wanted));
        assert_eq!(line(&bench.conf_of(101).unwrap(), "onboot"), Some(expected));
    }
    bench.tool("pct set 100 --lock backup");
    bench
        .refused(4, onboot(target(), false), FaultKind::Locked, "backup")
        .await;
    bench.tool("pct unlock 100");
    bench.did(5, 1, Verb::EnsureDestroyed(new())).await;
    assert_eq!((bench.conf_of(101), bench.record_of(101)), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_has_no_network_and_is_looked_at_from_inside() {
    let bench = Bench::new("local").await;
    let made = bench.backed_up(1, BackupMode::Suspend, "local").await;
    bench
        .did(2, 1, Verb::EnsureRestored(spec(&made, RestoredNetwork::Cut)))
        .await;
    assert_eq!(line(&bench.conf_of(101).unwrap(), "net0"), None);
    let look = Verb::CheckFiles {
        target: new(),
        timeout_s: 20,
    };
    bench
        .refused(3, look.clone(), FaultKind::ContainerStopped, "not running")
        .await;
    bench.did(4, 1, Verb::EnsureStarted(new())).await;
    bench.did(5, 1, look).await;
    bench.did(6, 1, Verb::EnsureDestroyed(new())).await;
    assert_eq!(bench.conf_of(101), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_said_and_what_was_half_made_is_made_anew() {
    let bench = Bench::new("local").await;
    let made = bench.backed_up(1, BackupMode::Suspend, "local").await;
    let restore = |change: &dyn Fn(&mut RestoreSpec)| {
        let mut spec = spec(&made, RestoredNetwork::AsSaved);
        change(&mut spec);
        Verb::EnsureRestored(spec)
    };
    let nowhere = restore(&|spec| spec.storage = "pbs".parse().unwrap());
    bench
        .refused(2, nowhere, FaultKind::StorageUnavailable, "rootdir")
        .await;
    let others = restore(&|spec| spec.archive.app = "nginx-ffffffff".parse().unwrap());
    bench.refused(3, others, FaultKind::NotOurs, "not touched").await;
    // A bridge that is not there, told before anything is made, and by the question that goes before.
    bench.tool("pct set 100 --net0 name=eth0,bridge=vmbr9,ip=dhcp");
    let of = restore(&|spec| spec.network = RestoredNetwork::Of(target()));
    bench.refused(4, of, FaultKind::BridgeMissing, "vmbr9").await;
    let mut question = about(Some(target()), None, Some(wanted(&made)));
    question.place = Some(PlaceQuestion {
        vmid: new().vmid,
        owner: new().owner,
        storage: "local".parse().unwrap(),
        bridge: None,
    });
    bench
        .refused(5, Verb::BackupFacts(question), FaultKind::BridgeMissing, "vmbr9")
        .await;
    assert_eq!((bench.conf_of(101), bench.record_of(101)), (None, None));

    bench.script(Rule::on("pct", Fault::DiskFull).subcommand("restore").times(1));
    bench.refused(6, restore(&|_| ()), FaultKind::DiskFull, "full").await;
    assert_eq!(
        (bench.conf_of(101), bench.record_of(101)),
        (None, None),
        "nothing is left"
    );
    for (operation, fault) in [(7, Fault::KillSelf), (8, Fault::LoseAnswer)] {
        bench.script(Rule::on("pct", fault.clone()).subcommand("restore").times(1));
        let first = bench.run(operation, 1, restore(&|_| ())).await;
        if let Err(first) = first {
            assert!(first.kind.retryable(), "{fault:?}: {first}");
        }
        bench.did(operation, 2, restore(&|_| ())).await;
        assert!(line(&bench.conf_of(101).unwrap(), "rootfs").is_some());
        bench.did(operation, 3, Verb::EnsureDestroyed(new())).await;
        let images = fs::read_dir(bench.path("var/lib/vz/images/101")).map_or(0, Iterator::count);
        assert_eq!((bench.conf_of(101), images), (None, 0), "{fault:?}");
    }
    // Its archive goes while nobody looks.
    fs::remove_file(bench.path("var/lib/vz/dump").join(made.archive.name())).unwrap();
    bench
        .refused(9, restore(&|_| ()), FaultKind::ArchiveMissing, "somebody else")
        .await;
    assert_eq!(bench.status(), "status: running");
}
