//! Joining, against a coordinator that does what a test tells it.
#![allow(clippy::unwrap_used)]

use super::{Identity, JoinError, JoinRequest, join};
use crate::{
    identity::frames,
    tests::{self as rehearsal, Ca, accept, listen, within},
};
use proximity_protocol::{
    VERSION_MIN,
    enroll::{EnrollRefusal, EnrollReply, EnrollRequest, Grant, RefusalReason},
    ids::NodeId,
    token::JoinToken,
};
use quinn::Endpoint;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use uuid::Uuid;

/// Answers one request; without an answer the connection is cut.
async fn answer(endpoint: &Endpoint, answer: impl FnOnce(&EnrollRequest) -> Option<EnrollReply>) -> EnrollRequest {
    let connection = accept(endpoint).await;
    let (mut send, mut recv) = within(connection.accept_bi()).await.unwrap();
    let request: EnrollRequest = rehearsal::read(&mut recv).await;
    if let Some(reply) = answer(&request) {
        frames::write(&mut send, VERSION_MIN, &reply).await.unwrap();
        send.finish().unwrap();
        within(connection.closed()).await;
    } else {
        connection.close(0u32.into(), b"cut");
    }
    request
}

fn request<'a>(state_dir: &'a Path, token: &'a JoinToken) -> JoinRequest<'a> {
    JoinRequest {
        state_dir,
        token,
        facts: rehearsal::facts(),
        take_over: false,
        replace: false,
    }
}

fn node() -> NodeId {
    NodeId(Uuid::new_v4())
}

fn pending(state_dir: &Path) -> bool {
    state_dir.join("identity/pending.json").exists()
}

#[tokio::test]
async fn a_node_joins_and_finds_its_identity_again() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().join("state");
    let (ca, node) = (Ca::new(), node());
    let endpoint = listen(&ca);
    let token = rehearsal::token(endpoint.local_addr().unwrap(), ca.pin());
    let (joined, asked) = tokio::join!(
        join(request(&state_dir, &token)),
        answer(&endpoint, |request| Some(EnrollReply::Granted(ca.grant(node, request)))),
    );
    assert_eq!(joined.unwrap().node, node);
    assert_eq!((asked.token, &asked.secret), (token.id, &token.secret));
    let identity = Identity::load(&state_dir).unwrap().unwrap();
    assert_eq!((identity.node, identity.ca_fingerprint), (node, ca.pin()));
    assert_eq!(identity.addresses, token.addresses);
    crate::identity::dial::link_config(&identity).unwrap();
    assert!(!pending(&state_dir));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state_dir.join("identity")), 0o700);
    assert_eq!(mode(&state_dir.join("identity/identity.json")), 0o600);

    let again = join(request(&state_dir, &token)).await;
    assert!(matches!(again, Err(JoinError::AlreadyJoined(who)) if who == node));
}

#[tokio::test]
async fn nothing_is_sent_to_whoever_has_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Ca::new(), Ca::new());
    let endpoint = listen(&theirs);
    let token = rehearsal::token(endpoint.local_addr().unwrap(), ours.pin());
    let (joined, accepted) = tokio::join!(join(request(folder.path(), &token)), async {
        within(async { endpoint.accept().await.unwrap().await }).await
    });
    assert!(matches!(joined, Err(JoinError::WrongPin { .. })), "{joined:?}");
    assert!(accepted.is_err(), "the agent hangs up within the handshake");
    assert!(Identity::load(folder.path()).unwrap().is_none());
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_with_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, node) = (Ca::new(), node());
    let endpoint = listen(&ca);
    let token = rehearsal::token(endpoint.local_addr().unwrap(), ca.pin());
    let (first, keys) = tokio::join!(join(request(folder.path(), &token)), async {
        // The agent itself tries twice.
        [answer(&endpoint, |_| None).await, answer(&endpoint, |_| None).await].map(|request| public_key(&request))
    });
    assert!(matches!(first, Err(JoinError::ReplyLost(_))), "{first:?}");
    assert!(first.unwrap_err().retryable() && pending(folder.path()));
    let (second, asked) = tokio::join!(
        join(request(folder.path(), &token)),
        answer(&endpoint, |request| Some(EnrollReply::Granted(ca.grant(node, request)))),
    );
    assert_eq!(second.unwrap().node, node);
    assert!(keys.iter().all(|key| *key == public_key(&asked)));
}

fn public_key(request: &EnrollRequest) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509CertificationRequest};
    let (_, csr) = X509CertificationRequest::from_der(&request.csr_der).unwrap();
    csr.verify_signature().unwrap();
    csr.certification_request_info.subject_pki.raw.to_vec()
}

#[tokio::test]
async fn a_refusal_stores_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let endpoint = listen(&ca);
    let token = rehearsal::token(endpoint.local_addr().unwrap(), ca.pin());
    let refusal = EnrollRefusal {
        reason: RefusalReason::Spent,
        message: "spent".into(),
    };
    let (joined, _) = tokio::join!(
        join(request(folder.path(), &token)),
        answer(&endpoint, |_| Some(EnrollReply::Refused(refusal.clone()))),
    );
    assert!(matches!(joined, Err(JoinError::Refused(told)) if told == refusal));
    assert!(Identity::load(folder.path()).unwrap().is_none());
    assert!(!pending(folder.path()));
}

#[tokio::test]
async fn a_grant_that_cannot_be_right_is_not_stored() {
    let (ca, other) = (Ca::new(), Ca::new());
    let endpoint = listen(&ca);
    let strangers = EnrollRequest {
        csr_der: other_csr(),
        ..blank_request()
    };
    let wrong: [&dyn Fn(&EnrollRequest) -> Grant; 4] = [
        &|request| other.grant(node(), request),
        &|request| Grant {
            ca_der: ca.der().to_vec(),
            ..other.grant(node(), request)
        },
        &|request| Grant {
            node: node(),
            ..ca.grant(node(), request)
        },
        &|_| ca.grant(node(), &strangers),
    ];
    for grant in wrong {
        let folder = tempfile::tempdir().unwrap();
        let token = rehearsal::token(endpoint.local_addr().unwrap(), ca.pin());
        let (joined, _) = tokio::join!(
            join(request(folder.path(), &token)),
            answer(&endpoint, |request| Some(EnrollReply::Granted(grant(request)))),
        );
        assert!(matches!(joined, Err(JoinError::BadGrant(_))), "{joined:?}");
        assert!(Identity::load(folder.path()).unwrap().is_none());
    }
}

fn other_csr() -> Vec<u8> {
    super::key::request(&super::key::generate().unwrap()).unwrap()
}

fn blank_request() -> EnrollRequest {
    let token = rehearsal::token(([127, 0, 0, 1], 1).into(), [0; 32]);
    EnrollRequest {
        token: token.id,
        secret: token.secret,
        csr_der: vec![],
        facts: rehearsal::facts(),
        take_over: false,
    }
}

#[tokio::test]
async fn a_damaged_identity_is_named_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    super::prepare_state_dir(folder.path()).unwrap();
    let path = folder.path().join("identity/identity.json");
    fs::write(&path, b"{\"format\":1,").unwrap();
    let token = rehearsal::token(([127, 0, 0, 1], 1).into(), [0; 32]);
    let error = join(request(folder.path(), &token)).await.unwrap_err();
    assert!(error.to_string().contains("identity.json is damaged"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"{\"format\":1,");
}

#[test]
fn the_state_folder_serves_one_agent() {
    let folder = tempfile::tempdir().unwrap();
    let held = super::lock_state_dir(folder.path()).unwrap();
    assert!(matches!(
        super::lock_state_dir(folder.path()),
        Err(super::IdentityError::InUse(_))
    ));
    drop(held);
    super::lock_state_dir(folder.path()).unwrap();
}
