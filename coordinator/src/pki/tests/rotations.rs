//! From one root to the next, on the disk and as those judge it who know one root only.

use super::*;
use crate::clock::{Clock, SystemClock};
use rotation::Stage;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    server::danger::ClientCertVerifier as _,
};
use rustls_pki_types::{ServerName, UnixTime};
use std::time::Duration;

const DAY_MS: i64 = 24 * 3600 * 1000;

fn now() -> UnixMs {
    SystemClock.now_ms()
}

fn pin_at(pki: &Pki, place: usize) -> Pin {
    pki.roots()[place].root.pin
}

/// Whether who knows `root` alone believes the coordinator.
fn believes(root: &CertificateDer<'static>, pki: &Pki) -> Result<(), rustls::Error> {
    let chain = pki.server_certificate(Arc::new(SystemClock)).unwrap().shown();
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap()
        .verify_server_cert(
            &chain[0],
            &chain[1..],
            &ServerName::try_from(proximity_protocol::COORDINATOR_TLS_NAME).unwrap(),
            &[],
            UnixTime::now(),
        )
        .map(drop)
}

fn lets_in(pki: &Pki, certificate: &[u8]) -> Result<(), rustls::Error> {
    let at = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now()).unwrap()));
    let certificate = CertificateDer::from(certificate.to_vec());
    pki.client_roots()
        .unwrap()
        .verify_client_cert(&certificate, &[], at)
        .map(drop)
}

fn node_key() -> NodeKey {
    NodeKey::from_request(&request(&KeyPair::generate().unwrap())).unwrap()
}

fn issue(pki: &Pki) -> Vec<u8> {
    pki.issue(NodeId(Uuid::from_u128(1)), &node_key(), now()).unwrap().der
}

fn rotate(pki: &Pki) {
    pki.announce(now(), Terms::default()).unwrap();
    pki.switch(now()).unwrap();
    pki.retire().unwrap();
}

#[test]
fn whoever_knows_one_root_believes_the_coordinator_at_every_stage() {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), now()).unwrap();
    let first = pki.ca_der();
    let of_first = issue(&pki);
    pki.announce(now(), Terms::default()).unwrap();
    let second = pki.roots()[1].root.certificate.clone();
    assert_eq!((pki.ca_der(), pki.ca_pin()), (first.clone(), pin_at(&pki, 0)));
    believes(&first, &pki).unwrap();

    pki.switch(now()).unwrap();
    assert_eq!((pki.ca_der(), pki.ca_pin()), (second.clone(), pin_at(&pki, 1)));
    believes(&first, &pki).unwrap();
    believes(&second, &pki).unwrap();
    let of_second = issue(&pki);
    lets_in(&pki, &of_first).unwrap();
    lets_in(&pki, &of_second).unwrap();
    assert_eq!(pki.issuer(&of_first).unwrap().standing, Standing::Outgoing);
    let old = pki
        .issue_under(&pin_at(&pki, 0), NodeId(Uuid::from_u128(1)), &node_key(), now())
        .unwrap();
    assert_eq!(pki.issuer(&old.unwrap().der).unwrap().root.pin, pin_at(&pki, 0));

    pki.retire().unwrap();
    believes(&first, &pki).expect("a node that was away all the time");
    believes(&second, &pki).unwrap();
    lets_in(&pki, &of_second).unwrap();
    let refused = lets_in(&pki, &of_first).unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    assert!(!state.path().join("ca/ca.key").exists(), "the old key is destroyed");
    assert_eq!(
        pki.issue_under(&pin_at(&pki, 0), NodeId(Uuid::from_u128(1)), &node_key(), now())
            .unwrap(),
        None
    );

    // Away for three rotations in a row.
    rotate(&pki);
    rotate(&pki);
    for root in pki.roots() {
        believes(&root.root.certificate, &pki).unwrap();
    }
    let other = tempfile::tempdir().unwrap();
    let stranger = Pki::open(other.path(), now()).unwrap();
    believes(&stranger.ca_der(), &pki).unwrap_err();
}

#[test]
fn a_step_of_another_process_is_noticed() {
    let state = tempfile::tempdir().unwrap();
    let serve = Pki::open(state.path(), now()).unwrap();
    let certificate = serve.server_certificate(Arc::new(SystemClock)).unwrap();
    let roots = serve.client_roots().unwrap();
    let of_first = CertificateDer::from(issue(&serve));
    let mut changes = serve.changes();
    let before = certificate.shown();
    assert!(!serve.look_again().unwrap());

    let command_line = Pki::open(state.path(), now()).unwrap();
    command_line.announce(now(), Terms::default()).unwrap();
    command_line.switch(now()).unwrap();
    assert!(serve.look_again().unwrap());
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!(serve.ca_pin(), command_line.ca_pin());
    assert_ne!(
        certificate.shown(),
        before,
        "the certificate that is shown is of the new root"
    );
    roots.verify_client_cert(&of_first, &[], UnixTime::now()).unwrap();

    command_line.retire().unwrap();
    assert!(serve.look_again().unwrap());
    roots.verify_client_cert(&of_first, &[], UnixTime::now()).unwrap_err();
}

#[test]
fn a_crash_between_two_files_of_a_step_leaves_the_stage_of_before_or_of_after() {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), now()).unwrap();
    let file = |name: &str| state.path().join("ca").join(name);
    let first = pki.ca_pin();
    pki.announce(now(), Terms::default()).unwrap();
    let made = pin_at(&pki, 1);
    // Killed before the plan named the new root: whatever is there of it counts for nothing, and the next try makes another.
    for left in [
        &["ca-2.key"][..],
        &["ca-2.key", "ca-2.pem"],
        &["ca-2.key", "ca-2.pem", "ca-2.cross.pem"],
    ] {
        let copy = tempfile::tempdir().unwrap();
        let ca = copy.path().join("ca");
        std::fs::create_dir(&ca).unwrap();
        for name in ["ca.key", "ca.pem", "join.key", "reset.key", "retry.key"]
            .iter()
            .chain(left)
        {
            std::fs::copy(file(name), ca.join(name)).unwrap();
        }
        let again = Pki::open(copy.path(), now()).unwrap();
        assert_eq!((again.plan(), again.ca_pin()), (Plan::default(), first));
        again.announce(now(), Terms::default()).unwrap();
        assert_ne!(pin_at(&again, 1), made);
        again.switch(now()).unwrap();
        believes(&again.roots()[0].root.certificate, &again).unwrap();
    }
    // Killed between the end of the old root and the end of its key.
    let key = std::fs::read(file("ca.key")).unwrap();
    pki.switch(now()).unwrap();
    pki.retire().unwrap();
    std::fs::write(file("ca.key"), key).unwrap();
    std::fs::set_permissions(file("ca.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let again = Pki::open(state.path(), now()).unwrap();
    assert!(!file("ca.key").exists());
    assert_eq!(again.plan().roots.len(), 2);
}

#[test]
fn a_rotation_can_be_called_off_before_the_new_root_signs() {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), now()).unwrap();
    let first = pki.ca_pin();
    pki.announce(now(), Terms::default()).unwrap();
    assert_eq!(pki.told().trusted.len(), 2);
    pki.call_off().unwrap();
    assert_eq!((pki.plan(), pki.ca_pin()), (Plan::default(), first));
    assert_eq!(pki.told().trusted.len(), 1);
    for name in ["ca-2.key", "ca-2.pem", "ca-2.cross.pem"] {
        assert!(!state.path().join("ca").join(name).exists(), "{name}");
    }
    pki.announce(now(), Terms::default()).unwrap();
    pki.switch(now()).unwrap();
    assert!(matches!(pki.call_off(), Err(PkiError::Step(StepError::Switched))));
}

#[test]
fn a_plan_that_cannot_be_read_changes_nothing_while_it_runs_and_stops_the_next_start() {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), now()).unwrap();
    pki.announce(now(), Terms::default()).unwrap();
    pki.switch(now()).unwrap();
    let signs = pki.ca_pin();
    std::fs::write(state.path().join("ca/roots.json"), "{").unwrap();
    assert!(matches!(pki.look_again(), Err(PkiError::Damaged { .. })));
    assert_eq!(pki.ca_pin(), signs);
    let refused = Pki::open(state.path(), now()).unwrap_err();
    assert!(refused.to_string().contains("roots.json is damaged"), "{refused}");
}

#[test]
fn the_overlap_is_stated() {
    let state = tempfile::tempdir().unwrap();
    let pki = Pki::open(state.path(), now()).unwrap();
    let (begun, switched) = (now(), now() + 3 * DAY_MS);
    let terms = Terms {
        overlap_days: 100,
        ..Terms::default()
    };
    pki.announce(begun, terms).unwrap();
    pki.switch(switched).unwrap();
    let stage = pki.plan().rotation;
    assert!(
        matches!(stage, Some(Stage::Overlap { retire_at, .. }) if retire_at == switched + 100 * DAY_MS),
        "{stage:?}"
    );
}
