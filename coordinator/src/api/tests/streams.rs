//! Server-Sent Events.
use super::*;
use std::time::Duration;

fn ids(text: &str) -> Vec<i64> {
    text.lines()
        .filter_map(|l| l.strip_prefix("id:"))
        .map(|id| id.trim().parse().unwrap())
        .collect()
}

#[tokio::test]
async fn an_operation_is_followed_to_its_end_and_resumed() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    let app = t
        .post(
            &token,
            "/api/apps",
            json!({"catalog_id": "nginx", "hostname": "my-web"}),
        )
        .await
        .expect(201);
    let path = format!("/api/operations/{}/events", app["operation_id"].as_str().unwrap());
    let engine = t.world.engine(1);
    let bearer = format!("Bearer {token}");
    // The stream is open while it happens, and ends by itself.
    let headers = [("authorization", bearer.as_str())];
    let (reply, ()) = tokio::join!(t.send("GET", &path, &headers, ""), t.world.settle(&engine));
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let all = ids(&reply.text);
    assert!(all.len() > 3 && all.is_sorted(), "{}", reply.text);
    assert!(
        reply.text.contains("event: operation") && reply.text.contains("\"state\":\"done\""),
        "{}",
        reply.text
    );
    let half = all[all.len() / 2];
    let rest = t
        .send(
            "GET",
            &path,
            &[("authorization", &bearer), ("last-event-id", &half.to_string())],
            "",
        )
        .await;
    assert_eq!(ids(&rest.text), all[all.len() / 2 + 1..]);
    let last = all.last().unwrap().to_string();
    assert_eq!(
        t.send(
            "GET",
            &path,
            &[("authorization", &bearer), ("last-event-id", &last)],
            ""
        )
        .await
        .status,
        204
    );
    t.send("GET", &path, &[("authorization", &bearer), ("last-event-id", "x")], "")
        .await
        .problem(422);
}

#[tokio::test]
async fn everybody_sees_only_what_is_theirs_and_a_stream_ends_with_the_coordinator() {
    let t = TestApi::new().await;
    let ada = t.user("ada", Role::User).await;
    let bob = t.user("bob", Role::User).await;
    let root = t.user("root", Role::Operator).await;
    let app = t
        .post(&ada, "/api/apps", json!({"catalog_id": "nginx", "hostname": "my-web"}))
        .await
        .expect(201);
    t.world.settle(&t.world.engine(1)).await;
    t.api.shutdown.cancel();
    let id = app["id"].as_str().unwrap();
    let events = async |token: &str| {
        let bearer = format!("Bearer {token}");
        t.send(
            "GET",
            "/api/events",
            &[("authorization", &bearer), ("last-event-id", "0")],
            "",
        )
        .await
        .text
    };
    assert!(events(&ada).await.contains(id));
    assert!(events(&root).await.contains(id));
    assert!(!events(&bob).await.contains(id));
    // Without a place: from now on.
    assert!(!t.get(&ada, "/api/events").await.text.contains(id));
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_with_its_session() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    // Half a second before its end: the stream is open for as long.
    t.world.clock.advance(Duration::from_millis(3_599_500));
    let reply = tokio::time::timeout(Duration::from_secs(10), t.get(&token, "/api/events"));
    assert_eq!(reply.await.unwrap().status, 200);
    let token = t.user("bob", Role::User).await;
    let bearer = format!("Bearer {token}");
    let stream = t.open("GET", "/api/events", &[("authorization", &bearer)], "").await;
    assert_eq!(stream.status(), 200);
    t.post(&token, "/api/auth/logout", json!({})).await.expect(200);
    let rest = axum::body::to_bytes(stream.into_body(), usize::MAX);
    tokio::time::timeout(Duration::from_secs(10), rest)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_client_whose_place_is_no_longer_kept_is_told_so() {
    let t = TestApi::new().await;
    let ada = t.user("ada", Role::User).await;
    t.post(&ada, "/api/apps", json!({"catalog_id": "nginx", "hostname": "my-web"}))
        .await
        .expect(201);
    t.world.settle(&t.world.engine(1)).await;
    t.api.shutdown.cancel();
    let bearer = format!("Bearer {ada}");
    let after = async |place: &str| {
        let headers = [("authorization", bearer.as_str()), ("last-event-id", place)];
        t.send("GET", "/api/events", &headers, "").await.text
    };
    assert!(!after("3").await.contains("event: gap"));
    let mut tx = t.world.store.begin().await.unwrap();
    let pruned = crate::store::events::prune(&mut tx, 5, 1000).await.unwrap();
    tx.commit().await.unwrap();
    assert!(pruned > 3);
    let text = after("3").await;
    assert!(text.starts_with("id: 3\nevent: gap\n"), "{text}");
    assert_eq!(ids(&text).len(), 6, "the gap, and what is kept: {text}");
    let oldest = ids(&text)[1];
    assert!(!after(&(oldest - 1).to_string()).await.contains("event: gap"));
}
