//! Who gets in, who does not, and how much of the protocol an intruder sees: nothing.

use super::*;
use proximity_protocol::{
    ALPN_ENROLL, close,
    enroll::{EnrollReply, EnrollRequest, RefusalReason},
    fault::FaultKind,
};

/// Connects, says a perfect Hello, and answers with how it ended and how many bytes of streams came.
async fn intrude(world: &World, config: quinn::ClientConfig) -> (ConnectionError, usize) {
    let endpoint = endpoint();
    let connecting = endpoint
        .connect_with(config, world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    let connection = match soon("the handshake", connecting).await {
        Ok(connection) => connection,
        Err(error) => return (error, 0),
    };
    let mut bytes = 0;
    // The close may overtake each of these: an error here is what we hope for.
    if let Ok((mut send, mut recv)) = connection.open_bi().await {
        let _ = frames::write(&mut send, 1, &hello("pve1", 1, 1)).await;
        let mut buffer = [0; 1024];
        while let Ok(Some(count)) = soon("the end", recv.read(&mut buffer)).await {
            bytes += count;
        }
    }
    let ended = soon("the end of the connection", connection.closed()).await;
    let stats = connection.stats().frame_rx;
    assert_eq!((stats.stream, stats.datagram), (0, 0), "frames of streams came");
    (ended, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_certificate_not_one_byte_of_the_protocol() {
    let world = World::new().await;
    let ca = world.deps.pki.ca_der();
    let mut changes = crate::nodes::NodeCommands::changes(&*world.listener.connections());

    // None.
    let (ended, bytes) = intrude(&world, client(&ca, ALPN_LINK, None)).await;
    assert_eq!((application_code(ended), bytes), (u64::from(close::REVOKED), 0));

    // Of another authority, under the name of a node that exists.
    let identity = world.enrolled("pve1").await;
    let other_state = tempfile::tempdir().unwrap();
    let other = Pki::open(other_state.path(), world.deps.clock.now_ms()).unwrap();
    let key = NodeKey::from_request(&request(&identity.key)).unwrap();
    let forged = other.issue(identity.node, &key, world.deps.clock.now_ms()).unwrap();
    let forged = CertificateDer::from(forged.der);
    let (ended, bytes) = intrude(&world, client(&ca, ALPN_LINK, Some((&forged, &identity.key)))).await;
    assert!(matches!(ended, ConnectionError::ConnectionClosed(_)), "{ended}");
    assert_eq!(bytes, 0);

    // Of our authority, but not in the registry.
    let unknown = world
        .deps
        .pki
        .issue(identity.node, &key, world.deps.clock.now_ms())
        .unwrap();
    let unknown = CertificateDer::from(unknown.der);
    let (ended, bytes) = intrude(&world, client(&ca, ALPN_LINK, Some((&unknown, &identity.key)))).await;
    assert_eq!((application_code(ended), bytes), (u64::from(close::REVOKED), 0));

    // Revoked, with a session of the time when it was good.
    let config = world.link_config(&identity);
    let endpoint = endpoint();
    let good = endpoint
        .connect_with(config.clone(), world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    let good = soon("a good connection", good).await.unwrap();
    let (mut send, mut recv) = good.open_bi().await.unwrap();
    frames::write(&mut send, 1, &hello("pve1", 1, 1)).await.unwrap();
    let welcome = soon("Welcome", frames::read::<HelloReply>(&mut recv))
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(welcome, HelloReply::Welcome(_)));
    assert_eq!(next_change(&mut changes).await, NodeChange::Online(identity.node));
    world
        .nodes()
        .revoke(&admin(), &identity.node.to_string())
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(1), good.closed())
        .await
        .expect("closed within a second");
    assert_eq!(application_code(ended), u64::from(close::REVOKED));
    assert_eq!(next_change(&mut changes).await, NodeChange::Offline(identity.node));
    let resumed = endpoint
        .connect_with(config.clone(), world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    assert!(resumed.into_0rtt().is_err(), "a session could be resumed");
    let (ended, bytes) = intrude(&world, config).await;
    assert_eq!((application_code(ended), bytes), (u64::from(close::REVOKED), 0));

    // Another protocol altogether.
    let (ended, _) = intrude(&world, client(&ca, b"h3", None)).await;
    assert!(matches!(ended, ConnectionError::ConnectionClosed(_)), "{ended}");
    assert!(changes.try_recv().is_err(), "an intruder was told as a node");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_can_be_resumed() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let tickets = Arc::new(Tickets::default());
    let resumption = rustls::client::Resumption::store(tickets.clone());
    let own = Some((&identity.certificate, &identity.key));
    let config = client_resuming(&world.deps.pki.ca_der(), ALPN_LINK, own, resumption);
    let endpoint = endpoint();
    let connecting = endpoint
        .connect_with(config, world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    let connection = soon("connection", connecting).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    frames::write(&mut send, 1, &hello("pve1", 1, 1)).await.unwrap();
    // A server sends tickets right after the handshake, so before its Welcome.
    soon("Welcome", frames::read::<HelloReply>(&mut recv))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(tickets.0.load(std::sync::atomic::Ordering::SeqCst), 0);
}

async fn enrol(world: &World, token: &JoinToken, key: &KeyPair) -> EnrollReply {
    let endpoint = endpoint();
    let config = client(&world.deps.pki.ca_der(), ALPN_ENROLL, None);
    let connecting = endpoint
        .connect_with(config, world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    let connection = soon("connection", connecting).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let ask = EnrollRequest {
        token: token.id,
        secret: token.secret.clone(),
        csr_der: request(key),
        facts: facts("pve1", 1),
        take_over: false,
    };
    frames::write(&mut send, 1, &ask).await.unwrap();
    let reply = soon("an answer", frames::read::<EnrollReply>(&mut recv))
        .await
        .unwrap()
        .unwrap();
    connection.close(close::BYE.into(), b"");
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_enrol_at_once_one_does_and_can_connect() {
    let world = Arc::new(World::new().await);
    let token = world.token().await;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (world, token, key) = (Arc::clone(&world), token.clone(), KeyPair::generate().unwrap());
        all.spawn(async move { (enrol(&world, &token, &key).await, key) });
    }
    let mut granted = Vec::new();
    while let Some(done) = all.join_next().await {
        match done.unwrap() {
            (EnrollReply::Granted(grant), key) => granted.push((grant, key)),
            (EnrollReply::Refused(refusal), _) => assert_eq!(refusal.reason, RefusalReason::Spent),
        }
    }
    let Ok([(grant, key)]) = <[_; 1]>::try_from(granted) else {
        panic!("not one winner")
    };
    let identity = Identity {
        node: grant.node,
        name: "pve1".into(),
        certificate: CertificateDer::from(grant.certificate_der),
        key,
    };
    let agent = world.connect(&identity, 1, 1).await;
    assert_eq!((agent.welcome.node, agent.welcome.epoch), (grant.node, Epoch(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_holds_its_place_for_a_moment_only() {
    let world = World::with(Limits {
        handshake: Duration::from_secs(3),
        handshakes: 2,
        ..Limits::default()
    })
    .await;
    let identity = world.enrolled("pve1").await;
    // Two that shake hands and then say nothing, one of each kind.
    let endpoint = endpoint();
    let mut silent = Vec::new();
    for config in [
        world.link_config(&identity),
        client(&world.deps.pki.ca_der(), ALPN_ENROLL, None),
    ] {
        let connecting = endpoint
            .connect_with(config, world.address(), COORDINATOR_TLS_NAME)
            .unwrap();
        silent.push(soon("connection", connecting).await.unwrap());
    }
    let third = endpoint
        .connect_with(world.link_config(&identity), world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    assert!(
        soon("a refusal", third).await.is_err(),
        "beyond the bound nobody comes in"
    );
    for connection in &silent {
        assert_eq!(
            application_code(soon("the end", connection.closed()).await),
            u64::from(close::PROTOCOL)
        );
    }
    world.connect(&identity, 1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_hung_up_on() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    for bytes in [
        vec![0xff; 64],
        vec![0, 1, 0, 5, 0, 0, 0, 0],
        vec![0, 1, 0, 1, 0xff, 0, 0, 0],
        vec![0, 1, 0, 1, 0, 0, 0, 2, 9, 9],
    ] {
        let endpoint = endpoint();
        let connecting = endpoint
            .connect_with(world.link_config(&identity), world.address(), COORDINATOR_TLS_NAME)
            .unwrap();
        let connection = soon("connection", connecting).await.unwrap();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        let code = application_code(soon("the end", connection.closed()).await);
        assert!(
            [close::PROTOCOL, close::VERSION].map(u64::from).contains(&code),
            "{bytes:?}: {code}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_fit_is_told_why() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let words = |refused: Result<FakeAgent, HelloReply>| match refused {
        Err(HelloReply::Refused(fault)) => {
            assert_eq!(fault.kind, FaultKind::Malformed);
            fault.message
        }
        _ => panic!("not refused"),
    };
    let mut newer = hello("pve1", 1, 1);
    newer.versions = VersionRange { min: 90, max: 99 };
    assert!(words(world.connect_saying(&identity, newer).await).contains("update the coordinator"));
    assert!(words(world.connect_saying(&identity, hello("other", 1, 1)).await).contains("join again"));
    // Another host's installation: not by its own word.
    let mut tx = world.deps.store.begin().await.unwrap();
    let fields = store::hosts::HostFields {
        name: "second".into(),
        host: String::new(),
        port: 8006,
        is_active: true,
        is_default: false,
    };
    store::hosts::insert(&mut tx, 1, None, &fields, Some(&[2; 32]))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut moved = hello("pve1", 1, 1);
    moved.facts = facts("pve1", 2);
    assert!(words(world.connect_saying(&identity, moved).await).contains("second"));
    assert!(!world.listener.connections().online().contains(&identity.node));
}
