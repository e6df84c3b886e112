//! What holds for every path.
use super::*;

#[tokio::test]
async fn every_path_answers_with_and_without_a_slash() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::Admin).await;
    for path in [
        "/livez",
        "/readyz",
        "/api/core/health",
        "/api/core/system/info",
        "/api/core/settings/resources",
        "/api/core/settings/network",
        "/api/core/settings/features",
        "/api/catalog",
        "/api/catalog/categories",
        "/api/catalog/search?q=web",
        "/api/catalog/category/web",
        "/api/catalog/stats",
        "/api/catalog/nginx",
        "/api/apps",
        "/api/operations",
        "/api/auth/user",
    ] {
        let (plain, query) = path
            .split_once('?')
            .map_or((path, String::new()), |(p, q)| (p, format!("?{q}")));
        let one = t.get(&token, &format!("{plain}{query}")).await.expect(200);
        let other = t.get(&token, &format!("{plain}/{query}")).await.expect(200);
        assert_eq!(one, other, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_document() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::Admin).await;
    for path in [
        "/",
        "/api",
        "/api/nothing",
        "/api/catalog/unknown",
        "/api/apps/nginx-00000000",
        "/api/operations/x",
        "/api/auth",
        "/apps",
        "/api//apps",
        "/%ff",
    ] {
        t.get(&token, path).await.problem(404);
    }
    for (method, path, allowed) in [
        ("DELETE", "/api/auth/login", "POST"),
        ("PUT", "/api/apps", "GET"),
        ("POST", "/api/core/health", "GET"),
        ("PATCH", "/api/core/settings/network", "POST"),
        ("BREW", "/api/catalog", "GET"),
    ] {
        let reply = t.send(method, path, &[], "").await;
        assert!(
            reply.headers["allow"].to_str().unwrap().contains(allowed),
            "{method} {path}"
        );
        reply.problem(405);
    }
}

#[tokio::test]
async fn whoever_is_not_logged_in_is_told_so_before_anything_else() {
    let t = TestApi::new().await;
    for path in [
        "/api/apps",
        "/api/apps/x",
        "/api/operations",
        "/api/catalog",
        "/api/core/system/info",
        "/api/core/settings/network",
        "/api/events",
        "/api/auth/user",
    ] {
        t.send("GET", path, &[], "").await.problem(401);
    }
    for header in ["Basic YTpi", "Bearer", "Bearer x.y.z", "Bearer pxt_abc", "token"] {
        t.send("GET", "/api/apps", &[("authorization", header)], "")
            .await
            .problem(401);
    }
    t.send("POST", "/api/apps", &[], "not json").await.problem(401);
    let user = t.user("bob", Role::User).await;
    // 403 before the body is judged.
    let bearer = format!("Bearer {user}");
    t.send(
        "POST",
        "/api/core/settings/network",
        &[("authorization", &bearer)],
        "not json",
    )
    .await
    .problem(403);
    t.post(&user, "/api/catalog/reload", json!({})).await.problem(403);
    t.send("GET", "/api/core/health", &[], "").await.expect(200);
}

#[tokio::test]
async fn a_body_is_judged_in_the_order_of_its_layers() {
    let t = TestApi::new().await;
    let json = ("content-type", "application/json");
    let login = "/api/auth/login";
    t.send("POST", login, &[json], "").await.problem(400);
    t.send("POST", login, &[json], "{").await.problem(400);
    t.send("POST", login, &[json], "{\"username\": \"a\", \"password\": \"b\"} x")
        .await
        .problem(400);
    t.send("POST", login, &[json], &b"{\"username\": \"\xff\"}"[..])
        .await
        .problem(400);
    t.send("POST", login, &[("content-type", "text/plain")], "{}")
        .await
        .problem(415);
    t.send("POST", login, &[], "{}").await.problem(415);
    t.send(
        "POST",
        login,
        &[("content-type", "multipart/form-data; boundary=x")],
        "x",
    )
    .await
    .problem(415);
    t.send("POST", login, &[json, ("content-length", "1048577")], "{}")
        .await
        .problem(413);
    t.send("POST", login, &[json], vec![b' '; 1024 * 1024 + 1])
        .await
        .problem(413);
    for (body, place) in [
        (json!({"username": "a"}), vec!["password"]),
        (json!({"username": "a", "password": 7}), vec!["password"]),
        (
            json!({"username": "a", "password": "b", "remember": true}),
            vec!["remember"],
        ),
        (json!(["a", "b"]), vec!["body"]),
        (json!("a"), vec!["body"]),
    ] {
        let reply = t.send("POST", login, &[json], body.to_string()).await.problem(422);
        assert_eq!(locs(&reply), place, "{reply}");
        assert_eq!(reply["errors"][0]["loc"][0], "body");
        assert!(!reply["errors"][0]["msg"].as_str().unwrap().contains("line"), "{reply}");
    }
    let utf8 = ("content-type", "application/json; charset=utf-8");
    t.send(
        "POST",
        login,
        &[utf8],
        json!({"username": "a", "password": "b"}).to_string(),
    )
    .await
    .problem(401);
    // Deeper than the parser goes: refused, not a crash.
    t.send("POST", login, &[json], "[".repeat(100_000)).await.problem(400);
}

#[tokio::test]
async fn unknown_and_wrong_query_parameters_are_422() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::Admin).await;
    for (path, place) in [
        ("/api/apps?pages=1", "pages"),
        ("/api/apps?page=0", "page"),
        ("/api/apps?per_page=201", "per_page"),
        ("/api/apps?per_page=0", "per_page"),
        ("/api/apps?page=x", "page"),
        ("/api/apps?status=flying", "status"),
        ("/api/apps?dry_run=true", "dry_run"),
        ("/api/apps/nginx-00000000?x=1", "x"),
        ("/api/operations?state=x", "state"),
        ("/api/operations?page=-1", "page"),
        ("/api/catalog?x=1", "x"),
        ("/api/catalog/search", "q"),
        ("/api/catalog/search?q=a&z=1", "z"),
        ("/api/core/system/info?x=1", "x"),
        ("/api/auth/user?x=1", "x"),
    ] {
        let body = t.get(&token, path).await.problem(422);
        assert_eq!(locs(&body), [place], "{path}: {body}");
        assert_eq!(body["errors"][0]["loc"][0], "query", "{path}");
    }
}

#[tokio::test]
async fn a_request_keeps_its_harmless_id() {
    let t = TestApi::new().await;
    let id = |reply: &Reply| reply.headers["x-request-id"].to_str().unwrap().to_owned();
    let own = t
        .send("GET", "/api/nothing", &[("x-request-id", "abc-1.2_3")], "")
        .await;
    assert_eq!(id(&own), "abc-1.2_3");
    own.problem(404);
    for bad in ["", "a b", "<script>", &"x".repeat(65)] {
        let reply = t.send("GET", "/livez", &[("x-request-id", bad)], "").await;
        assert_ne!(id(&reply), bad);
        assert!(!id(&reply).is_empty());
    }
}

#[tokio::test]
async fn a_panic_is_a_500_without_details() {
    let t = TestApi::new().await;
    async fn breaks() -> &'static str {
        panic!("a secret in the panic")
    }
    let router = Router::new()
        .route("/breaks", axum::routing::get(breaks))
        .layer(middleware::from_fn_with_state(t.api.clone(), envelope::envelope))
        .with_state::<()>(t.api.clone());
    let response = router
        .oneshot(Request::get("/breaks").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 500);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    assert!(!String::from_utf8_lossy(&body).contains("secret"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let t = TestApi::new().await;
    tokio::time::pause();
    let router = Router::new()
        .route("/waits", axum::routing::get(std::future::pending::<&'static str>))
        .layer(middleware::from_fn_with_state(t.api.clone(), envelope::envelope))
        .with_state::<()>(t.api.clone());
    let response = router
        .oneshot(Request::get("/waits").body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 408);
}

#[tokio::test]
async fn health_tells_how_many_agents_there_are() {
    let t = TestApi::new().await;
    let health = t.send("GET", "/api/core/health", &[], "").await.expect(200);
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["agents"], json!({"connected": 2, "total": 2}));
    for field in ["database", "cache", "service", "version"] {
        assert!(health[field].is_string(), "{field}");
    }
    t.world.store.close().await;
    let health = t.send("GET", "/api/core/health", &[], "").await;
    assert_eq!(
        (health.status, health.json()["status"].as_str()),
        (503, Some("degraded"))
    );
}

#[tokio::test]
async fn every_change_is_in_the_audit_refused_ones_too() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    t.post(
        &token,
        "/api/apps",
        json!({"catalog_id": "nginx", "hostname": "my-web"}),
    )
    .await
    .expect(201);
    for _ in 0..3 {
        t.post(&token, "/api/core/settings/network", json!({}))
            .await
            .problem(403);
    }
    for _ in 0..50 {
        t.post("", "/api/apps", json!({})).await.problem(401);
    }
    let mut read = t.world.store.read().await.unwrap();
    let rows: Vec<(String, String, String, i64)> =
        sqlx::query_as("SELECT actor, action, outcome, count FROM audit ORDER BY id")
            .fetch_all(&mut *read)
            .await
            .unwrap();
    let rows: Vec<_> = rows
        .iter()
        .map(|(a, b, c, d)| (a.as_str(), b.as_str(), c.as_str(), *d))
        .collect();
    assert_eq!(
        rows,
        [
            ("command line", "user.create", "ok", 1),
            ("ada", "auth.login", "ok", 1),
            ("ada", "POST /api/apps", "ok", 1),
            ("ada", "POST /api/core/settings/network", "refused", 3),
            // The clock stands still: of fifty in one second twenty are written, in one row.
            ("anonymous", "POST /api/apps", "refused", 20),
        ]
    );
}
