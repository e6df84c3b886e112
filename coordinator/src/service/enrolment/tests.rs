#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    clock::Clock,
    service::{
        Caller, Role,
        join_tokens::{JoinTokens, NewJoinToken},
    },
    store::{hosts, nodes},
};
use proximity_protocol::{ids::JoinTokenId, observed::NodeFacts, secret::Secret256, token::JoinToken};
use rcgen::{CertificateParams, KeyPair};
use std::{
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

const START: i64 = 1_790_000_000_000;

struct HandClock(AtomicI64);
impl Clock for HandClock {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }
    fn wait(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

struct World {
    _folder: tempfile::TempDir,
    store: Store,
    clock: Arc<HandClock>,
    enrolment: Enrolment,
    tokens: JoinTokens,
}

fn admin() -> Caller {
    Caller {
        user_id: 1,
        username: "root".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

fn facts(name: &str, installation: u8) -> NodeFacts {
    serde_json::from_value(serde_json::json!({
        "node_name": name, "address": format!("10.0.0.{installation}"), "cluster": null, "quorate": true,
        "host_fingerprint": vec![installation; 32], "pve_version": "8.4.1", "kernel": "6.8.12-9-pve", "cpu_count": 4,
        "memory_total_bytes": 8_000_000_000_u64, "storages": [], "bridges": [], "next_id": null,
        "policy": {"vmid_first": 100, "vmid_last": 999_999_999, "port_first": 8000, "port_last": 9000, "storages": [], "bridges": [], "denied_verbs": []},
    }))
    .unwrap()
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default()
        .serialize_request(key)
        .unwrap()
        .der()
        .to_vec()
}

fn ask(token: &JoinToken, key: &KeyPair, facts: NodeFacts) -> EnrollRequest {
    EnrollRequest {
        token: token.id,
        secret: token.secret.clone(),
        csr_der: csr(key),
        facts,
        take_over: false,
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("registry.db")).await.unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(START)));
        let pki = Pki::open(folder.path(), START).unwrap();
        let shared: SharedClock = clock.clone();
        Self {
            enrolment: Enrolment::new(store.clone(), Arc::clone(&shared), pki.clone(), Bus::default()),
            tokens: JoinTokens::new(store.clone(), shared, pki, vec!["192.0.2.1:4433".into()]),
            _folder: folder,
            store,
            clock,
        }
    }

    async fn token(&self, new: NewJoinToken) -> JoinToken {
        let made = self.tokens.create(&admin(), new).await.unwrap();
        made.token.expose().parse().unwrap()
    }

    async fn redeem(&self, request: EnrollRequest) -> Redeemed {
        self.enrolment.redeem(request, "192.0.2.9".parse().unwrap()).await
    }

    async fn granted(&self, request: EnrollRequest) -> Grant {
        match self.redeem(request).await.reply {
            EnrollReply::Granted(grant) => grant,
            EnrollReply::Refused(refusal) => panic!("refused: {refusal}"),
        }
    }

    async fn join(&self, facts: NodeFacts) -> Grant {
        let token = self.token(NewJoinToken::default()).await;
        self.granted(ask(&token, &key(), facts)).await
    }

    async fn refused(&self, request: EnrollRequest) -> RefusalReason {
        let before = self.rows().await;
        let audited = self
            .count("SELECT COALESCE(SUM(count), 0) FROM audit WHERE outcome = 'refused'")
            .await;
        let EnrollReply::Refused(refusal) = self.redeem(request).await.reply else {
            panic!("granted");
        };
        assert_eq!(self.rows().await, before, "{refusal}: something was written");
        let after = self
            .count("SELECT COALESCE(SUM(count), 0) FROM audit WHERE outcome = 'refused'")
            .await;
        assert_eq!(after, audited + 1, "{refusal}: not in the audit");
        assert!(refusal.message.len() > 20);
        refusal.reason
    }

    async fn count(&self, sql: &'static str) -> i64 {
        let (count,): (i64,) = sqlx::query_as(sql)
            .fetch_one(&mut *self.store.read().await.unwrap())
            .await
            .unwrap();
        count
    }

    async fn rows(&self) -> [i64; 5] {
        [
            self.count("SELECT COUNT(*) FROM hosts").await,
            self.count("SELECT COUNT(*) FROM nodes").await,
            self.count("SELECT COUNT(*) FROM certificates").await,
            self.count("SELECT COUNT(*) FROM join_tokens WHERE spent_at IS NOT NULL")
                .await,
            self.count("SELECT COUNT(*) FROM events").await,
        ]
    }

    async fn node(&self, id: NodeId) -> nodes::NodeRow {
        nodes::get(&mut self.store.read().await.unwrap(), id)
            .await
            .unwrap()
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_redeems_at_once_one_gets_a_certificate() {
    let world = World::new().await;
    let token = world.token(NewJoinToken::default()).await;
    let mut redeems = tokio::task::JoinSet::new();
    for number in 0..1000_u32 {
        let request = ask(&token, &key(), facts(&format!("pve{number}"), 1));
        let enrolment = world.enrolment.clone();
        redeems.spawn(async move { enrolment.redeem(request, "192.0.2.9".parse().unwrap()).await.reply });
    }
    let (mut granted, mut spent) = (0, 0);
    while let Some(reply) = redeems.join_next().await {
        match reply.unwrap() {
            EnrollReply::Granted(_) => granted += 1,
            EnrollReply::Refused(refusal) => {
                assert_eq!(refusal.reason, RefusalReason::Spent, "{refusal}");
                spent += 1;
            }
        }
    }
    assert_eq!((granted, spent), (1, 999));
    assert_eq!(world.rows().await, [1, 1, 1, 1, 1]);
    assert_eq!(
        world
            .count("SELECT SUM(count) FROM audit WHERE outcome = 'refused'")
            .await,
        999
    );
}

#[tokio::test]
async fn the_same_key_gets_the_same_certificate_while_the_token_lives() {
    let world = World::new().await;
    let token = world.token(NewJoinToken::default()).await;
    let key_of_node = key();
    let first = world.granted(ask(&token, &key_of_node, facts("pve", 1))).await;
    let rows = world.rows().await;
    // The CSR differs (its signature is random), the key is the same.
    assert_eq!(world.granted(ask(&token, &key_of_node, facts("pve", 1))).await, first);
    assert_eq!(world.rows().await, rows);
    assert_eq!(
        world.refused(ask(&token, &key(), facts("pve", 1))).await,
        RefusalReason::Spent
    );
    world.clock.0.fetch_add(901_000, Ordering::SeqCst);
    assert_eq!(
        world.refused(ask(&token, &key_of_node, facts("pve", 1))).await,
        RefusalReason::Expired
    );
}

#[tokio::test]
async fn each_refusal_has_its_reason_and_writes_nothing_but_the_audit() {
    let world = World::new().await;
    world.join(facts("taken", 1)).await;
    let (open, k) = (world.token(NewJoinToken::default()).await, key());

    let mut wrong = ask(&open, &k, facts("pve", 2));
    wrong.secret = Secret256::new([0; 32]);
    assert_eq!(world.refused(wrong).await, RefusalReason::UnknownToken);
    let mut wrong = ask(&open, &k, facts("pve", 2));
    wrong.token = JoinTokenId(uuid::Uuid::nil());
    assert_eq!(world.refused(wrong).await, RefusalReason::UnknownToken);
    let mut wrong = ask(&open, &k, facts("pve", 2));
    wrong.csr_der.truncate(50);
    assert_eq!(world.refused(wrong).await, RefusalReason::Malformed);
    assert_eq!(
        world.refused(ask(&open, &k, facts("taken", 1))).await,
        RefusalReason::NameTaken
    );

    let named = world
        .token(NewJoinToken {
            node_name: Some("another".into()),
            ..NewJoinToken::default()
        })
        .await;
    assert_eq!(
        world.refused(ask(&named, &k, facts("pve", 2))).await,
        RefusalReason::WrongNodeName
    );
    let near = world
        .token(NewJoinToken {
            allowed_cidr: Some("10.0.0.0/8".into()),
            ..NewJoinToken::default()
        })
        .await;
    assert_eq!(
        world.refused(ask(&near, &k, facts("pve", 2))).await,
        RefusalReason::WrongAddress
    );
    let of_host = world
        .token(NewJoinToken {
            host_id: Some(1),
            ..NewJoinToken::default()
        })
        .await;
    assert_eq!(
        world.refused(ask(&of_host, &k, facts("pve", 2))).await,
        RefusalReason::WrongHost
    );
    let revoked = world.token(NewJoinToken::default()).await;
    world.tokens.revoke(&admin(), &revoked.id.to_string()).await.unwrap();
    assert_eq!(
        world.refused(ask(&revoked, &k, facts("pve", 2))).await,
        RefusalReason::Revoked
    );
    let short = world
        .token(NewJoinToken {
            ttl_seconds: Some(1),
            ..NewJoinToken::default()
        })
        .await;
    world.clock.0.fetch_add(1000, Ordering::SeqCst);
    assert_eq!(
        world.refused(ask(&short, &k, facts("pve", 2))).await,
        RefusalReason::Expired
    );

    // None of it used the good tokens up.
    world.granted(ask(&open, &k, facts("pve", 2))).await;
    world.granted(ask(&of_host, &key(), facts("second", 1))).await;
}

#[tokio::test]
async fn a_host_is_its_key_and_not_its_name() {
    let world = World::new().await;
    let (first, second) = (world.join(facts("pve", 1)).await, world.join(facts("pve", 2)).await);
    let mut in_cluster = facts("pve3", 3);
    in_cluster.cluster = Some("lab".into());
    let third = world.join(in_cluster).await;
    let mut fourth = facts("pve4", 3);
    fourth.cluster = Some("lab".into());
    let fourth = world.join(fourth).await;
    let names: Vec<String> = hosts::list(&mut world.store.read().await.unwrap())
        .await
        .unwrap()
        .into_iter()
        .map(|h| h.name)
        .collect();
    assert_eq!(names, ["pve", "pve-2", "lab"]);
    assert_ne!(
        world.node(first.node).await.host_id,
        world.node(second.node).await.host_id
    );
    assert_eq!(
        world.node(third.node).await.host_id,
        world.node(fourth.node).await.host_id
    );
}

#[tokio::test]
async fn a_taken_name_is_taken_over_only_when_said_so() {
    let world = World::new().await;
    let before = world.join(facts("pve", 1)).await;
    let token = world.token(NewJoinToken::default()).await;
    let mut request = ask(&token, &key(), facts("pve", 1));
    assert_eq!(world.refused(request.clone()).await, RefusalReason::NameTaken);
    request.take_over = true;
    let redeemed = world.redeem(request).await;
    let EnrollReply::Granted(after) = redeemed.reply else {
        panic!("{redeemed:?}")
    };
    assert_eq!((after.node, redeemed.superseded), (before.node, vec![before.node]));
    assert_ne!(after.certificate_der, before.certificate_der);
    assert_eq!(
        world
            .count("SELECT COUNT(*) FROM certificates WHERE revoked_at IS NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn a_reinstalled_standalone_takes_its_record_over_with_a_token_for_its_host() {
    let world = World::new().await;
    let before = world.join(facts("pve", 1)).await;
    // A new installation has a new key.
    let mut request = ask(&world.token(NewJoinToken::default()).await, &key(), facts("pve", 7));
    request.take_over = true;
    assert_eq!(world.refused(request).await, RefusalReason::WrongHost);
    let for_host = world
        .token(NewJoinToken {
            host_id: Some(1),
            ..NewJoinToken::default()
        })
        .await;
    let mut request = ask(&for_host, &key(), facts("pve", 7));
    assert_eq!(world.refused(request.clone()).await, RefusalReason::WrongHost);
    request.take_over = true;
    assert_eq!(world.granted(request).await.node, before.node);
    assert_eq!(world.rows().await[..2], [1, 1]);
}

#[tokio::test]
async fn a_standalone_that_joined_a_cluster_moves() {
    let world = World::new().await;
    let before = world.join(facts("pve2", 2)).await;
    let cluster = world.join(facts("pve1", 1)).await;
    let mut joined = facts("pve2", 1);
    joined.address = "10.0.0.2".parse().unwrap();
    let mut request = ask(&world.token(NewJoinToken::default()).await, &key(), joined);
    request.take_over = true;
    assert_eq!(world.granted(request).await.node, before.node);
    assert_eq!(
        world.node(before.node).await.host_id,
        world.node(cluster.node).await.host_id
    );
}

#[tokio::test]
async fn who_guesses_has_to_wait_and_costs_no_writes() {
    let world = World::new().await;
    let token = world.token(NewJoinToken::default()).await;
    let good = ask(&token, &key(), facts("pve", 1));
    let mut bad = good.clone();
    bad.secret = Secret256::new([0; 32]);
    for _ in 0..10 {
        assert_eq!(world.refused(bad.clone()).await, RefusalReason::UnknownToken);
    }
    assert_eq!(world.refused(bad.clone()).await, RefusalReason::RateLimited);
    let audited = world.count("SELECT SUM(count) FROM audit").await;
    for _ in 0..100 {
        let EnrollReply::Refused(refusal) = world.redeem(bad.clone()).await.reply else {
            panic!()
        };
        assert_eq!(refusal.reason, RefusalReason::RateLimited);
    }
    assert_eq!(world.count("SELECT SUM(count) FROM audit").await, audited);
    // Another address is not held up by it.
    let reply = world.enrolment.redeem(good, "192.0.2.10".parse().unwrap()).await.reply;
    assert!(matches!(reply, EnrollReply::Granted(_)));
}

#[tokio::test]
async fn a_new_host_gets_the_bridge_that_leads_out() {
    let world = World::new().await;
    let mut two_bridges = facts("pve", 1);
    two_bridges.bridges = serde_json::from_value(serde_json::json!([
        {"name": "vmbr0", "address": null, "prefix": null, "gateway": null},
        {"name": "vmbr7", "address": "10.0.0.1", "prefix": 24, "gateway": "10.0.0.254"},
    ]))
    .unwrap();
    world.join(two_bridges).await;
    let network = hosts::network(&mut world.store.read().await.unwrap(), 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (network.bridge.as_deref(), network.address_mode.as_str()),
        (Some("vmbr7"), "dhcp")
    );
}

fn with_bridge(mut facts: NodeFacts, gateway: &str, prefix: u8) -> NodeFacts {
    facts.bridges = serde_json::from_value(serde_json::json!([
        {"name": "vmbr0", "address": null, "prefix": null, "gateway": null},
        {"name": "vmbr1", "address": "192.0.2.77", "prefix": prefix, "gateway": gateway},
    ]))
    .unwrap();
    facts
}

async fn network_of(world: &World, grant: &Grant) -> (i64, hosts::NetworkRow) {
    let mut read = world.store.read().await.unwrap();
    let host = nodes::get(&mut read, grant.node).await.unwrap().unwrap().host_id;
    (host, hosts::network(&mut read, host).await.unwrap().unwrap())
}

#[tokio::test]
async fn the_first_node_proposes_the_network_of_its_host_and_later_ones_do_not() {
    let world = World::new().await;
    let facts_of = |name: &str| with_bridge(facts(name, 1), "192.0.2.65", 26);
    let (host, network) = network_of(&world, &world.join(facts_of("pve1")).await).await;
    let shown = |n: &hosts::NetworkRow| {
        (
            n.bridge.clone(),
            n.subnet.clone(),
            n.gateway.clone(),
            n.address_mode.clone(),
        )
    };
    let proposed = (
        Some("vmbr1".to_owned()),
        Some("192.0.2.64/26".to_owned()),
        Some("192.0.2.65".to_owned()),
        "dhcp".to_owned(),
    );
    assert_eq!(shown(&network), proposed);
    // The operator's word stays.
    let own = hosts::NetworkRow {
        bridge: None,
        subnet: None,
        gateway: None,
        ..network
    };
    let mut tx = world.store.begin().await.unwrap();
    hosts::set_network(&mut tx, 1, host, &own).await.unwrap();
    tx.commit().await.unwrap();
    let second = world.join(facts_of("pve2")).await;
    assert_eq!(network_of(&world, &second).await, (host, own));
}

#[tokio::test]
async fn what_could_not_be_set_by_hand_is_not_proposed() {
    let world = World::new().await;
    let elsewhere = world.join(with_bridge(facts("pve1", 1), "198.51.100.1", 26)).await;
    let (_, network) = network_of(&world, &elsewhere).await;
    assert_eq!(
        (network.subnet.as_deref(), network.gateway),
        (Some("192.0.2.64/26"), None)
    );
    let alone = world.join(with_bridge(facts("pve1", 2), "192.0.2.65", 32)).await;
    let (_, network) = network_of(&world, &alone).await;
    assert_eq!((network.bridge.as_deref(), network.subnet), (Some("vmbr1"), None));
}
