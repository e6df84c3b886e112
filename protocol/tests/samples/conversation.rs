//! Enrolment, Hello, events, notices, figures.

use super::{EPOCH, Sample, facts, fault, operation, owner, sample, step, vmid};
use proximity_protocol::{
    enroll::{EnrollRefusal, EnrollReply, EnrollRequest, Grant, RefusalReason},
    event::{Event, Notice},
    fault::FaultKind,
    hello::{Hello, HelloReply, OpenJob, VersionRange, Welcome},
    ids::{BootId, JoinTokenId, NodeId, ProcessId},
    metrics::{ContainerFigures, MetricsFrame, NodeFigures, Sample as Figures},
    observed::{ContainerObserved, Inventory, PublishedObserved, RunState},
    renew::{RenewRefusal, RenewRefusalReason, ReturnReply, ReturnRequest},
    roots::Roots,
    secret::Secret256,
};
use uuid::Uuid;

pub(super) fn all() -> Vec<Sample> {
    let mut all = vec![sample("hello", &hello())];
    all.extend(replies_to_hello());
    all.extend(events());
    all.extend(notices());
    all.extend(figures());
    all.extend(enrolment());
    all.extend(returns());
    all
}

pub(super) fn node() -> NodeId {
    NodeId(Uuid::from_u128(0xAAAA))
}

fn hello() -> Hello {
    Hello {
        versions: VersionRange { min: 1, max: 1 },
        agent_version: "0.1.0".into(),
        capabilities: vec!["oci".into()],
        boot: BootId(Uuid::from_u128(0xB007)),
        process: ProcessId(Uuid::from_u128(0x9999)),
        epoch: EPOCH,
        facts: facts(),
        open_jobs: vec![OpenJob {
            operation: operation(),
            step: step(),
            finished: true,
        }],
    }
}

fn replies_to_hello() -> Vec<Sample> {
    let welcome = Welcome {
        version: 1,
        node: node(),
        epoch: EPOCH,
        coordinator_version: "0.1.0".into(),
        metrics_interval_ms: 1_000,
        notices: vec![Notice::Refresh],
    };
    vec![
        sample("hello_reply.welcome", &HelloReply::Welcome(welcome)),
        sample(
            "hello_reply.refused",
            &HelloReply::Refused(fault(FaultKind::PolicyDenied)),
        ),
    ]
}

pub(super) fn inventory() -> Inventory {
    let container = |state| ContainerObserved {
        vmid: vmid(),
        hostname: Some("web".into()),
        state,
        lock: Some("backup".into()),
        owner: Some(owner()),
        addresses: vec![[10, 0, 0, 5].into()],
        memory_mb: Some(512),
        cpu_cores: Some(2),
    };
    Inventory {
        quorate: true,
        unreadable: vec!["/etc/pve/nodes/pve1/lxc/105.conf".into()],
        containers: [RunState::Running, RunState::Stopped, RunState::Unknown]
            .map(container)
            .to_vec(),
        elsewhere: vec![(vmid(), "pve2".into())],
        published: vec![PublishedObserved {
            public_port: 30_080,
            owner: owner(),
            vmid: vmid(),
            address: [10, 0, 0, 5].into(),
            port: 80,
        }],
    }
}

fn events() -> Vec<Sample> {
    vec![
        sample("event.facts", &Event::Facts(Box::new(facts()))),
        sample("event.inventory", &Event::Inventory(Box::new(inventory()))),
        sample("event.published_repaired", &Event::PublishedRepaired { count: 4 }),
        sample("event.container_changed", &Event::ContainerChanged { vmid: vmid() }),
        sample("event.stopping", &Event::Stopping),
        sample(
            "event.renew",
            &Event::Renew {
                csr_der: vec![0x30, 0x82],
            },
        ),
        sample(
            "event.roots_stored",
            &Event::RootsStored {
                pins: vec![[0xA1; 32], [0xA2; 32]],
            },
        ),
    ]
}

fn roots() -> Roots {
    Roots {
        trusted: vec![vec![0x30, 3], vec![0x30, 4]],
        crossed: vec![vec![0x30, 5]],
        signs: [0xA2; 32],
        renew_within_s: 300,
    }
}

fn notices() -> Vec<Sample> {
    vec![
        sample(
            "notice.committed",
            &Notice::Committed {
                operation: operation(),
                step: Some(step()),
            },
        ),
        sample("notice.refresh", &Notice::Refresh),
        sample("notice.cancel", &Notice::Cancel { operation: operation() }),
        sample(
            "notice.committed_all",
            &Notice::Committed {
                operation: operation(),
                step: None,
            },
        ),
        sample("notice.may_renew", &Notice::MayRenew),
        sample("notice.renewed", &Notice::Renewed(Box::new(grant()))),
        sample(
            "notice.not_renewed",
            &Notice::NotRenewed(RenewRefusal {
                reason: RenewRefusalReason::NotDue,
                message: "what to do".into(),
            }),
        ),
        sample("notice.roots", &Notice::Roots(Box::new(roots()))),
        sample("notice.renew_now", &Notice::RenewNow),
    ]
}

fn figures() -> Vec<Sample> {
    let node = NodeFigures {
        cpu_ppm: 250_000,
        memory_used_bytes: 1 << 30,
        memory_total_bytes: 4 << 30,
        storage_used_bytes: 5,
        storage_total_bytes: 6,
        uptime_s: 7,
    };
    let container = ContainerFigures {
        cpu_ppm: 1,
        memory_used_bytes: 2,
        memory_total_bytes: 3,
        disk_used_bytes: Some(4),
        disk_total_bytes: None,
        network_in_bytes: 5,
        network_out_bytes: 6,
    };
    let full = Figures {
        at_unix_ms: 1_700_000_000_000,
        node: node.clone(),
        containers: [(104, container.clone())].into_iter().collect(),
    };
    let delta = MetricsFrame::Delta {
        after_ms: 1_000,
        node: Some(node),
        changed: vec![(104, container)],
        gone: vec![105],
    };
    vec![
        sample("metrics.full", &MetricsFrame::Full(full)),
        sample("metrics.delta", &delta),
    ]
}

fn grant() -> Grant {
    Grant {
        node: node(),
        certificate_der: vec![0x30, 1],
        ca_der: vec![0x30, 2],
        not_after_unix_s: 1_800_000_000,
    }
}

fn returns() -> Vec<Sample> {
    use RenewRefusalReason::*;
    let request = ReturnRequest {
        csr_der: vec![0x30, 0x82],
        proof: vec![0x30, 0x45],
    };
    let mut all = vec![
        sample("return_request", &request),
        sample("return_reply.granted", &ReturnReply::Granted(grant())),
        sample(
            "return_reply.followed",
            &ReturnReply::Followed {
                grant: Box::new(grant()),
                roots: Box::new(roots()),
            },
        ),
    ];
    let reasons = [NotDue, Malformed, Revoked, UnknownKey, RateLimited, Internal];
    all.extend(reasons.map(|reason| {
        let refusal = RenewRefusal {
            reason,
            message: "what to do".into(),
        };
        sample(
            format!("return_reply.refused.{reason:?}"),
            &ReturnReply::Refused(refusal),
        )
    }));
    all
}

fn enrolment() -> Vec<Sample> {
    use RefusalReason::*;
    let request = EnrollRequest {
        token: JoinTokenId(Uuid::from_u128(0x70CE)),
        secret: Secret256::new([0x5E; 32]),
        csr_der: vec![0x30, 0x82],
        facts: facts(),
        take_over: false,
    };
    let mut all = vec![
        sample("enroll_request", &request),
        sample("enroll_reply.granted", &EnrollReply::Granted(grant())),
    ];
    let reasons = [
        UnknownToken,
        Expired,
        Spent,
        Revoked,
        WrongNodeName,
        WrongHost,
        WrongAddress,
        NameTaken,
        Malformed,
        RateLimited,
        Internal,
    ];
    all.extend(reasons.map(|reason| {
        let refusal = EnrollRefusal {
            reason,
            message: "what to do".into(),
        };
        sample(
            format!("enroll_reply.refused.{reason:?}"),
            &EnrollReply::Refused(refusal),
        )
    }));
    all
}
