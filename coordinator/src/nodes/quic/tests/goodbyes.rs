//! What is asked on a connection of enrolment besides a certificate: what time it is, and a node's goodbye.

use super::*;
use crate::clock::Clock as _;
use proximity_protocol::{
    ALPN_ENROLL, VERSION_MIN, close,
    codec::Message,
    enquiry::{Enquiry, EnquiryReply},
    enroll::{EnrollReply, EnrollRequest},
    leave::{LEAVE_LABEL, LeaveRefusalReason, LeaveReply, LeaveRequest},
    renew,
};
use rcgen::SigningKey;

async fn dial(world: &World) -> (Connection, Endpoint) {
    let endpoint = endpoint();
    let config = client(&world.deps.pki.ca_der(), ALPN_ENROLL, None);
    let connecting = endpoint
        .connect_with(config, world.address(), COORDINATOR_TLS_NAME)
        .unwrap();
    (soon("connection", connecting).await.unwrap(), endpoint)
}

async fn ask<Q: Message, A: Message>(connection: &Connection, question: &Q) -> A {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    frames::write(&mut send, VERSION_MIN, question).await.unwrap();
    let answer = soon("an answer", frames::read(&mut recv)).await.unwrap().unwrap();
    connection.close(0_u32.into(), b"");
    answer
}

async fn leave(world: &World, key: &KeyPair, label: &[u8]) -> LeaveReply {
    let (connection, _endpoint) = dial(world).await;
    let mut challenge = [0; renew::RETURN_CHALLENGE_LEN];
    connection.export_keying_material(&mut challenge, label, b"").unwrap();
    let request = LeaveRequest {
        csr_der: request(key),
        proof: key.sign(&challenge).unwrap(),
    };
    ask(&connection, &request).await
}

async fn status(world: &World, node: NodeId) -> &'static str {
    world.nodes().get(&admin(), &node.to_string()).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_ask_what_time_it_is() {
    let world = World::new().await;
    let (connection, _endpoint) = dial(&world).await;
    let before = SystemClock.now_ms();
    let EnquiryReply::Clock { unix_ms } = ask(&connection, &Enquiry::Clock).await;
    assert!((before..=SystemClock.now_ms()).contains(&unix_ms));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_is_out_at_once_and_may_say_so_again() {
    let world = World::new().await;
    let own = world.enrolled("pve1").await;
    let agent = world.connect(&own, 1, 1).await;
    let left = LeaveReply::Left {
        node: own.node,
        apps: 0,
    };
    assert_eq!(leave(&world, &own.key, LEAVE_LABEL).await, left);
    assert_eq!(agent.close_code().await, u64::from(close::REVOKED));
    assert_eq!(status(&world, own.node).await, "revoked");
    assert_eq!(leave(&world, &own.key, LEAVE_LABEL).await, left, "a lost answer");
    let mut read = world.deps.store.read().await.unwrap();
    let (who,): (String,) = sqlx::query_as("SELECT actor FROM audit WHERE action = 'node.leave'")
        .fetch_one(&mut *read)
        .await
        .unwrap();
    assert_eq!(who, own.node.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_of_an_enrolled_key_says_goodbye() {
    let world = World::new().await;
    let own = world.enrolled("pve1").await;
    let reason = |reply| match reply {
        LeaveReply::Refused(refusal) => refusal.reason,
        left => panic!("{left:?}"),
    };
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(
        reason(leave(&world, &stranger, LEAVE_LABEL).await),
        LeaveRefusalReason::UnknownKey
    );
    // The proof of a return is none of a goodbye.
    assert_eq!(
        reason(leave(&world, &own.key, renew::RETURN_LABEL).await),
        LeaveRefusalReason::Malformed
    );
    assert_ne!(status(&world, own.node).await, "revoked");
}

/// Whoever kept an old key must not throw the machine out that has taken its record over.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_replaced_has_no_say() {
    let world = World::new().await;
    let old = world.enrolled("pve1").await;
    let token = world.token().await;
    let (connection, _endpoint) = dial(&world).await;
    let new = KeyPair::generate().unwrap();
    let over = EnrollRequest {
        token: token.id,
        secret: token.secret.clone(),
        csr_der: request(&new),
        facts: facts("pve1", 1),
        take_over: true,
    };
    let EnrollReply::Granted(grant) = ask(&connection, &over).await else {
        panic!("refused");
    };
    assert_eq!(grant.node, old.node);
    let left = LeaveReply::Left {
        node: old.node,
        apps: 0,
    };
    assert_eq!(leave(&world, &old.key, LEAVE_LABEL).await, left);
    assert_ne!(status(&world, old.node).await, "revoked");
    assert_eq!(leave(&world, &new, LEAVE_LABEL).await, left);
    assert_eq!(status(&world, old.node).await, "revoked");
}
