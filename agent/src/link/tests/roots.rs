//! From one root of the coordinator to the next, as the agent sees it.

use super::{
    renewal::{HandClock, aging_world, public_key, renewal_request, shown},
    *,
};
use crate::{identity::clock::Clock as _, tests::server_config_with};
use proximity_protocol::{
    ALPN_ENROLL, ALPN_ENROLL_2, ALPN_LINK,
    renew::{ReturnReply, ReturnRequest},
    roots::Roots,
};
use quinn::ConnectionError;
use sha2::{Digest, Sha256};

fn told(trusted: &[&Ca], crossed: &[(&Ca, &Ca)], signs: &Ca) -> Roots {
    Roots {
        trusted: trusted.iter().map(|ca| ca.der().to_vec()).collect(),
        crossed: crossed.iter().map(|(by, next)| by.cross(next).to_vec()).collect(),
        signs: signs.pin(),
        renew_within_s: 0,
    }
}

async fn tell(control: &mut SendStream, roots: Roots) {
    frames::write(control, 1, &Notice::Roots(Box::new(roots)))
        .await
        .unwrap();
}

async fn stored(events: &mut RecvStream) -> Vec<[u8; 32]> {
    loop {
        if let Event::RootsStored { pins } = read(events).await {
            return pins;
        }
    }
}

impl World {
    /// The coordinator shows a certificate of `ca` from now on; nodes that know an older root find the way by `more`.
    fn shows(&self, ca: &Ca, more: Vec<rustls_pki_types::CertificateDer<'static>>, clock: &Arc<HandClock>) {
        let protocols = [ALPN_LINK, ALPN_ENROLL_2, ALPN_ENROLL];
        let config = server_config_with(ca, more, &protocols, clock.clone());
        self.endpoint.set_server_config(Some(config));
    }

    fn trusted(&self) -> Vec<[u8; 32]> {
        let identity = identity::Identity::load(self.folder.path()).unwrap().unwrap();
        let pin = |der: rustls_pki_types::CertificateDer<'_>| crate::identity::public_key_fingerprint(&der).unwrap();
        identity.roots().map(pin).collect()
    }
}

#[tokio::test]
async fn it_stores_the_new_root_before_it_says_so_and_renews_at_once_when_that_one_signs() {
    let (clock, world) = aging_world().await;
    let next = Ca::named("the next root");
    let both = [&world.ca, &next];
    let (connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    tell(&mut control, told(&both, &[(&world.ca, &next)], &world.ca)).await;
    assert_eq!(stored(&mut events).await, [world.ca.pin(), next.pin()]);
    assert_eq!(world.trusted(), [world.ca.pin(), next.pin()], "on the disk");

    // It signs now.
    tell(&mut control, told(&both, &[(&world.ca, &next)], &next)).await;
    let csr_der = renewal_request(&mut events).await;
    let grant = next.grant_at(world.node, &csr_der, clock.now());
    world.shows(&next, vec![], &clock);
    frames::write(&mut control, 1, &Notice::Renewed(Box::new(grant.clone())))
        .await
        .unwrap();
    within(connection.closed()).await;
    let (connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    assert_eq!(shown(&connection), grant.certificate_der);
    world
        .until("the swap", |world| world.stored() == grant.certificate_der)
        .await;

    // The old one is not told of any more.
    tell(&mut control, told(&[&next], &[(&world.ca, &next)], &next)).await;
    assert_eq!(stored(&mut events).await, [next.pin()]);
    assert_eq!(world.trusted(), [next.pin()]);
    let identity = identity::Identity::load(world.folder.path()).unwrap().unwrap();
    let coordinator = data_encoding::HEXLOWER.encode(&world.ca.pin());
    assert_eq!(identity.coordinator, coordinator, "it is still the same coordinator");
    assert_eq!(identity.ca_fingerprint, next.pin());
}

#[tokio::test]
async fn a_root_that_none_of_ours_has_signed_is_not_taken() {
    let (_clock, world) = aging_world().await;
    let (stranger, other) = (Ca::named("a stranger"), Ca::new());
    let (_connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    tell(&mut control, told(&[&stranger], &[(&other, &stranger)], &stranger)).await;
    tell(&mut control, told(&[&world.ca, &stranger], &[], &stranger)).await;
    assert_eq!(stored(&mut events).await, [world.ca.pin()], "the first is not answered");
    assert_eq!(world.trusted(), [world.ca.pin()]);
}

#[tokio::test]
async fn away_for_two_rotations_it_believes_the_coordinator_and_comes_back_by_its_key() {
    let (clock, world) = aging_world().await;
    let (second, third) = (Ca::named("second"), Ca::named("third"));
    let (connection, ..) = world.welcome(3).await;
    // What the first root signed is taken no more.
    let way = vec![second.cross(&third), world.ca.cross(&second)];
    world.shows(&third, way, &clock);
    connection.close(close::BYE.into(), b"");

    let (connection, mut send, request): (_, SendStream, ReturnRequest) = world.asked_back().await;
    let protocol = connection
        .handshake_data()
        .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
        .and_then(|data| data.protocol);
    assert_eq!(protocol.as_deref(), Some(ALPN_ENROLL_2));
    let grant = third.grant_at(world.node, &request.csr_der, clock.now());
    let roots = told(&[&third], &[(&second, &third), (&world.ca, &second)], &third);
    let answer = ReturnReply::Followed {
        grant: Box::new(grant.clone()),
        roots: Box::new(roots),
    };
    frames::write(&mut send, VERSION_MIN, &answer).await.unwrap();
    send.finish().unwrap();
    within(connection.closed()).await;
    let (connection, ..) = world.welcome(3).await;
    assert_eq!(shown(&connection), grant.certificate_der);
    world
        .until("the swap", |world| world.stored() == grant.certificate_der)
        .await;
    assert_eq!(world.trusted(), [third.pin()]);
}

#[tokio::test]
async fn a_coordinator_whose_root_nobody_has_signed_stays_a_stranger() {
    let (clock, world) = aging_world().await;
    let (connection, ..) = world.welcome(3).await;
    let stranger = Ca::named("a stranger");
    world.shows(&stranger, vec![Ca::new().cross(&stranger)], &clock);
    connection.close(close::BYE.into(), b"");
    let refused = within(async { world.endpoint.accept().await.unwrap().await }).await;
    assert!(
        matches!(refused, Err(ConnectionError::ConnectionClosed(_))),
        "{refused:?}"
    );
    world
        .until("it says why", |world| world.says("invalid peer certificate"))
        .await;
}

#[tokio::test]
async fn told_to_replace_its_key_it_does_so_whatever_the_dates_say() {
    let (clock, world) = aging_world().await;
    let before = world.stored();
    let (connection, mut control, mut events) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    frames::write(&mut control, 1, &Notice::RenewNow).await.unwrap();
    let csr_der = renewal_request(&mut events).await;
    let (_, old) = x509_parser::parse_x509_certificate(&before).unwrap();
    assert_ne!(
        Sha256::digest(public_key(&csr_der)),
        Sha256::digest(&old.public_key().subject_public_key.data)
    );
    let grant = world.ca.grant_at(world.node, &csr_der, clock.now());
    frames::write(&mut control, 1, &Notice::Renewed(Box::new(grant.clone())))
        .await
        .unwrap();
    within(connection.closed()).await;
    let (connection, ..) = world.welcome_with(3, vec![Notice::MayRenew]).await;
    assert_eq!(shown(&connection), grant.certificate_der);
    world
        .until("the swap", |world| world.stored() == grant.certificate_der)
        .await;
}
