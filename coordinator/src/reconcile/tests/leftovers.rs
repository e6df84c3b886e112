//! What is freed, purely: never without proof.

use crate::{
    domain::app_state::Status,
    operations::tests::world::app_row,
    reconcile::leftovers::{GRACE_MS, HostSeen, Known, freed, strays, unknown},
    store::reservations::{Reservation, Reserved},
};
use proptest::prelude::*;
use proximity_protocol::{
    ids::{AppId, Generation, NodeId, OperationId, Owner, Vmid},
    observed::{ContainerObserved, Inventory, PublishedObserved, RecordObserved, RunState},
};
use std::{collections::BTreeSet, net::Ipv4Addr};

const GHOST: &str = "ghost-00000001";

fn owner(app: &str) -> Owner {
    Owner {
        app: AppId::new(app).unwrap(),
        generation: Generation(1),
    }
}

fn container(vmid: u32, of: Option<&str>, address: Option<Ipv4Addr>) -> ContainerObserved {
    ContainerObserved {
        vmid: Vmid::new(vmid).unwrap(),
        hostname: None,
        state: RunState::Stopped,
        lock: None,
        owner: of.map(owner),
        addresses: address.into_iter().collect(),
        memory_mb: None,
        cpu_cores: None,
    }
}

fn nothing() -> Inventory {
    Inventory {
        quorate: true,
        unreadable: vec![],
        containers: vec![],
        elsewhere: vec![],
        published: vec![],
    }
}

fn seen(inventory: Inventory) -> HostSeen {
    HostSeen {
        host: "lab".into(),
        told: vec![("pve1".into(), nothing()), ("pve2".into(), inventory)],
        unproven: vec![],
        records: Some(vec![]),
    }
}

fn record(vmid: u32, app: &str) -> RecordObserved {
    RecordObserved {
        vmid: Vmid::new(vmid).unwrap(),
        owner: owner(app),
        operation: OperationId(uuid::Uuid::from_u128(1)),
        began_unix_s: 0,
    }
}

fn reservations() -> Vec<Reservation> {
    [
        Reserved::Vmid {
            vmid: 500,
            generation: 1,
        },
        Reserved::Port(8500),
        Reserved::Address(Ipv4Addr::new(10, 1, 0, 99)),
    ]
    .map(|what| Reservation {
        app_id: GHOST.into(),
        what,
        created_at: 0,
    })
    .into()
}

fn known() -> Known {
    Known {
        reservations: reservations(),
        ..Known::default()
    }
}

const LATER: i64 = GRACE_MS + 1;

#[test]
fn everything_of_nobody_is_freed_when_all_is_told() {
    let (free, kept) = freed(&seen(nothing()), &known(), LATER);
    assert_eq!((free.len(), free[0].what.len(), kept.len()), (1, 3, 0));
    assert_eq!((free[0].app_id.as_str(), free[0].of_app), (GHOST, false));
    let (free, _) = freed(&seen(nothing()), &known(), GRACE_MS - 1);
    assert!(free.is_empty(), "what made it may be on its way");
}

#[test]
fn each_trace_keeps_what_it_speaks_for() {
    let all = |inventory: Inventory| freed(&seen(inventory), &known(), LATER);
    let mut owned = nothing();
    owned.containers.push(container(777, Some(GHOST), None));
    assert!(all(owned).0.is_empty(), "a container of its, under whatever number");
    let mut number = nothing();
    number.elsewhere.push((Vmid::new(500).unwrap(), "pve9".into()));
    assert_eq!(all(number).0[0].what.len(), 2, "a stranger has the number");
    let mut port = nothing();
    port.published.push(PublishedObserved {
        public_port: 8500,
        owner: owner("other-00000002"),
        vmid: Vmid::new(1000).unwrap(),
        address: Ipv4Addr::new(10, 1, 0, 5),
        port: 80,
    });
    assert_eq!(all(port).0[0].what.len(), 2);
    let mut address = nothing();
    address
        .containers
        .push(container(600, None, Some(Ipv4Addr::new(10, 1, 0, 99))));
    assert_eq!(all(address).0[0].what.len(), 2);
    let recorded = HostSeen {
        records: Some(vec![record(500, GHOST)]),
        ..seen(nothing())
    };
    assert!(freed(&recorded, &known(), LATER).0.is_empty());
    let untold = HostSeen {
        records: None,
        ..seen(nothing())
    };
    let (free, kept) = freed(&untold, &known(), LATER);
    assert!(free.is_empty() && kept[0].contains("update an agent"), "{kept:?}");
}

#[test]
fn an_app_keeps_what_it_has_and_loses_what_it_had() {
    let node = NodeId(uuid::Uuid::from_u128(1));
    let mut app = app_row(GHOST, node, Status::Running);
    (app.vmid, app.public_port, app.ip_address) = (Some(500), Some(8500), Some(Ipv4Addr::new(10, 1, 0, 99)));
    let mut known = known();
    known.apps.insert(GHOST.into(), app.clone());
    assert!(
        freed(&seen(nothing()), &known, LATER).0.is_empty(),
        "also while it is missing"
    );
    // Its container was replaced: the number of the one before is left.
    (app.vmid, app.generation) = (Some(501), 2);
    known.apps.insert(GHOST.into(), app);
    let (free, _) = freed(&seen(nothing()), &known, LATER);
    assert_eq!(
        free[0].what,
        [Reserved::Vmid {
            vmid: 500,
            generation: 1
        }]
    );
    assert!(!free[0].of_app);
    known.busy.insert(GHOST.into());
    assert!(
        freed(&seen(nothing()), &known, LATER).0.is_empty(),
        "an operation is under way"
    );
}

#[test]
fn an_abandoned_app_loses_all_or_nothing() {
    let node = NodeId(uuid::Uuid::from_u128(1));
    let mut known = known();
    known.apps.insert(GHOST.into(), app_row(GHOST, node, Status::Error));
    known.abandoned.insert(GHOST.into());
    let (free, _) = freed(&seen(nothing()), &known, LATER);
    assert!(free[0].of_app && free[0].what.len() == 3);
    let mut port = nothing();
    port.published.push(PublishedObserved {
        public_port: 8500,
        owner: owner("other-00000002"),
        vmid: Vmid::new(1000).unwrap(),
        address: Ipv4Addr::new(10, 1, 0, 5),
        port: 80,
    });
    assert!(freed(&seen(port), &known, LATER).0.is_empty());
}

#[test]
fn what_is_left_on_a_node_is_told_with_what_to_do() {
    let mut inventory = nothing();
    inventory.containers = vec![
        container(600, None, None),
        container(601, Some(GHOST), None),
        ContainerObserved {
            lock: Some("create".into()),
            ..container(602, None, None)
        },
        container(603, None, None),
    ];
    let host = HostSeen {
        records: Some(vec![record(603, GHOST), record(604, GHOST)]),
        ..seen(inventory)
    };
    let vmids: Vec<u32> = unknown(&host).iter().map(|c| c.vmid).collect();
    assert_eq!(
        vmids,
        [600],
        "not what is being made, nor what has a record that does not fit"
    );
    let told = strays(&host, &known(), &BTreeSet::new());
    let kinds: Vec<(&str, u32)> = told.iter().map(|s| (s.kind.as_str(), s.number)).collect();
    assert_eq!(kinds, [("container", 601), ("record", 604)]);
    let message = &told[0].message;
    assert!(
        message.contains("pct destroy 601") && message.contains("can be adopted"),
        "{message}"
    );
    // Of an app that went while the nodes were asked it is told by the next round, if it is there then: an adopted container that was just let go of is not
    // to be destroyed.
    let before = BTreeSet::from([GHOST.to_owned()]);
    assert_eq!(strays(&host, &known(), &before), []);
}

proptest! {
    /// Whatever else is true: with a node that has not told everything nothing is freed.
    #[test]
    fn nothing_is_freed_without_proof(later in 0_i64..10 * GRACE_MS, abandoned: bool, there: bool, records: bool) {
        let node = NodeId(uuid::Uuid::from_u128(1));
        let mut known = known();
        if there {
            known.apps.insert(GHOST.into(), app_row(GHOST, node, Status::Error));
        }
        if abandoned {
            known.abandoned.insert(GHOST.into());
        }
        let host = HostSeen {
            unproven: vec!["pve1 has not told everything".into()],
            records: records.then(Vec::new),
            ..seen(nothing())
        };
        prop_assert!(freed(&host, &known, later).0.is_empty());
    }
}
