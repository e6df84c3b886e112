//! Join tokens that do not let a node in: each its own words, each in the audit, nothing written. And a node that is thrown out is out at once.

#![allow(clippy::unwrap_used)]

use proximity_tests::{
    fleet::{Fleet, FleetSpec, LoneNode},
    process::{PATIENCE, until},
};
use serde_json::json;
use std::process::Output;

async fn rows(fleet: &Fleet) -> (i64, i64, i64) {
    let mut registry = fleet.registry().await.unwrap();
    (
        registry.count("SELECT COUNT(*) FROM nodes").await.unwrap(),
        registry.count("SELECT COUNT(*) FROM certificates").await.unwrap(),
        registry.count("SELECT COUNT(*) FROM hosts").await.unwrap(),
    )
}

async fn refusals(fleet: &Fleet) -> i64 {
    let sql = "SELECT COALESCE(SUM(count), 0) FROM audit WHERE outcome = 'refused'";
    fleet.registry().await.unwrap().count(sql).await.unwrap()
}

fn join(node: &LoneNode, token: &str, more: &[&str]) -> Output {
    tokio::task::block_in_place(|| node.node.join_output(token, more)).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_own_words_and_writes_nothing() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let stranger = LoneNode::create().unwrap();
    let before = rows(&fleet).await;
    let mut told = Vec::new();
    let mut check = |what: &str, output: Output, words: &[&str]| {
        let text = said(&output);
        assert!(!output.status.success(), "{what}: it joined");
        for word in words {
            assert!(text.to_lowercase().contains(word), "{what}: {word:?} is not in {text}");
        }
        assert!(!stranger.node.state().join("identity/node.crt").exists());
        told.push((what.to_owned(), output.status.code().unwrap(), text));
    };

    let good = fleet.join_token(&json!({})).await.unwrap();
    let mut altered = good.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    check(
        "altered",
        join(&stranger, &String::from_utf8(altered).unwrap(), &[]),
        &["damaged"],
    );
    check("no token", join(&stranger, "hello", &[]), &["not a join token"]);

    let refused = refusals(&fleet).await;
    let for_another = fleet.join_token(&json!({"node_name": "another"})).await.unwrap();
    check("another name", join(&stranger, &for_another, &[]), &["another"]);
    assert_eq!(refusals(&fleet).await, refused + 1, "not in the audit");

    // `pve1` is the name of the node that is in already.
    let revoked = fleet
        .client
        .post("/api/proxmox/join-tokens", &json!({"ttl_seconds": 60}))
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    fleet
        .client
        .delete(&format!("/api/proxmox/join-tokens/{}", revoked["id"].as_str().unwrap()))
        .await
        .unwrap()
        .expect(204)
        .unwrap();
    check(
        "revoked",
        join(&stranger, revoked["token"].as_str().unwrap(), &[]),
        &["revoked"],
    );

    let short = fleet
        .client
        .post("/api/proxmox/join-tokens", &json!({"ttl_seconds": 1}))
        .await
        .unwrap()
        .expect(201)
        .unwrap();
    let expiry = short["expires_at"].as_str().unwrap().to_owned();
    until("the token's end", PATIENCE, async || {
        let now = time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339)?;
        Ok((now > expiry).then_some(()))
    })
    .await
    .unwrap();
    check(
        "expired",
        join(&stranger, short["token"].as_str().unwrap(), &[]),
        &["expired"],
    );

    assert_eq!(rows(&fleet).await, before);
    let codes: std::collections::BTreeSet<i32> = told.iter().map(|(_, code, _)| *code).collect();
    assert_eq!(
        codes.len(),
        told.len() - 1,
        "damaged and no token share a code, the others have their own: {told:#?}"
    );
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_token_lets_nobody_else_in() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    // A second host whose node has the same name: two standalone machines named alike are two hosts.
    let (first, second) = (LoneNode::create().unwrap(), LoneNode::create().unwrap());
    let token = fleet.join_token(&json!({})).await.unwrap();
    let output = join(&first, &token, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let before = rows(&fleet).await;
    let output = join(&second, &token, &[]);
    assert!(!output.status.success());
    assert!(said(&output).contains("used"), "{}", said(&output));
    assert_eq!(rows(&fleet).await, before);
    assert!(refusals(&fleet).await > 0);
    fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_coordinator_is_not_sent_anywhere() {
    let (fleet, other) = (
        Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap(),
        Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap(),
    );
    let stranger = LoneNode::create().unwrap();
    // The addresses of one, the pin of the other.
    let ours: proximity_protocol::token::JoinToken = fleet.join_token(&json!({})).await.unwrap().parse().unwrap();
    let theirs: proximity_protocol::token::JoinToken = other.join_token(&json!({})).await.unwrap().parse().unwrap();
    let mixed = proximity_protocol::token::JoinToken::new(ours.addresses, theirs.ca_pin, ours.id, ours.secret).unwrap();
    let output = join(&stranger, &mixed.to_line(), &[]);
    assert!(!output.status.success());
    assert!(
        said(&output).contains("pin") || said(&output).contains("fingerprint"),
        "{}",
        said(&output)
    );
    // The secret was not sent: the token still works.
    let spent = fleet
        .registry()
        .await
        .unwrap()
        .count("SELECT COUNT(*) FROM join_tokens WHERE spent_at IS NOT NULL")
        .await
        .unwrap();
    assert_eq!(spent, 1);
    fleet.stop().await.unwrap();
    other.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_cut_off_and_stays_out() {
    let fleet = Fleet::start(&FleetSpec::hollow(1), |_| ()).await.unwrap();
    let node = fleet.node_online("pve1").await.unwrap();
    let id = node["id"].as_str().unwrap();
    fleet
        .client
        .post(&format!("/api/proxmox/nodes/{id}/revoke"), &json!({}))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    until("the agent says that it was revoked", PATIENCE, async || {
        Ok(fleet.nodes[0].agent_log().contains("revoked").then_some(()))
    })
    .await
    .unwrap();
    let node = fleet
        .client
        .get(&format!("/api/proxmox/nodes/{id}"))
        .await
        .unwrap()
        .expect(200)
        .unwrap();
    assert_eq!(node["status"], "revoked");
    let answer = fleet
        .client
        .post("/api/apps", &json!({"catalog_id": "nginx", "hostname": "my-nginx"}))
        .await
        .unwrap();
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.body);
    assert!(
        answer.body["detail"].as_str().unwrap().contains("revoked"),
        "{}",
        answer.body
    );
}
