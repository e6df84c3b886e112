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

impl Stage {
    fn conf(&self, vmid: u32) -> String {
        let path = format!("etc/pve/nodes/{}/lxc/{vmid}.conf", self.node.node.name);
        std::fs::read_to_string(self.node.node.root().join(path)).unwrap()
    }
    fn policy(&self, text: &str) {
        std::fs::write(self.node.node.policy(), text).unwrap();
    }
}

/// What the operator lets be adopted can be started, stopped and published, and nothing more: it is not changed, nothing runs in it, it is not destroyed.
#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_container_is_not_changed_entered_or_destroyed() {
    let stage = stage().await;
    let before = stage.conf(STRANGER);
    stage.policy("adoption = [150]\n");
    let adopted = stage.send(Verb::EnsureAdopted(target(STRANGER))).await.unwrap();
    assert!(matches!(adopted, Outcome::Adopted(_)), "{adopted:?}");
    for verb in changes(&target(STRANGER)) {
        stage.refused(verb, FaultKind::PolicyDenied).await;
    }
    let message = stage
        .refused(Verb::EnsureDestroyed(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    assert!(message.contains("destroy_adopted = true"), "{message}");
    let mut other = target(STRANGER);
    other.owner.app = "other-0a1b2c3d".parse().unwrap();
    stage
        .refused(Verb::EnsureAdopted(other.clone()), FaultKind::NotOurs)
        .await;
    stage.refused(Verb::EnsureReleased(other), FaultKind::NotOurs).await;
    stage.stranger_is_untouched();
    stage.send(Verb::EnsureReleased(target(STRANGER))).await.unwrap();
    stage
        .refused(
            Verb::EnsureStopped {
                target: target(STRANGER),
                timeout_s: 0,
            },
            FaultKind::NotOurs,
        )
        .await;
    assert!(stage.node.node.files().read().unwrap().records.is_empty());
    assert_eq!(stage.conf(STRANGER), before);
    stage.stranger_is_untouched();
    stage.link.alive().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_numbers_outside_the_policy_and_what_is_not_there_are_not_adopted() {
    let stage = stage().await;
    stage.policy("adoption = \"any\"\nvmid = [140, 149]\n");
    let message = stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    assert!(message.contains("149"), "{message}");
    stage.policy("adoption = \"any\"\ndeny_verbs = [\"ensure_adopted\"]\n");
    stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::PolicyDenied)
        .await;
    stage.policy("adoption = \"any\"\n");
    stage
        .refused(Verb::EnsureAdopted(target(151)), FaultKind::ContainerMissing)
        .await;
    let node = &stage.node.node;
    node.tool("pct", &["stop", "150"]).unwrap();
    node.tool("pct", &["template", "150"]).unwrap();
    stage
        .refused(Verb::EnsureAdopted(target(STRANGER)), FaultKind::NotOurs)
        .await;
    assert!(node.files().read().unwrap().records.is_empty());
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

/// There is no way to say a bind mount, a privileged container or a shell metacharacter with the product's types, so the frames are altered: each text in a
/// valid frame is replaced, byte for byte, by one of the same length that would be an attack.
#[tokio::test(flavor = "multi_thread")]
async fn altered_texts_do_not_pass() {
    let stage = stage().await;
    let mut good = spec(&stage.node.node.network, 120);
    good.volumes = vec![VolumeSpec {
        path: "/srv/data12".parse().unwrap(),
        size_gb: 1,
    }];
    let frame = codec::encode(1, &command(Verb::EnsureCreated(good), 7)).unwrap();
    let texts = [
        (
            "my-nginx",
            ["$(touch)", "a;reboot", "-rf   /x", "`id`....", "a\nb: c\nd", "../../.."].as_slice(),
        ),
        ("vmbr0", &["a,b=c", "-xxxx", "$(a) ", "a\0b/c"]),
        (
            "/srv/data12",
            &["/etc/../../", "/a,ro=0,x=1", "local:1,mp=", "$(rm -rf /)"],
        ),
        (
            "nginx-0a1b2c3d",
            &["../../../../..", "nginx-0a1b2c3D", "x;rm -rf /;abc"],
        ),
        (
            "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
            &["/etc/shadow;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        ),
    ];
    let mut tried = 0;
    for (from, attacks) in texts {
        let at = frame
            .windows(from.len())
            .position(|w| w == from.as_bytes())
            .unwrap_or_else(|| panic!("{from:?} is not in the frame"));
        for attack in attacks {
            assert_eq!(attack.len(), from.len(), "{attack:?}");
            let mut altered = frame.clone();
            altered[at..at + from.len()].copy_from_slice(attack.as_bytes());
            let end = tokio::time::timeout(PATIENCE, stage.link.raw(&altered))
                .await
                .unwrap()
                .unwrap();
            let fault = end.expect_err(&format!("{attack:?} passed"));
            assert_eq!(fault.kind, FaultKind::Malformed, "{attack:?}: {fault}");
            tried += 1;
        }
    }
    // A name of a value becomes the name of a file inside, a node's an argument.
    let rewrite = Verb::RewriteValues {
        target: target(120),
        values: values(5),
    };
    let migrate = Verb::EnsureMigrated {
        target: target(120),
        to: "THATNODE".parse().unwrap(),
    };
    let names = ["../../pw", "a b;reb.", "password", "-rf /tmp", "$(touch)"];
    let nodes = [
        "--online", "-a", "a b", "a;reboot", "a_b", "$(touch)", "../pve2/", "pve2.lan",
    ];
    let names = names.iter().map(|attack| (&rewrite, "PASSWORD", *attack));
    let nodes = nodes.iter().map(|attack| (&migrate, "THATNODE", *attack));
    for (verb, from, attack) in names.chain(nodes) {
        let frame = codec::encode(1, &command(verb.clone(), 7)).unwrap();
        let at = frame.windows(8).position(|w| w == from.as_bytes()).unwrap();
        let mut altered = frame;
        // Filled up: the length stands before it.
        let attack = format!("{attack:->8}");
        altered[at..at + 8].copy_from_slice(attack.as_bytes());
        let end = tokio::time::timeout(PATIENCE, stage.link.raw(&altered))
            .await
            .unwrap()
            .unwrap();
        let fault = end.expect_err(&format!("{attack:?} passed"));
        assert_eq!(fault.kind, FaultKind::Malformed, "{attack:?}: {fault}");
        tried += 1;
    }
    assert!(tried > 20);
    stage.link.alive().unwrap();
    stage.stranger_is_untouched();
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_frames_are_answered_and_the_link_stays() {
    let stage = stage().await;
    let frame = codec::encode(1, &command(Verb::Inventory, 7)).unwrap();
    let mut trailing = frame.clone();
    trailing.push(0);
    let longer = u32::try_from(trailing.len() - 8).unwrap();
    trailing[4..8].copy_from_slice(&longer.to_be_bytes());
    let mut unknown_verb = frame.clone();
    let length = unknown_verb.len();
    unknown_verb[length - 4..].copy_from_slice(&999u32.to_le_bytes());
    for bytes in [trailing, unknown_verb] {
        let end = tokio::time::timeout(PATIENCE, stage.link.raw(&bytes))
            .await
            .unwrap()
            .unwrap();
        assert!(
            matches!(
                end,
                Err(Fault {
                    kind: FaultKind::Malformed | FaultKind::UnknownVerb,
                    ..
                })
            ),
            "{end:?}"
        );
    }
    // A stream that says too much, or stops in the middle, is dropped; the link and its other streams go on.
    let mut huge = frame.clone();
    huge[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
    for bytes in [huge, frame[..5].to_vec(), frame[..frame.len() - 1].to_vec()] {
        // A fault or a reset stream, both will do; an outcome will not.
        if let Ok(Ok(end)) = tokio::time::timeout(Duration::from_secs(15), stage.link.raw(&bytes)).await {
            end.unwrap_err();
        }
    }
    let end = stage.send(Verb::Inventory).await.unwrap();
    assert!(matches!(end, Outcome::Inventory(_)), "{end:?}");
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
