//! Certificates for life, as the agent sees them: days pass by hand, the connections are real.

use super::*;
use crate::{identity::clock::Clock, link::status::Status, tests::server_config_at};
use proximity_protocol::{
    enroll::Grant,
    renew::{self, ReturnReply, ReturnRequest},
    roots,
};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{fs, os::unix::fs::PermissionsExt, pin::Pin, time::Duration};
use time::OffsetDateTime;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

#[derive(Debug)]
pub(super) struct HandClock {
    date: watch::Sender<OffsetDateTime>,
    /// What has passed, and not what was set.
    passed: watch::Sender<Duration>,
}

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            date: watch::Sender::new(OffsetDateTime::now_utc()),
            passed: watch::Sender::new(Duration::ZERO),
        })
    }

    /// Days pass.
    fn days(&self, days: u32) {
        self.set(days.into());
        self.passed
            .send_modify(|passed| *passed += Duration::from_secs(u64::from(days) * 24 * 3600));
    }

    /// The clock is set by so many days.
    fn set(&self, days: i64) {
        self.date.send_modify(|now| *now += time::Duration::days(days));
    }
}

impl Clock for HandClock {
    fn now(&self) -> OffsetDateTime {
        *self.date.borrow()
    }
    fn steady(&self) -> Duration {
        *self.passed.borrow()
    }
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let until = self.steady() + duration;
        let mut passed = self.passed.subscribe();
        Box::pin(async move {
            passed.wait_for(|passed| *passed >= until).await.unwrap();
        })
    }
}

impl TimeProvider for HandClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = u64::try_from(self.now().unix_timestamp()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

/// Agent and coordinator, both by a clock that is turned by hand.
pub(super) async fn aging_world() -> (Arc<HandClock>, World) {
    let clock = HandClock::new();
    let world = world_at(clock.clone()).await;
    let config = server_config_at(&world.ca, clock.clone());
    world.endpoint.set_server_config(Some(config));
    (clock, world)
}

pub(super) fn shown(connection: &Connection) -> Vec<u8> {
    let chain = connection.peer_identity().unwrap();
    chain.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].to_vec()
}

pub(super) fn public_key(csr_der: &[u8]) -> Vec<u8> {
    let (_, csr) = X509CertificationRequest::from_der(csr_der).unwrap();
    csr.verify_signature().unwrap();
    csr.certification_request_info
        .subject_pki
        .subject_public_key
        .data
        .to_vec()
}

impl World {
    pub(super) fn stored(&self) -> Vec<u8> {
        let identity = identity::Identity::load(self.folder.path()).unwrap().unwrap();
        identity.certificate().to_vec()
    }

    fn renewal(&self) -> std::path::PathBuf {
        self.folder.path().join("identity/renewal.json")
    }

    pub(super) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(20), async {
            while !so(self) {
                tokio::task::yield_now().await;
            }
        });
        assert!(waited.await.is_ok(), "not in time: {what}");
    }

    pub(super) fn says(&self, words: &str) -> bool {
        let problem = Status::read(self.folder.path()).and_then(|status| status.problem);
        problem.is_some_and(|problem| problem.contains(words))
    }

    /// The agent is shut out because of its dates, and asks for another certificate: the connection on which it does.
    pub(super) async fn asked_back(&self) -> (Connection, SendStream, ReturnRequest) {
        loop {
            let incoming = within(self.endpoint.accept()).await.unwrap();
            if let Ok(connection) = within(async { incoming.await }).await {
                assert!(connection.peer_identity().is_none(), "it shows no expired certificate");
                let (send, mut recv) = within(connection.accept_bi()).await.unwrap();
                let request = read(&mut recv).await;
                return (connection, send, request);
            }
        }
    }
}

pub(super) async fn renewal_request(events: &mut RecvStream) -> Vec<u8> {
    loop {
        if let Event::Renew { csr_der } = read(events).await {
            return csr_der;
        }
    }
}

/// An agent whose request for renewal has been granted and that has hung up to come again.
async fn renewed(world: &World, clock: &HandClock) -> Grant {
    let (connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    clock.days(61);
    let csr_der = renewal_request(&mut events).await;
    let grant = world.ca.grant_at(world.node, &csr_der, clock.now());
    frames::write(&mut control, 1, &Notice::Renewed(Box::new(grant.clone())))
        .await
        .unwrap();
    within(connection.closed()).await;
    grant
}

#[tokio::test]
async fn after_61_days_it_renews_and_keeps_the_old_until_the_new_is_welcomed() {
    let (clock, world) = aging_world().await;
    let before = world.stored();
    let (connection, _control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    clock.days(55);
    world.repairs.add(1);
    loop {
        match read(&mut events).await {
            Event::Renew { .. } => panic!("too early"),
            Event::PublishedRepaired { .. } => break,
            _ => {}
        }
    }
    clock.days(6);
    let asked = public_key(&renewal_request(&mut events).await);
    let mode = fs::metadata(world.renewal()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    connection.close(close::BYE.into(), b"the answer is lost");

    let (connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    assert_eq!(shown(&connection), before);
    let csr_der = renewal_request(&mut events).await;
    assert_eq!(public_key(&csr_der), asked, "the same key");
    let grant = world.ca.grant_at(world.node, &csr_der, clock.now());
    frames::write(&mut control, 1, &Notice::Renewed(Box::new(grant.clone())))
        .await
        .unwrap();

    // It comes with the new one, and until Welcome the old one is what it has.
    let (connection, mut control, _events, hello) = world.hello().await;
    assert_eq!(hello.capabilities, [renew::CAPABILITY, roots::CAPABILITY]);
    assert_eq!(shown(&connection), grant.certificate_der);
    assert_eq!(world.stored(), before);
    assert!(world.renewal().exists());
    let welcome = Welcome {
        version: 1,
        node: world.node,
        epoch: Epoch(3),
        coordinator_version: "0".into(),
        metrics_interval_ms: 60_000,
        notices: vec![Notice::MayRenew],
    };
    frames::write(&mut control, 1, &HelloReply::Welcome(welcome))
        .await
        .unwrap();
    world
        .until("the swap", |world| {
            world.stored() == grant.certificate_der && !world.renewal().exists()
        })
        .await;
}

#[tokio::test]
async fn a_new_certificate_that_is_not_taken_gives_way_to_the_old() {
    let (clock, world) = aging_world().await;
    let before = world.stored();
    let grant = renewed(&world, &clock).await;
    let connection = accept(&world.endpoint).await;
    assert_eq!(shown(&connection), grant.certificate_der);
    connection.close(close::REVOKED.into(), b"unknown to the registry");
    let (connection, ..) = world.welcome(3).await;
    assert_eq!(shown(&connection), before);
    assert!(!world.renewal().exists());
}

#[tokio::test]
async fn a_grant_of_another_authority_or_for_another_key_changes_nothing() {
    let (clock, world) = aging_world().await;
    let (connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    clock.days(61);
    let csr_der = renewal_request(&mut events).await;
    let foreign = Ca::new().grant_at(world.node, &csr_der, clock.now());
    frames::write(&mut control, 1, &Notice::Renewed(Box::new(foreign)))
        .await
        .unwrap();
    world
        .until("the key is dropped", |world| !world.renewal().exists())
        .await;
    clock.days(1);
    let again = renewal_request(&mut events).await;
    assert_ne!(public_key(&again), public_key(&csr_der));
    let stranger = world.ca.grant_at(world.node, &csr_der, clock.now());
    frames::write(&mut control, 1, &Notice::Renewed(Box::new(stranger)))
        .await
        .unwrap();
    world
        .until("the key is dropped", |world| !world.renewal().exists())
        .await;
    assert!(connection.close_reason().is_none(), "the link stays");
}

#[tokio::test]
async fn a_coordinator_of_before_is_not_asked() {
    let (clock, world) = aging_world().await;
    let (_connection, mut control, mut events) = world.welcome(3).await;
    assert!(matches!(read(&mut events).await, Event::Inventory(_)));
    clock.days(61);
    frames::write(&mut control, 1, &Notice::Refresh).await.unwrap();
    assert!(matches!(read(&mut events).await, Event::Facts(_)));
    assert!(matches!(read(&mut events).await, Event::Inventory(_)));
    world.shutdown.cancel();
    assert_eq!(read::<Event>(&mut events).await, Event::Stopping);
}

#[tokio::test]
async fn off_for_91_or_200_days_it_comes_back_by_its_key() {
    for days in [91, 200] {
        let (clock, world) = aging_world().await;
        let before = world.stored();
        let (connection, ..) = world.welcome(3).await;
        clock.days(days);
        connection.close(close::BYE.into(), b"");

        let (connection, mut send, request) = world.asked_back().await;
        world
            .until("it says why", |world| world.says("this node's clock says"))
            .await;
        let mut challenge = [0; renew::RETURN_CHALLENGE_LEN];
        connection
            .export_keying_material(&mut challenge, renew::RETURN_LABEL, b"")
            .unwrap();
        let key = public_key(&request.csr_der);
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, key)
            .verify(&challenge, &request.proof)
            .unwrap();
        let grant = world.ca.grant_at(world.node, &request.csr_der, clock.now());
        frames::write(&mut send, VERSION_MIN, &ReturnReply::Granted(grant.clone()))
            .await
            .unwrap();
        send.finish().unwrap();
        within(connection.closed()).await;
        assert_eq!(world.stored(), before);

        let (connection, ..) = world.welcome(3).await;
        assert_eq!(shown(&connection), grant.certificate_der);
        world
            .until("the swap", |world| world.stored() == grant.certificate_der)
            .await;
    }
}

#[tokio::test]
async fn a_coordinator_that_cannot_take_it_back_is_named() {
    let (clock, world) = aging_world().await;
    let (connection, ..) = world.welcome(3).await;
    clock.days(91);
    connection.close(close::BYE.into(), b"");
    let (connection, ..) = world.asked_back().await;
    connection.close(close::PROTOCOL.into(), b"expected a message of type 16, got type 18");
    world.until("it says why", |world| world.says("too old")).await;
}

#[tokio::test]
async fn a_clock_that_went_back_is_named_and_nothing_is_lost() {
    let (clock, world) = aging_world().await;
    let before = world.stored();
    let (connection, ..) = world.welcome(3).await;
    clock.set(-365);
    connection.close(close::BYE.into(), b"");
    let refused = within(async { world.endpoint.accept().await.unwrap().await }).await;
    assert!(refused.is_err(), "the agent judges the coordinator's certificate");
    world
        .until("it says why", |world| {
            world.says("this node's clock was set back by 365 days")
        })
        .await;
    clock.set(365);
    loop {
        let incoming = within(world.endpoint.accept()).await.unwrap();
        if let Ok(connection) = within(async { incoming.await }).await {
            assert_eq!(shown(&connection), before);
            break;
        }
    }
}
