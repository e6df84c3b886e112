//! A coordinator that the agent trusts by certificate and that wants more than it may have. Whatever it says, the agent refuses, says why, stays on the
//! line, and the node is as it was.

#![allow(clippy::unwrap_used)]

use proximity_protocol::{
    codec,
    command::{Command, Confirm, Outcome, Target, Verb},
    fault::{Fault, FaultKind},
    ids::{Epoch, Generation, OperationId, Owner, StepKey, Vmid},
    secret::SecretText,
    spec::{AddressSpec, ContainerSpec, NetworkSpec, Recipe, Settings, Values, VolumeSpec},
};
use proximity_tests::{
    fleet::{LoneNode, NodeNet},
    impostor::{Impostor, Link},
    process::PATIENCE,
};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};

mod adoption;
mod texts;

const STRANGER: u32 = 150;

struct Stage {
    node: LoneNode,
    link: Link,
    _impostor: Arc<Impostor>,
}

/// A node with a stranger's container 150 and a policy, joined to an impostor.
async fn stage() -> Stage {
    let mut node = LoneNode::create().unwrap();
    node.node
        .tool(
            "pct",
            &[
                "create",
                "150",
                "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
                "--rootfs",
                "local:1",
                "--hostname",
                "strangers",
            ],
        )
        .unwrap();
    node.node.tool("pct", &["start", "150"]).unwrap();
    std::fs::create_dir_all(node.node.policy().parent().unwrap()).unwrap();
    std::fs::write(node.node.policy(), "vmid = [100, 199]\n").unwrap();
    let impostor = Arc::new(Impostor::listen().unwrap());
    let token = impostor.token().unwrap();
    let enrolling = tokio::spawn({
        let impostor = Arc::clone(&impostor);
        async move { impostor.enrol().await }
    });
    tokio::task::block_in_place(|| node.node.join(&token)).unwrap();
    assert_eq!(enrolling.await.unwrap().unwrap().as_str(), node.node.name);
    node.node.start_agent().unwrap();
    let link = tokio::time::timeout(PATIENCE, impostor.link())
        .await
        .unwrap_or_else(|_| panic!("no link\n{}", node.node.agent_log()))
        .unwrap();
    Stage {
        node,
        link,
        _impostor: impostor,
    }
}

fn owner() -> Owner {
    Owner {
        app: "nginx-0a1b2c3d".parse().unwrap(),
        generation: Generation(1),
    }
}

fn spec(net: &NodeNet, vmid: u32) -> ContainerSpec {
    ContainerSpec {
        vmid: Vmid::new(vmid).unwrap(),
        owner: owner(),
        hostname: "my-nginx".parse().unwrap(),
        template: "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst".parse().unwrap(),
        storage: "local".parse().unwrap(),
        disk_gb: 2,
        cpu_cores: 1,
        memory_mb: 256,
        swap_mb: 0,
        network: NetworkSpec {
            bridge: "vmbr0".parse().unwrap(),
            vlan: None,
            address: AddressSpec::Static {
                address: net.first,
                prefix: 24,
                gateway: None,
            },
            dns: vec![],
            mac: None,
        },
        volumes: vec![],
        keyctl: false,
    }
}

fn target(vmid: u32) -> Target {
    Target {
        vmid: Vmid::new(vmid).unwrap(),
        owner: owner(),
    }
}

fn settings(memory_mb: u32) -> Settings {
    Settings {
        memory_mb: Some(memory_mb),
        ..Settings::default()
    }
}

fn values(timeout_s: u32) -> Values {
    Values {
        env: vec![("PASSWORD".parse().unwrap(), SecretText::new("x"))],
        forget: vec!["COLOR".parse().unwrap()],
        timeout_s,
    }
}

fn recipe() -> Recipe {
    Recipe {
        install: "id".into(),
        health: "true".into(),
        files: vec![],
        env: vec![],
        port: 80,
        install_timeout_s: 10,
    }
}

/// What changes a container, or runs something in it.
fn changes(target: &Target) -> Vec<Verb> {
    vec![
        Verb::EnsureConfigured {
            target: target.clone(),
            settings: settings(1024),
        },
        Verb::EnsureGrown {
            target: target.clone(),
            disk_gb: 64,
        },
        Verb::RewriteValues {
            target: target.clone(),
            values: values(5),
        },
        Verb::EnsureMigrated {
            target: target.clone(),
            to: "elsewhere".parse().unwrap(),
        },
        Verb::InstallRecipe {
            target: target.clone(),
            recipe: recipe(),
        },
        Verb::AwaitHealthy {
            target: target.clone(),
            timeout_s: 5,
        },
    ]
}

fn command(verb: Verb, epoch: u64) -> Command {
    let step = StepKey {
        name: "attack".parse().unwrap(),
        undo: false,
        attempt: 1,
    };
    Command {
        operation: OperationId(uuid::Uuid::new_v4()),
        step,
        epoch: Epoch(epoch),
        verb,
    }
}

impl Stage {
    async fn send(&self, verb: Verb) -> Result<Outcome, Fault> {
        self.send_as(command(verb, 7)).await
    }
    async fn send_as(&self, command: Command) -> Result<Outcome, Fault> {
        let end = tokio::time::timeout(PATIENCE, self.link.command(&command)).await;
        end.unwrap_or_else(|_| panic!("no answer\n{}", self.node.node.agent_log()))
            .unwrap()
    }
    async fn refused(&self, verb: Verb, kind: FaultKind) -> String {
        let fault = self.send(verb.clone()).await.expect_err(&format!("{verb:?} was done"));
        assert_eq!(fault.kind, kind, "{verb:?}: {fault}");
        assert!(fault.message.len() > 10, "{fault}");
        fault.message
    }
    fn stranger_is_untouched(&self) {
        let status = self.node.node.tool("pct", &["status", "150"]).unwrap();
        assert_eq!(status.trim(), "status: running");
        let containers = self.node.node.files().read().unwrap().containers;
        assert_eq!(containers.into_iter().collect::<Vec<_>>(), [STRANGER]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_not_touched() {
    let stage = stage().await;
    stage
        .refused(Verb::EnsureDestroyed(target(STRANGER)), FaultKind::NotOurs)
        .await;
    stage
        .refused(
            Verb::EnsureStopped {
                target: target(STRANGER),
                timeout_s: 0,
            },
            FaultKind::NotOurs,
        )
        .await;
    stage
        .refused(Verb::EnsureStarted(target(STRANGER)), FaultKind::NotOurs)
        .await;
    for verb in changes(&target(STRANGER)) {
        stage.refused(verb, FaultKind::NotOurs).await;
    }
    // There is no record of it to remove, and nothing else is done.
    stage.send(Verb::EnsureReleased(target(STRANGER))).await.unwrap();
    let message = stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    assert!(message.contains("adoption = [150]"), "{message}");
    let address = stage.node.node.network.first;
    stage
        .refused(
            Verb::EnsurePublished {
                target: target(STRANGER),
                public_port: 8000,
                address,
                port: 22,
            },
            FaultKind::NotOurs,
        )
        .await;
    stage
        .refused(
            Verb::EnsureCreated(spec(&stage.node.node.network, STRANGER)),
            FaultKind::VmidTaken,
        )
        .await;
    stage.stranger_is_untouched();
    stage.link.alive().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_policy_holds() {
    let stage = stage().await;
    let net = stage.node.node.network.clone();
    let message = stage
        .refused(Verb::EnsureCreated(spec(&net, 200)), FaultKind::PolicyDenied)
        .await;
    assert!(message.contains("199"), "{message}");
    std::fs::write(stage.node.node.policy(), "vmid = \"many\"\n").unwrap();
    stage
        .refused(Verb::EnsureCreated(spec(&net, 120)), FaultKind::PolicyDenied)
        .await;
    stage.stranger_is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_epoch_is_refused() {
    let stage = stage().await;
    stage.send_as(command(Verb::Inventory, 7)).await.unwrap();
    let fault = stage
        .send_as(command(Verb::EnsureCreated(spec(&stage.node.node.network, 120)), 6))
        .await
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::OldEpoch, "{fault}");
    stage.stranger_is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_out_of_bounds_are_refused() {
    let stage = stage().await;
    let good = spec(&stage.node.node.network, 120);
    let volume = |path: &str| VolumeSpec {
        path: path.parse().unwrap(),
        size_gb: 1,
    };
    let bad = [
        ContainerSpec {
            memory_mb: 1,
            ..good.clone()
        },
        ContainerSpec {
            disk_gb: 0,
            ..good.clone()
        },
        ContainerSpec {
            disk_gb: u32::MAX,
            ..good.clone()
        },
        ContainerSpec {
            cpu_cores: 0,
            ..good.clone()
        },
        ContainerSpec {
            cpu_cores: 100_000,
            ..good.clone()
        },
        ContainerSpec {
            volumes: vec![volume("/data"), volume("/data")],
            ..good.clone()
        },
        ContainerSpec {
            volumes: (0..9).map(|n| volume(&format!("/data{n}"))).collect(),
            ..good.clone()
        },
        ContainerSpec {
            network: NetworkSpec {
                vlan: Some(5000),
                ..good.network.clone()
            },
            ..good.clone()
        },
        ContainerSpec {
            network: NetworkSpec {
                address: AddressSpec::Static {
                    address: Ipv4Addr::new(10, 0, 0, 0),
                    prefix: 24,
                    gateway: None,
                },
                ..good.network.clone()
            },
            ..good.clone()
        },
    ];
    for spec in bad {
        let fault = stage
            .send(Verb::EnsureCreated(spec.clone()))
            .await
            .expect_err(&format!("{spec:?} was made"));
        assert_eq!(fault.kind, FaultKind::Malformed, "{spec:?}: {fault}");
    }
    let target_120 = target(120);
    let grown = |disk_gb| Verb::EnsureGrown {
        target: target_120.clone(),
        disk_gb,
    };
    let configured = |settings| Verb::EnsureConfigured {
        target: target_120.clone(),
        settings,
    };
    let rewritten = |values| Verb::RewriteValues {
        target: target_120.clone(),
        values,
    };
    let cores = |cpu_cores| Settings {
        cpu_cores: Some(cpu_cores),
        ..Settings::default()
    };
    let many = |count| Values {
        env: (0..count)
            .map(|n| (format!("V{n}").parse().unwrap(), SecretText::new("")))
            .collect(),
        ..values(5)
    };
    for verb in [
        grown(0),
        grown(u32::MAX),
        configured(settings(1)),
        configured(settings(u32::MAX)),
        configured(cores(0)),
        configured(cores(129)),
        rewritten(values(0)),
        rewritten(values(u32::MAX)),
        rewritten(many(101)),
    ] {
        stage.refused(verb, FaultKind::Malformed).await;
    }
    let fault = stage
        .send(Verb::EnsureStopped {
            target: target(120),
            timeout_s: u32::MAX,
        })
        .await
        .unwrap_err();
    assert!(
        matches!(
            fault.kind,
            FaultKind::Malformed | FaultKind::ContainerMissing | FaultKind::NotOurs
        ),
        "{fault:?}"
    );
    stage.stranger_is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn confirm_tells_what_is_taken() {
    let stage = stage().await;
    let confirm = |vmid: u32, port: u16| Confirm {
        owner: owner(),
        vmid: Vmid::new(vmid).unwrap(),
        public_port: port,
        address: None,
        bridge: "vmbr0".parse().unwrap(),
        storage: "local".parse().unwrap(),
    };
    assert_eq!(
        stage.send(Verb::Confirm(confirm(120, 8000))).await.unwrap(),
        Outcome::Confirmed
    );
    stage
        .refused(Verb::Confirm(confirm(STRANGER, 8000)), FaultKind::VmidTaken)
        .await;
    stage
        .refused(
            Verb::Confirm(Confirm {
                storage: "nostore".parse().unwrap(),
                ..confirm(120, 8000)
            }),
            FaultKind::StorageUnavailable,
        )
        .await;
    stage
        .refused(
            Verb::Confirm(Confirm {
                bridge: "vmbr9".parse().unwrap(),
                ..confirm(120, 8000)
            }),
            FaultKind::BridgeMissing,
        )
        .await;
}
