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

#[tokio::test]
async fn a_deployment_log_is_followed_until_its_app_is_removed() {
    let t = TestApi::new().await;
    let ada = t.user("ada", Role::User).await;
    let bob = t.user("bob", Role::User).await;
    let app = t
        .post(&ada, "/api/apps", json!({"catalog_id": "nginx", "hostname": "my-web"}))
        .await
        .expect(201);
    let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
    let (log, follow) = (format!("{path}/logs"), format!("{path}/logs?follow=true"));
    t.get(&bob, &follow).await.problem(404);
    let wrong = t.get(&ada, &format!("{follow}&page=1")).await.problem(422);
    assert_eq!(locs(&wrong), ["page"]);
    let bearer = format!("Bearer {ada}");
    let headers = [("authorization", bearer.as_str())];
    // Open while it is deployed and while it is deleted, which is its end.
    let all = async {
        t.world.settle(&t.world.engine(1)).await;
        let page = t.get(&ada, &format!("{log}?per_page=200")).await.expect(200);
        t.send("DELETE", &path, &headers, "").await.expect(202);
        t.world.settle(&t.world.engine(2)).await;
        page
    };
    let open = t.open("GET", &follow, &headers, "").await;
    assert_eq!(open.headers()["content-type"], "text/event-stream");
    let body = axum::body::to_bytes(open.into_body(), usize::MAX);
    let followed = tokio::time::timeout(Duration::from_secs(30), body);
    let (followed, page) = tokio::join!(followed, all);
    let text = String::from_utf8(followed.expect("it ends by itself").unwrap().to_vec()).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let mut deployed = page["logs"].as_array().unwrap().clone();
    deployed.reverse();
    assert!(deployed.len() > 5 && lines.len() >= deployed.len(), "{text}");
    assert_eq!(
        lines[..deployed.len()],
        deployed[..],
        "from the first line, in their order, as in the page"
    );
    let places = ids(&text);
    assert!(places.is_sorted_by(|a, b| a < b), "none twice: {places:?}");
    assert!(text.contains("event: log\n"), "{text}");
    t.get(&ada, &follow).await.problem(404);
}

#[tokio::test]
async fn a_deployment_log_is_followed_from_where_a_client_was() {
    let t = TestApi::new().await;
    let ada = t.user("ada", Role::User).await;
    let app = t
        .post(&ada, "/api/apps", json!({"catalog_id": "nginx", "hostname": "my-web"}))
        .await
        .expect(201);
    t.world.settle(&t.world.engine(1)).await;
    t.api.shutdown.cancel();
    let path = format!("/api/apps/{}/logs?follow=true", app["id"].as_str().unwrap());
    let bearer = format!("Bearer {ada}");
    let all = ids(&t.get(&ada, &path).await.text);
    let newest = ids(&t.get(&ada, &format!("{path}&per_page=2")).await.text);
    assert_eq!(newest, all[all.len() - 2..]);
    let place = all[1].to_string();
    let headers = [("authorization", bearer.as_str()), ("last-event-id", place.as_str())];
    assert_eq!(ids(&t.send("GET", &path, &headers, "").await.text), all[2..]);
}

#[tokio::test]
async fn an_old_event_that_is_kept_for_an_operation_that_goes_on_hides_no_gap() {
    let t = TestApi::new().await;
    let ada = t.user("ada", Role::User).await;
    let body = json!({"catalog_id": "nginx", "hostname": "my-web"});
    let app = t.post(&ada, "/api/apps", body).await.expect(201);
    t.api.shutdown.cancel();
    let mut tx = t.world.store.begin().await.unwrap();
    let mut all = Vec::new();
    for n in 0..20 {
        let event = crate::events::NewEvent {
            kind: "app",
            app_id: None,
            operation_id: (n == 0).then(|| app["operation_id"].as_str().unwrap().to_owned()),
            owner_id: None,
            data: json!({}),
        };
        all.push(crate::store::insert_event(&mut tx, 0, event).await.unwrap().id);
    }
    assert!(crate::store::events::prune(&mut tx, 5, 1000).await.unwrap() >= 14);
    tx.commit().await.unwrap();
    let bearer = format!("Bearer {ada}");
    let gap_after = async |place: i64| {
        let place = place.to_string();
        let headers = [("authorization", bearer.as_str()), ("last-event-id", place.as_str())];
        t.send("GET", "/api/events", &headers, "")
            .await
            .text
            .contains("event: gap")
    };
    assert!(gap_after(all[0]).await, "the next ones are forgotten");
    assert!(gap_after(all[5]).await, "as are those after this one");
    assert!(!gap_after(all[14]).await && !gap_after(all[19]).await);
}
