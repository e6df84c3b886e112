//! Commands and what is answered to them.

use super::{EPOCH, Sample, conversation::inventory, fault, operation, owner, sample, step, vmid};
use proximity_protocol::{
    backup::{
        ArchiveFacts, ArchiveRef, ArchiveTested, ArchivesToDelete, BackupFacts, BackupMade, BackupMode, BackupQuestion,
        BackupSpec, Compression, ContainerBackupFacts, PlaceQuestion, RestoreSpec, RestoredNetwork, VolumeBackupFacts,
    },
    command::{Command, Confirm, Outcome, Progress, Reply, Target, Verb},
    examined::{Adopted, Examination, Examined, Listening, OtherGuest, Permission},
    fault::FaultKind,
    observed::{RecordObserved, RunState},
    secret::SecretText,
    spec::{AddressSpec, ContainerSpec, NetworkSpec, Recipe, RecipeFile, Settings, Values, VolumeSpec},
};

pub(super) fn all() -> Vec<Sample> {
    let mut all: Vec<Sample> = verbs()
        .into_iter()
        .chain(backup_verbs())
        .map(|(name, verb)| {
            sample(
                format!("command.{name}"),
                &Command {
                    operation: operation(),
                    step: step(),
                    epoch: EPOCH,
                    verb,
                },
            )
        })
        .collect();
    all.push(sample("reply.accepted", &Reply::Accepted));
    let progress = Progress {
        message: "unpacks".into(),
        percent: Some(40),
    };
    all.push(sample("reply.progress", &Reply::Progress(progress)));
    all.extend(
        outcomes()
            .into_iter()
            .chain(backup_outcomes())
            .map(|(name, outcome)| sample(format!("reply.finished.{name}"), &Reply::Finished(Ok(outcome)))),
    );
    all.extend(faults().map(|kind| sample(format!("reply.fault.{kind:?}"), &Reply::Finished(Err(fault(kind))))));
    all
}

fn target() -> Target {
    Target {
        vmid: vmid(),
        owner: owner(),
    }
}

fn spec(address: AddressSpec) -> ContainerSpec {
    ContainerSpec {
        vmid: vmid(),
        owner: owner(),
        hostname: "web-server".parse().unwrap(),
        template: "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst".parse().unwrap(),
        storage: "local-lvm".parse().unwrap(),
        disk_gb: 8,
        cpu_cores: 2,
        memory_mb: 512,
        swap_mb: 256,
        network: NetworkSpec {
            bridge: "vmbr0".parse().unwrap(),
            vlan: Some(12),
            address,
            dns: vec![[9, 9, 9, 9].into()],
            mac: Some("BC:24:11:85:80:3C".parse().unwrap()),
        },
        volumes: vec![VolumeSpec {
            path: "/var/lib/data".parse().unwrap(),
            size_gb: 4,
        }],
        keyctl: true,
    }
}

fn archive() -> ArchiveRef {
    ArchiveRef {
        archive: "local:backup/vzdump-lxc-104-2026_11_22-21_11_12.tar.zst"
            .parse()
            .unwrap(),
        app: owner().app,
        vmid: vmid(),
    }
}

fn backup_spec(mode: BackupMode, compression: Compression) -> Verb {
    Verb::EnsureBackedUp(BackupSpec {
        target: target(),
        storage: "local".parse().unwrap(),
        mode,
        compression,
    })
}

fn backup_verbs() -> Vec<(&'static str, Verb)> {
    let question = BackupQuestion {
        target: Some(target()),
        storage: Some("local".parse().unwrap()),
        archive: Some(archive()),
        place: Some(PlaceQuestion {
            vmid: vmid(),
            owner: owner(),
            storage: "local-lvm".parse().unwrap(),
            bridge: Some("vmbr0".parse().unwrap()),
        }),
    };
    let nothing = BackupQuestion {
        target: None,
        storage: None,
        archive: None,
        place: None,
    };
    vec![
        ("backup_facts", Verb::BackupFacts(question)),
        ("backup_facts.nothing", Verb::BackupFacts(nothing)),
        ("ensure_backed_up", backup_spec(BackupMode::Snapshot, Compression::Zstd)),
        (
            "ensure_backed_up.suspend",
            backup_spec(BackupMode::Suspend, Compression::Gzip),
        ),
        ("ensure_backed_up.stop", backup_spec(BackupMode::Stop, Compression::Lzo)),
        (
            "test_archive",
            Verb::TestArchive {
                archive: archive(),
                sha256: Some([0xCD; 32]),
            },
        ),
        (
            "ensure_archives_deleted",
            Verb::EnsureArchivesDeleted(ArchivesToDelete::One(archive())),
        ),
        (
            "ensure_archives_deleted.of_this_operation",
            Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation {
                target: target(),
                storage: "local".parse().unwrap(),
            }),
        ),
        ("ensure_restored", restore(RestoredNetwork::Of(target()))),
        ("ensure_restored.as_saved", restore(RestoredNetwork::AsSaved)),
        (
            "ensure_restored.replaced",
            restore(RestoredNetwork::Replaced(spec(AddressSpec::Dhcp).network)),
        ),
        ("ensure_restored.cut", restore(RestoredNetwork::Cut)),
        (
            "ensure_onboot",
            Verb::EnsureOnboot {
                target: target(),
                onboot: true,
            },
        ),
        (
            "check_files",
            Verb::CheckFiles {
                target: target(),
                timeout_s: 60,
            },
        ),
    ]
}

fn restore(network: RestoredNetwork) -> Verb {
    Verb::EnsureRestored(RestoreSpec {
        vmid: vmid(),
        owner: owner(),
        archive: archive(),
        storage: "local-lvm".parse().unwrap(),
        hostname: Some("my-nginx".parse().unwrap()),
        network,
        settings: Settings {
            cpu_cores: Some(2),
            memory_mb: None,
            swap_mb: Some(0),
        },
        disk_gb: Some(4),
        of_adopted: false,
    })
}

fn backup_outcomes() -> Vec<(&'static str, Outcome)> {
    let volumes = vec![VolumeBackupFacts {
        key: "mp0".into(),
        path: "/srv".into(),
        storage_kind: "lvmthin".into(),
        left_out: Some("backup=1 is not set".into()),
    }];
    let facts = BackupFacts {
        container: Some(ContainerBackupFacts {
            running: true,
            onboot: true,
            ha_managed: false,
            waits_for: Some("a backup (vzdump)".into()),
            volumes: volumes.clone(),
        }),
        storage_trouble: Some("it is not mounted".into()),
        archive: Some(ArchiveFacts {
            size_bytes: Some(57_127_923),
            volumes: volumes.clone(),
            refused: None,
        }),
    };
    let made = BackupMade {
        archive: archive().archive,
        format: "tar.zst".into(),
        size_bytes: Some(57_127_923),
        mode: BackupMode::Suspend,
        volumes,
        duration_s: 8,
        log: "INFO: Backup job finished successfully\n".into(),
    };
    vec![
        ("backup_facts", Outcome::BackupFacts(Box::new(facts))),
        ("backed_up", Outcome::BackedUp(Box::new(made))),
        (
            "tested",
            Outcome::Tested(ArchiveTested {
                sha256: Some([0xCD; 32]),
                entries: Some(8485),
            }),
        ),
    ]
}

fn verbs() -> Vec<(&'static str, Verb)> {
    let address = [10, 0, 0, 5].into();
    let confirm = Confirm {
        owner: owner(),
        vmid: vmid(),
        public_port: 30_080,
        address: Some(address),
        bridge: "vmbr0".parse().unwrap(),
        storage: "local-lvm".parse().unwrap(),
    };
    let recipe = Recipe {
        install: "#!/bin/sh\n".into(),
        health: "#!/bin/sh\n".into(),
        files: vec![RecipeFile {
            name: "index.html".to_owned().try_into().unwrap(),
            content: b"<p>".to_vec(),
        }],
        env: vec![("PASSWORD".parse().unwrap(), SecretText::new("hidden"))],
        port: 80,
        install_timeout_s: 600,
    };
    let fixed = AddressSpec::Static {
        address,
        prefix: 24,
        gateway: Some([10, 0, 0, 1].into()),
    };
    vec![
        ("inventory", Verb::Inventory),
        ("confirm", Verb::Confirm(confirm)),
        (
            "ensure_template",
            Verb::EnsureTemplate {
                storage: "local".parse().unwrap(),
                prefix: "debian-12-standard".parse().unwrap(),
            },
        ),
        ("ensure_created", Verb::EnsureCreated(spec(fixed))),
        ("ensure_started", Verb::EnsureStarted(target())),
        (
            "ensure_stopped",
            Verb::EnsureStopped {
                target: target(),
                timeout_s: 60,
            },
        ),
        (
            "await_network",
            Verb::AwaitNetwork {
                target: target(),
                expect: Some(address),
                timeout_s: 60,
            },
        ),
        (
            "install_recipe",
            Verb::InstallRecipe {
                target: target(),
                recipe,
            },
        ),
        (
            "await_healthy",
            Verb::AwaitHealthy {
                target: target(),
                timeout_s: 300,
            },
        ),
        (
            "ensure_published",
            Verb::EnsurePublished {
                target: target(),
                public_port: 30_080,
                address,
                port: 80,
            },
        ),
        (
            "ensure_unpublished",
            Verb::EnsureUnpublished {
                target: target(),
                public_port: 30_080,
            },
        ),
        ("ensure_destroyed", Verb::EnsureDestroyed(target())),
        ("records", Verb::Records),
        ("examine", Verb::Examine { only: Some(vmid()) }),
        ("examine.all", Verb::Examine { only: None }),
        ("ensure_adopted", Verb::EnsureAdopted(target())),
        ("ensure_released", Verb::EnsureReleased(target())),
        (
            "ensure_configured",
            Verb::EnsureConfigured {
                target: target(),
                settings: Settings {
                    cpu_cores: Some(4),
                    memory_mb: Some(1024),
                    swap_mb: None,
                },
            },
        ),
        (
            "ensure_grown",
            Verb::EnsureGrown {
                target: target(),
                disk_gb: 12,
            },
        ),
        (
            "rewrite_values",
            Verb::RewriteValues {
                target: target(),
                values: Values {
                    env: vec![("PASSWORD".parse().unwrap(), SecretText::new("hidden"))],
                    forget: vec!["COLOR".parse().unwrap()],
                    timeout_s: 600,
                },
            },
        ),
        (
            "ensure_migrated",
            Verb::EnsureMigrated {
                target: target(),
                to: "pve2".parse().unwrap(),
            },
        ),
        ("ensure_created.dhcp", Verb::EnsureCreated(spec(AddressSpec::Dhcp))),
    ]
}

fn outcomes() -> Vec<(&'static str, Outcome)> {
    let address = [10, 0, 0, 5].into();
    vec![
        ("done", Outcome::Done),
        ("inventory", Outcome::Inventory(Box::new(inventory()))),
        ("confirmed", Outcome::Confirmed),
        (
            "template",
            Outcome::Template {
                volume: "local:vztmpl/debian-12.tar.zst".parse().unwrap(),
            },
        ),
        (
            "created",
            Outcome::Created {
                mac: Some("BC:24:11:85:80:3C".parse().unwrap()),
            },
        ),
        ("network", Outcome::Network { address }),
        ("published", Outcome::Published { address }),
        (
            "records",
            Outcome::Records(vec![RecordObserved {
                vmid: vmid(),
                owner: owner(),
                operation: operation(),
                began_unix_s: 1_795_379_901,
            }]),
        ),
        ("examined", Outcome::Examined(Box::new(examination()))),
        (
            "adopted",
            Outcome::Adopted(Box::new(Adopted {
                mac: Some("BC:24:11:85:80:3C".parse().unwrap()),
                running: true,
                configuration: "hostname: web\n".into(),
            })),
        ),
        (
            "configured",
            Outcome::Configured {
                pending: vec!["memory".into()],
            },
        ),
        ("grown", Outcome::Grown { disk_gb: 12 }),
    ]
}

fn examination() -> Examination {
    let denied = Permission::Denied {
        because: "what to change".into(),
    };
    Examination {
        quorate: true,
        unreadable: vec!["addresses of container 104".into()],
        containers: vec![Examined {
            vmid: vmid(),
            hostname: Some("web".into()),
            state: RunState::Running,
            lock: Some("backup".into()),
            template: false,
            half_made: false,
            owner: Some(owner()),
            adopted: true,
            cpu_cores: Some(2),
            memory_mb: 512,
            swap_mb: 256,
            memory_used_bytes: Some(41 << 20),
            root_volume: Some("local-lvm:vm-104-disk-0".into()),
            mounts: vec!["local-lvm:vm-104-disk-1".into()],
            ha: false,
            disk_total_bytes: Some(8 << 30),
            disk_used_bytes: None,
            uptime_s: Some(77),
            addresses: vec![[10, 0, 0, 5].into()],
            listening: Some(vec![Listening {
                port: 80,
                outside: true,
            }]),
            pending: vec!["features".into()],
            adoption: denied.clone(),
        }],
        others: vec![OtherGuest {
            vmid: vmid(),
            node: "pve2".into(),
            machine: true,
        }],
        destroys_adopted: Permission::Granted,
    }
}

fn faults() -> [FaultKind; 28] {
    use FaultKind::*;
    [
        Malformed,
        UnknownVerb,
        OldEpoch,
        PolicyDenied,
        NotOurs,
        VmidTaken,
        PortTaken,
        AddressTaken,
        Locked,
        NotQuorate,
        ToolFailed,
        InDoubt,
        TemplateUnavailable,
        StorageUnavailable,
        BridgeMissing,
        DiskFull,
        ContainerMissing,
        ContainerStopped,
        RecipeFailed,
        Unhealthy,
        DeadlineExceeded,
        ShuttingDown,
        Internal,
        MovedToOtherNode,
        Cancelled,
        ArchiveMissing,
        ArchiveDamaged,
        NotPossible,
    ]
}
