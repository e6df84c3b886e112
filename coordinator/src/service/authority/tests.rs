//! A rotation as the registry and the clock see it; the nodes' part is played by the rows that they leave.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    clock::Clock,
    pki::{NodeKey, rotation::Plan},
    service::Role,
    store::{certificates::CertificateRow, hosts},
};
use proximity_protocol::ids::NodeId;
use rcgen::{CertificateParams, KeyPair};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::sync::watch;
use uuid::Uuid;

const NOW: UnixMs = 1_790_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Time passes by hand, and the clock can be set besides.
struct HandClock {
    passed: watch::Sender<i64>,
    set_by: AtomicI64,
}

impl Clock for HandClock {
    fn now_ms(&self) -> UnixMs {
        NOW + *self.passed.borrow() + self.set_by.load(Ordering::SeqCst)
    }
    fn steady(&self) -> Duration {
        Duration::from_millis(self.passed.borrow().unsigned_abs())
    }
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let until = *self.passed.borrow() + i64::try_from(duration.as_millis()).unwrap();
        let mut passed = self.passed.subscribe();
        Box::pin(async move {
            passed.wait_for(|passed| *passed >= until).await.unwrap();
        })
    }
}

struct World {
    _folder: tempfile::TempDir,
    clock: Arc<HandClock>,
    store: Store,
    pki: Pki,
    authority: Authority,
    watch: ClockWatch,
}

fn admin() -> Caller {
    Caller {
        user_id: 1,
        username: "ada".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(HandClock {
            passed: watch::Sender::new(0),
            set_by: AtomicI64::new(0),
        });
        let store = Store::open(&folder.path().join("registry.db")).await.unwrap();
        let pki = Pki::open(folder.path(), NOW).unwrap();
        let authority = Authority::new(store.clone(), clock.clone(), pki.clone());
        let watch = ClockWatch::new(&*clock);
        Self {
            _folder: folder,
            clock,
            store,
            pki,
            authority,
            watch,
        }
    }

    fn pass(&self, ms: i64) {
        self.clock.passed.send_modify(|passed| *passed += ms);
    }

    /// Some looks, as the running coordinator does them.
    async fn looks(&mut self) {
        for _ in 0..3 {
            self.pass(1_000);
            assert_eq!(self.authority.tick(&mut self.watch).await, None);
        }
    }

    /// A node with a certificate of the root that signs now.
    async fn node(&self, number: u128, follows: Option<bool>) -> NodeId {
        let id = NodeId(Uuid::from_u128(number));
        let facts = serde_json::from_value(serde_json::json!({
            "node_name": format!("pve{number}"), "address": "127.0.0.1", "cluster": null, "quorate": true,
            "host_fingerprint": vec![1; 32], "pve_version": "8.4.1", "kernel": "6.8", "cpu_count": 4, "memory_total_bytes": 1,
            "storages": [], "bridges": [], "next_id": null,
            "policy": {"vmid_first": 100, "vmid_last": 999, "port_first": 1, "port_last": 2, "storages": [], "bridges": [], "denied_verbs": []},
        }))
        .unwrap();
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await.unwrap();
        let host = match hosts::by_fingerprint(&mut tx, &[1; 32]).await.unwrap() {
            Some(host) => host.id,
            None => {
                let fields = hosts::HostFields {
                    name: "host".into(),
                    host: String::new(),
                    port: 8006,
                    is_active: true,
                    is_default: false,
                };
                hosts::insert(&mut tx, now, None, &fields, Some(&[1; 32]))
                    .await
                    .unwrap()
            }
        };
        nodes::insert(&mut tx, now, id, host, &facts).await.unwrap();
        if let Some(follows) = follows {
            node_trust::greeted(&mut tx, id, follows).await.unwrap();
        }
        tx.commit().await.unwrap();
        self.renews(id).await;
        id
    }

    async fn renews(&self, node: NodeId) {
        let key = KeyPair::generate().unwrap();
        let request = CertificateParams::default().serialize_request(&key).unwrap();
        let key = NodeKey::from_request(request.der()).unwrap();
        let now = self.clock.now_ms();
        let issued = self.pki.issue(node, &key, now).unwrap();
        let row = CertificateRow {
            serial: issued.serial,
            node_id: node,
            spki_sha256: key.spki_sha256().to_vec(),
            der: issued.der,
            not_before: issued.not_before,
            not_after: issued.not_after,
            revoked_at: None,
        };
        let mut tx = self.store.begin().await.unwrap();
        certificates::insert(&mut tx, now, &row).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn hears(&self, node: NodeId) {
        let pins: Vec<String> = self
            .pki
            .roots()
            .iter()
            .filter(|root| root.standing != Standing::Past)
            .map(|root| HEXLOWER.encode(&root.root.pin))
            .collect();
        let mut tx = self.store.begin().await.unwrap();
        node_trust::set_roots(&mut tx, node, &pins).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn audited(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT actor, action FROM audit WHERE action LIKE 'ca.%' ORDER BY id")
            .fetch_all(&mut *self.store.read().await.unwrap())
            .await
            .unwrap()
    }
}

fn stage(plan: &Plan) -> &'static str {
    match plan.rotation {
        None => "at rest",
        Some(Stage::Announced { .. }) => "announced",
        Some(Stage::Overlap { .. }) => "overlap",
    }
}

#[tokio::test]
async fn the_root_changes_hands_when_every_node_has_heard_and_the_overlap_is_over() {
    let mut world = World::new().await;
    let (one, two) = (world.node(1, Some(true)).await, world.node(2, Some(true)).await);
    let old = world.pki.ca_pin();
    let view = world.authority.begin(&admin(), Terms::default()).await.unwrap();
    assert_eq!((view.stage, view.told), ("announced", 0));
    assert_eq!(view.untold, ["pve1", "pve2"]);
    assert!(view.next[0].contains("pve1, pve2 have heard of it"), "{:?}", view.next);
    world.hears(one).await;
    world.looks().await;
    assert_eq!((stage(&world.pki.plan()), world.pki.ca_pin()), ("announced", old));
    world.hears(two).await;
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
    assert_ne!(world.pki.ca_pin(), old);

    world.renews(one).await;
    let view = world.authority.status(&admin()).await.unwrap();
    assert_eq!((view.stage, view.told, view.renewed), ("overlap", 2, 1));
    world.pass(179 * DAY_MS);
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
    world.pass(DAY_MS);
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "at rest");
    let standings: Vec<Standing> = world.pki.roots().iter().map(|root| root.standing).collect();
    assert_eq!(standings, [Standing::Past, Standing::Signing]);
    let by_whom = [
        ("ada", "ca.announce"),
        ("coordinator", "ca.switch"),
        ("coordinator", "ca.retire"),
    ];
    let audited = world.audited().await;
    assert_eq!(audited, by_whom.map(|(actor, action)| (actor.into(), action.into())));
}

#[tokio::test]
async fn nodes_that_are_away_are_waited_for_only_so_long() {
    let mut world = World::new().await;
    world.node(1, Some(true)).await;
    let terms = Terms {
        announce_days: 3,
        ..Terms::default()
    };
    world.authority.begin(&admin(), terms).await.unwrap();
    world.pass(3 * DAY_MS - 60_000);
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "announced");
    world.pass(60_000);
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
}

#[tokio::test]
async fn an_agent_that_cannot_follow_keeps_the_old_root_until_it_is_updated() {
    let mut world = World::new().await;
    let old = world.node(1, Some(false)).await;
    world.authority.begin(&admin(), Terms::default()).await.unwrap();
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
    world.pass(181 * DAY_MS);
    let told = world.authority.tick(&mut world.watch).await.unwrap();
    assert!(told.contains("for the sake of pve1: update proximity-agent"), "{told}");
    let view = world.authority.status(&admin()).await.unwrap();
    assert_eq!(
        (view.stage, &view.must_update[..]),
        ("overlap", &["pve1".to_owned()][..])
    );
    assert!(
        view.next
            .iter()
            .any(|line| line.contains("Update proximity-agent on pve1")),
        "{:?}",
        view.next
    );

    let mut tx = world.store.begin().await.unwrap();
    node_trust::greeted(&mut tx, old, true).await.unwrap();
    tx.commit().await.unwrap();
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "at rest");
}

#[tokio::test]
async fn an_admin_can_go_on_without_the_nodes_and_call_off_what_has_not_signed() {
    let world = World::new().await;
    world.node(1, Some(false)).await;
    world.node(2, Some(true)).await;
    let old = world.pki.ca_pin();
    world.authority.begin(&admin(), Terms::default()).await.unwrap();
    let again = world.authority.begin(&admin(), Terms::default()).await.unwrap_err();
    assert!(matches!(again, ServiceError::Conflict(_)), "{again}");
    world.authority.call_off(&admin()).await.unwrap();
    assert_eq!((world.pki.plan(), world.pki.ca_pin()), (Plan::default(), old));

    world.authority.begin(&admin(), Terms::default()).await.unwrap();
    assert_eq!(world.authority.proceed(&admin()).await.unwrap().stage, "overlap");
    assert!(world.authority.call_off(&admin()).await.is_err());
    assert_eq!(world.authority.proceed(&admin()).await.unwrap().stage, "at_rest");
    assert!(world.authority.proceed(&admin()).await.is_err());
    let viewer = Caller {
        role: Role::Operator,
        ..admin()
    };
    assert!(matches!(
        world.authority.status(&viewer).await,
        Err(ServiceError::Forbidden(_))
    ));
}

#[tokio::test]
async fn a_clock_that_is_set_ahead_destroys_no_key() {
    let mut world = World::new().await;
    world.authority.begin(&admin(), Terms::default()).await.unwrap();
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
    world.clock.set_by.store(200 * DAY_MS, Ordering::SeqCst);
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
    // Set right in time.
    world.clock.set_by.store(0, Ordering::SeqCst);
    world.looks().await;
    world.pass(2 * 3_600_000);
    world.looks().await;
    assert_eq!(stage(&world.pki.plan()), "overlap");
}
