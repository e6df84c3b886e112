//! Commands and what is answered to them.

use super::{EPOCH, Sample, conversation::inventory, fault, operation, owner, sample, step, vmid};
use proximity_protocol::{
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

fn faults() -> [FaultKind; 25] {
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
    ]
}
