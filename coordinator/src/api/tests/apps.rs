//! Apps and operations over HTTP; what the use cases do has tests of its own.
use super::*;

#[tokio::test]
async fn an_app_is_made_shown_listed_and_removed() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    let other = t.user("bob", Role::User).await;
    let body = json!({"catalog_id": "nginx", "hostname": "my-web", "environment": {"PAGE_TITLE": "Hi"}});
    let plan = t.post(&token, "/api/apps?dry_run=true", body.clone()).await.expect(200);
    assert!(plan["plan"]["steps"].is_array() && plan["plan"]["node"].is_string());
    assert_eq!(t.get(&token, "/api/apps").await.expect(200)["total"], 0);
    let app = t.post(&token, "/api/apps/", body.clone()).await.expect(201);
    assert_eq!(
        (app["status"].as_str(), app["lxc_id"].as_null()),
        (Some("deploying"), Some(()))
    );
    let id = app["id"].as_str().unwrap();
    assert!(id.starts_with("nginx-"));
    t.post(&token, "/api/apps", body).await.problem(409);
    let shown = t.get(&token, &format!("/api/apps/{id}")).await.expect(200);
    assert_eq!(shown["operation_id"], app["operation_id"]);
    // What belongs to someone else does not exist.
    t.get(&other, &format!("/api/apps/{id}")).await.problem(404);
    t.get(&other, &format!("/api/apps/{id}/logs")).await.problem(404);
    let operation = format!("/api/operations/{}", app["operation_id"].as_str().unwrap());
    t.get(&other, &operation).await.problem(404);
    t.get(&other, &format!("{operation}/events")).await.problem(404);
    let operation = t.get(&token, &operation).await.expect(200);
    assert_eq!(
        (operation["kind"].as_str(), operation["state"].as_str()),
        (Some("deploy"), Some("queued"))
    );
    let page = t
        .get(&token, "/api/apps?page=1&per_page=5&search=my-w&catalog_id=nginx")
        .await
        .expect(200);
    assert_eq!(
        (page["total"].as_u64(), page["page"].as_u64(), page["per_page"].as_u64()),
        (Some(1), Some(1), Some(5))
    );
    assert_eq!(t.get(&other, "/api/apps").await.expect(200)["total"], 0);
    assert!(
        t.get(&token, &format!("/api/apps/{id}/logs/?per_page=10"))
            .await
            .expect(200)["logs"]
            .is_array()
    );
    t.world.settle(&t.world.engine(1)).await;
    assert_eq!(
        t.get(&token, &format!("/api/apps/{id}")).await.expect(200)["status"],
        "running"
    );
    let action = format!("/api/apps/{id}/action");
    t.post(&token, &action, json!({"action": "start"})).await.problem(409);
    assert_eq!(
        locs(&t.post(&token, &action, json!({"action": "fly"})).await.problem(422)),
        ["action"]
    );
    let stopping = t.post(&token, &action, json!({"action": "stop"})).await.expect(200);
    assert_eq!(
        (stopping["success"].as_bool(), stopping["message"].as_str()),
        (Some(true), Some("Stopping my-web"))
    );
    t.world.settle(&t.world.engine(2)).await;
    let bearer = format!("Bearer {token}");
    let path = format!("/api/apps/{id}");
    let plan = t
        .send(
            "DELETE",
            &format!("{path}?dry_run=true"),
            &[("authorization", &bearer)],
            "",
        )
        .await
        .expect(200);
    assert!(plan["plan"]["loses"].is_array());
    let removing = t
        .send("DELETE", &path, &[("authorization", &bearer)], "")
        .await
        .expect(202);
    assert!(removing["operation_id"].is_string());
    t.world.settle(&t.world.engine(3)).await;
    t.get(&token, &path).await.problem(404);
}

#[tokio::test]
async fn a_creation_that_cannot_be_is_refused_in_order() {
    let t = TestApi::new().await;
    let viewer = t.user("eve", Role::Viewer).await;
    let token = t.user("ada", Role::User).await;
    let create = async |body: Value| t.post(&token, "/api/apps", body).await;
    t.post(
        &viewer,
        "/api/apps",
        json!({"catalog_id": "nginx", "hostname": "my-web"}),
    )
    .await
    .problem(403);
    create(json!({"catalog_id": "unknown", "hostname": "my-web"}))
        .await
        .problem(404);
    for (body, place) in [
        (json!({"catalog_id": "nginx", "hostname": "My_Web"}), "hostname"),
        (json!({"catalog_id": "nginx"}), "hostname"),
        (json!({"catalog_id": "nginx", "hostname": "my-web", "size": 1}), "size"),
        (
            json!({"catalog_id": "nginx", "hostname": "my-web", "environment": {"PAGE_TITLE": "<b>"}}),
            "PAGE_TITLE",
        ),
        (
            json!({"catalog_id": "nginx", "hostname": "my-web", "environment": {"a b": "x"}}),
            "a b",
        ),
    ] {
        let reply = create(body.clone()).await.problem(422);
        assert_eq!(locs(&reply), [place], "{body}: {reply}");
    }
    create(json!({"catalog_id": "nginx", "hostname": "my-web", "node": "unknown"}))
        .await
        .problem(404);
    for node in &t.world.ids {
        t.world.nodes.set_online(*node, false);
    }
    create(json!({"catalog_id": "nginx", "hostname": "my-web", "node": "pve1"}))
        .await
        .problem(409);
    let nowhere = create(json!({"catalog_id": "nginx", "hostname": "my-web"})).await;
    assert!(nowhere.headers.contains_key("retry-after"));
    nowhere.problem(503);
}
