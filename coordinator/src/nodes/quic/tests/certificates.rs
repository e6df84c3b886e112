//! Certificates for life: renewal over the link, the return of a node that was off for too long, and a clock that is turned by hand.

use super::*;
use crate::clock::{Clock, UnixMs};
use proximity_protocol::{
    ALPN_ENROLL, VERSION_MIN, close,
    codec::Message,
    enroll::Grant,
    event::{Event, Notice},
    renew::{self, RenewRefusal, RenewRefusalReason, ReturnReply, ReturnRequest},
};
use rcgen::SigningKey;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};
use std::{
    pin::Pin,
    sync::atomic::{AtomicI64, Ordering},
};

const DAY_MS: i64 = 24 * 3600 * 1000;

#[derive(Debug)]
struct HandClock(AtomicI64);

impl HandClock {
    fn days(&self, days: i64) {
        self.0.fetch_add(days * DAY_MS, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }
    fn wait(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

impl TimeProvider for HandClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = u64::try_from(self.now_ms()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now)))
    }
}

/// Coordinator and node, whose clocks agree.
struct Life {
    world: World,
    clock: Arc<HandClock>,
}

impl Life {
    async fn new() -> Self {
        let clock = Arc::new(HandClock(AtomicI64::new(SystemClock.now_ms())));
        Self {
            world: World::at(Limits::default(), clock.clone()).await,
            clock,
        }
    }

    fn config(&self, alpn: &[u8], own: Option<&Identity>) -> quinn::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.world.deps.pki.ca_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, self.clock.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
                builder
                    .with_client_auth_cert(vec![own.certificate.clone()], key)
                    .unwrap()
            }
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
    }

    async fn dial(&self, config: quinn::ClientConfig) -> (Connection, Endpoint) {
        let endpoint = endpoint();
        let connecting = endpoint
            .connect_with(config, self.world.address(), COORDINATOR_TLS_NAME)
            .unwrap();
        (soon("connection", connecting).await.unwrap(), endpoint)
    }

    /// A link by an agent that renews.
    async fn link(&self, own: &Identity) -> FakeAgent {
        let (connection, endpoint) = self.dial(self.config(ALPN_LINK, Some(own))).await;
        let (mut control, mut notices) = connection.open_bi().await.unwrap();
        let mut hello = hello(&own.name, 1, 1);
        hello.capabilities = vec![renew::CAPABILITY.into()];
        frames::write(&mut control, 1, &hello).await.unwrap();
        let reply: HelloReply = next(&mut notices).await;
        let HelloReply::Welcome(welcome) = reply else {
            panic!("{reply:?}")
        };
        FakeAgent {
            connection,
            control,
            notices,
            welcome,
            _endpoint: endpoint,
        }
    }

    /// How a link ends that is not let in.
    async fn shut_out(&self, own: &Identity) -> ConnectionError {
        let endpoint = endpoint();
        let connecting = endpoint
            .connect_with(
                self.config(ALPN_LINK, Some(own)),
                self.world.address(),
                COORDINATOR_TLS_NAME,
            )
            .unwrap();
        match soon("the end of the handshake", connecting).await {
            Err(error) => error,
            Ok(connection) => soon("the end", connection.closed()).await,
        }
    }

    async fn come_back(&self, key: &KeyPair) -> ReturnReply {
        let (connection, _endpoint) = self.dial(self.config(ALPN_ENROLL, None)).await;
        let proof = proof(&connection, key);
        ask_back(&connection, key, proof).await
    }

    async fn audited(&self, action: &'static str, outcome: &'static str) -> i64 {
        let mut read = self.world.deps.store.read().await.unwrap();
        let (count,): (i64,) =
            sqlx::query_as("SELECT COALESCE(SUM(count), 0) FROM audit WHERE action = $1 AND outcome = $2")
                .bind(action)
                .bind(outcome)
                .fetch_one(&mut *read)
                .await
                .unwrap();
        count
    }
}

async fn next<M: Message>(stream: &mut RecvStream) -> M {
    soon("a message", frames::read(stream)).await.unwrap().unwrap()
}

fn proof(connection: &Connection, key: &KeyPair) -> Vec<u8> {
    let mut challenge = [0; renew::RETURN_CHALLENGE_LEN];
    connection
        .export_keying_material(&mut challenge, renew::RETURN_LABEL, b"")
        .unwrap();
    key.sign(&challenge).unwrap()
}

async fn ask_back(connection: &Connection, key: &KeyPair, proof: Vec<u8>) -> ReturnReply {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let ask = ReturnRequest {
        csr_der: request(key),
        proof,
    };
    frames::write(&mut send, VERSION_MIN, &ask).await.unwrap();
    let reply = next(&mut recv).await;
    connection.close(0_u32.into(), b"");
    reply
}

async fn ask_renewal(agent: &mut FakeAgent, key: &KeyPair) -> Result<Grant, RenewRefusal> {
    let csr_der = request(key);
    frames::write(&mut agent.control, 1, &Event::Renew { csr_der })
        .await
        .unwrap();
    match next(&mut agent.notices).await {
        Notice::Renewed(grant) => Ok(*grant),
        Notice::NotRenewed(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn with(own: &Identity, grant: &Grant, key: KeyPair) -> Identity {
    assert_eq!(grant.node, own.node);
    Identity {
        node: own.node,
        name: own.name.clone(),
        certificate: CertificateDer::from(grant.certificate_der.clone()),
        key,
    }
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::try_from(key.serialize_der()).unwrap()
}

fn granted(reply: ReturnReply) -> Grant {
    match reply {
        ReturnReply::Granted(grant) => grant,
        other => panic!("{other:?}"),
    }
}

fn refusal(reply: ReturnReply) -> RenewRefusalReason {
    match reply {
        ReturnReply::Refused(refusal) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_61_days_a_node_is_renewed_and_the_old_certificate_ends_with_the_first_use_of_the_new() {
    let life = Life::new().await;
    let old = life.world.enrolled("pve1").await;
    let mut agent = life.link(&old).await;
    assert_eq!(agent.welcome.notices, [Notice::MayRenew]);
    let key = KeyPair::generate().unwrap();
    let early = ask_renewal(&mut agent, &key).await.unwrap_err();
    assert_eq!(early.reason, RenewRefusalReason::NotDue);

    life.clock.days(61);
    let grant = ask_renewal(&mut agent, &key).await.unwrap();
    assert_eq!(
        grant.not_after_unix_s * 1000 / DAY_MS,
        (life.clock.now_ms() + 90 * DAY_MS) / DAY_MS
    );
    // The answer was lost: the same key gets the same certificate, over a new link with the old certificate, which is still good.
    agent.connection.close(0_u32.into(), b"lost");
    let mut agent = life.link(&old).await;
    assert_eq!(ask_renewal(&mut agent, &key).await.unwrap(), grant);
    assert_eq!(life.audited("certificate.renew", "ok").await, 1);
    // A renewal is for a new key.
    let same = ask_renewal(&mut agent, &copy(&old.key)).await.unwrap_err();
    assert_eq!(same.reason, RenewRefusalReason::Malformed);

    let new = with(&old, &grant, key);
    let mut agent = life.link(&new).await;
    assert_eq!(agent.welcome.node, old.node);
    assert_eq!(life.audited("certificate.supersede", "ok").await, 1);
    let ended = application_code(life.shut_out(&old).await);
    assert_eq!(
        ended,
        u64::from(close::REVOKED),
        "the old one after the new one was used"
    );
    assert!(agent.connection.close_reason().is_none());
    let again = ask_renewal(&mut agent, &KeyPair::generate().unwrap()).await;
    assert_eq!(again.unwrap_err().reason, RenewRefusalReason::NotDue);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_unused_certificates_the_last_is_good_and_none_is_of_another_node() {
    let life = Life::new().await;
    let (own, other) = (life.world.enrolled("pve1").await, life.world.enrolled("pve2").await);
    life.clock.days(61);
    let mut agent = life.link(&own).await;
    let (first, second) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let taken_back = ask_renewal(&mut agent, &first).await.unwrap();
    let good = ask_renewal(&mut agent, &second).await.unwrap();
    let foreign = ask_renewal(&mut agent, &copy(&other.key)).await.unwrap_err();
    assert_eq!(foreign.reason, RenewRefusalReason::Malformed);
    let ended = application_code(life.shut_out(&with(&own, &taken_back, first)).await);
    assert_eq!(ended, u64::from(close::REVOKED));
    let agent = life.link(&with(&own, &good, second)).await;
    assert_eq!(agent.welcome.node, own.node);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_before_hears_nothing_of_renewal() {
    let life = Life::new().await;
    let own = life.world.enrolled("pve1").await;
    let agent = life.world.connect(&own, 1, 1).await;
    assert_eq!(agent.welcome.notices, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_off_for_91_or_200_days_comes_back_by_its_key() {
    for days in [91, 200] {
        let life = Life::new().await;
        let old = life.world.enrolled("pve1").await;
        life.clock.days(days);
        let ended = life.shut_out(&old).await;
        let ConnectionError::ConnectionClosed(frame) = &ended else {
            panic!("{ended:?}")
        };
        assert_eq!(frame.error_code, quinn::TransportErrorCode::crypto(45), "{ended}");

        let grant = granted(life.come_back(&old.key).await);
        assert_eq!(granted(life.come_back(&old.key).await), grant, "a lost answer");
        assert_eq!(life.audited("certificate.return", "ok").await, 1);
        let agent = life.link(&with(&old, &grant, copy(&old.key))).await;
        assert_eq!(agent.welcome.node, old.node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_prove_an_enrolled_key_gets_nothing() {
    let life = Life::new().await;
    let (own, revoked) = (life.world.enrolled("pve1").await, life.world.enrolled("pve2").await);
    life.clock.days(91);
    // A request of another connection.
    let (first, _endpoint) = life.dial(life.config(ALPN_ENROLL, None)).await;
    let stale = proof(&first, &own.key);
    let (second, _endpoint) = life.dial(life.config(ALPN_ENROLL, None)).await;
    assert_eq!(
        refusal(ask_back(&second, &own.key, stale).await),
        RenewRefusalReason::Malformed
    );
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(refusal(life.come_back(&stranger).await), RenewRefusalReason::UnknownKey);
    let node = revoked.node.to_string();
    life.world.nodes().revoke(&admin(), &node).await.unwrap();
    assert_eq!(refusal(life.come_back(&revoked.key).await), RenewRefusalReason::Revoked);
    assert_eq!(life.audited("certificate.return", "refused").await, 3);
    for _ in 0..7 {
        life.come_back(&stranger).await;
    }
    assert_eq!(refusal(life.come_back(&own.key).await), RenewRefusalReason::RateLimited);
    life.clock.days(1);
    granted(life.come_back(&own.key).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_key_does_not_come_back() {
    let life = Life::new().await;
    let old = life.world.enrolled("pve1").await;
    life.clock.days(61);
    let key = KeyPair::generate().unwrap();
    let grant = ask_renewal(&mut life.link(&old).await, &key).await.unwrap();
    let new = with(&old, &grant, key);
    life.link(&new).await;
    life.clock.days(200);
    assert_eq!(refusal(life.come_back(&old.key).await), RenewRefusalReason::Revoked);
    granted(life.come_back(&new.key).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_both_goes_back_and_the_node_still_comes() {
    let life = Life::new().await;
    let old = life.world.enrolled("pve1").await;
    // The authority begins a day before its first start; within that time a clock may go back.
    life.clock.0.fetch_sub(DAY_MS / 2, Ordering::SeqCst);
    let ended = life.shut_out(&old).await;
    assert!(matches!(ended, ConnectionError::ConnectionClosed(_)), "{ended:?}");
    let grant = granted(life.come_back(&old.key).await);
    let now = with(&old, &grant, copy(&old.key));
    assert_eq!(life.link(&now).await.welcome.node, old.node);
    // The clock is set right again.
    life.clock.0.fetch_add(DAY_MS / 2, Ordering::SeqCst);
    assert_eq!(life.link(&now).await.welcome.node, old.node);
}
