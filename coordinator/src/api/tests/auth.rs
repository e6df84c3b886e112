//! Registration, login, refresh, logout, one's own account.
use super::*;
use std::time::Duration;

fn registration(name: &str, code: &str) -> Value {
    json!({"username": name, "email": format!("{name}@example.org"), "password": "correct horse", "setup_code": code})
}

#[tokio::test]
async fn the_first_user_shows_the_setup_code_and_becomes_admin() {
    let t = TestApi::new().await;
    let code = t.setup.ensure().unwrap();
    let body = t
        .post(
            "",
            "/api/auth/registration",
            json!({"username": "ada", "password": "correct horse"}),
        )
        .await
        .problem(422);
    assert_eq!(locs(&body), ["setup_code"]);
    t.post("", "/api/auth/registration", registration("ada", "AAAA-BBBB"))
        .await
        .problem(403);
    let made = t.post("", "/api/auth/registration/", registration("ada", &code)).await;
    assert_eq!(made.cookies().len(), 2);
    let made = made.expect(201);
    assert_eq!(made["user"]["role"], "admin");
    assert_eq!(made["user"]["preferred_theme"], "rack_proximity");
    assert!(!t.setup.path().exists());
    // Closed from now on, before the body is judged.
    t.post("", "/api/auth/registration", json!({"nonsense": 1}))
        .await
        .problem(403);
    let token = made["access_token"].as_str().unwrap();
    t.post(token, "/api/core/settings/features", json!({"registration_open": true}))
        .await
        .expect(200);
    let second = t
        .post(
            "",
            "/api/auth/registration",
            json!({"username": "bob", "password": "correct horse"}),
        )
        .await
        .expect(201);
    assert_eq!(second["user"]["role"], "user");
    assert_eq!(second["user"]["email"], Value::Null);
    t.post(
        "",
        "/api/auth/registration",
        json!({"username": "BOB", "password": "correct horse"}),
    )
    .await
    .problem(409);
    let taken = json!({"username": "eve", "email": "ADA@example.org", "password": "correct horse"});
    t.post("", "/api/auth/registration", taken).await.problem(409);
    let bad = json!({"username": "e v", "email": "x", "password": "short"});
    assert_eq!(
        locs(&t.post("", "/api/auth/registration", bad).await.problem(422)),
        ["username", "email", "password"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_first_users_at_once_one_becomes_admin() {
    let t = Arc::new(TestApi::new().await);
    let code = t.setup.ensure().unwrap();
    let tries: Vec<_> = (0..8)
        .map(|i| {
            let (t, body) = (t.clone(), registration(&format!("user{i}"), &code));
            tokio::spawn(async move { t.post("", "/api/auth/registration", body).await.status })
        })
        .collect();
    let mut made = 0;
    for one in tries {
        match one.await.unwrap() {
            201 => made += 1,
            status => assert_eq!(status, 403),
        }
    }
    assert_eq!(made, 1);
    let mut read = t.world.store.read().await.unwrap();
    assert_eq!(crate::store::users::count(&mut read).await.unwrap(), 1);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_words() {
    let t = TestApi::new().await;
    t.user("ada", Role::User).await;
    let wrong = t
        .post(
            "",
            "/api/auth/login",
            json!({"username": "ada", "password": "wrong password"}),
        )
        .await;
    assert_eq!(wrong.headers["www-authenticate"], "Bearer");
    let wrong = wrong.problem(401);
    let unknown = t
        .post(
            "",
            "/api/auth/login",
            json!({"username": "nobody", "password": "wrong password"}),
        )
        .await
        .problem(401);
    assert_eq!(wrong["detail"], unknown["detail"]);
    let mut tx = t.world.store.begin().await.unwrap();
    crate::store::users::set_active(&mut tx, 1, false).await.unwrap();
    tx.commit().await.unwrap();
    let inactive = t
        .post(
            "",
            "/api/auth/login",
            json!({"username": "ada", "password": "password"}),
        )
        .await
        .problem(401);
    assert_eq!(wrong["detail"], inactive["detail"]);
}

#[tokio::test]
async fn too_many_wrong_passwords_are_429() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    for _ in 0..10 {
        t.post(
            "",
            "/api/auth/login",
            json!({"username": "ada", "password": "wrong password"}),
        )
        .await
        .problem(401);
    }
    let refused = t
        .post(
            "",
            "/api/auth/login",
            json!({"username": "ADA", "password": "password"}),
        )
        .await;
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 300);
    refused.problem(429);
    // Whoever is logged in goes on, and the time passes.
    t.get(&token, "/api/auth/user").await.expect(200);
    t.world.clock.advance(Duration::from_secs(301));
    t.post(
        "",
        "/api/auth/login",
        json!({"username": "ada", "password": "password"}),
    )
    .await
    .expect(200);
}

#[tokio::test]
async fn a_login_shows_the_user_and_sets_cookies() {
    let t = TestApi::new().await;
    t.user("ada", Role::Operator).await;
    let reply = t
        .post(
            "",
            "/api/auth/login/",
            json!({"username": "Ada", "password": "password"}),
        )
        .await;
    let cookies = reply.cookies();
    for name in ["proximity-auth-cookie=", "proximity-refresh-cookie="] {
        let cookie = cookies.iter().find(|c| c.starts_with(name)).unwrap();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax") && !cookie.contains("Secure"),
            "{cookie}"
        );
    }
    let body = reply.expect(200);
    assert_eq!(body["user"]["username"], "ada");
    let access = body["access_token"].as_str().unwrap();
    let user = t.get(access, "/api/auth/user/").await.expect(200);
    assert_eq!(
        (user["role"].as_str(), user["is_active"].as_bool()),
        (Some("operator"), Some(true))
    );
    assert!(user["last_login"].as_str().unwrap().ends_with('Z'));
    t.post("", "/api/auth/token/verify", json!({"token": access}))
        .await
        .expect(200);
    t.post("", "/api/auth/token/verify", json!({"token": "x"}))
        .await
        .problem(401);
    // A refresh token is no access token.
    t.get(body["refresh_token"].as_str().unwrap(), "/api/auth/user")
        .await
        .problem(401);
    t.world.clock.advance(Duration::from_secs(3600));
    t.get(access, "/api/auth/user").await.problem(401);
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_session() {
    let t = TestApi::new().await;
    t.user("ada", Role::User).await;
    let login = t
        .post(
            "",
            "/api/auth/login",
            json!({"username": "ada", "password": "password"}),
        )
        .await
        .expect(200);
    let refresh = async |token: &Value| {
        t.post("", "/api/auth/token/refresh", json!({"refresh_token": token}))
            .await
    };
    let second = refresh(&login["refresh_token"]).await.expect(200);
    assert_ne!(second["refresh_token"], login["refresh_token"]);
    t.world.clock.advance(Duration::from_secs(9));
    // The other tab: the same session, and both go on.
    let other_tab = refresh(&login["refresh_token"]).await.expect(200);
    let third = refresh(&other_tab["refresh_token"]).await.expect(200);
    t.get(third["access_token"].as_str().unwrap(), "/api/auth/user")
        .await
        .expect(200);
    t.world.clock.advance(Duration::from_secs(11));
    refresh(&second["refresh_token"]).await.problem(401);
    t.get(third["access_token"].as_str().unwrap(), "/api/auth/user")
        .await
        .problem(401);
    refresh(&third["refresh_token"]).await.problem(401);
    refresh(&json!("x")).await.problem(401);
    t.post("", "/api/auth/token/refresh", json!({})).await.problem(401);
}

#[tokio::test]
async fn logout_stops_the_access_token_at_once_and_clears_the_cookies() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    let reply = t.post(&token, "/api/auth/logout", json!({})).await;
    assert!(
        reply.cookies().iter().all(|c| c.contains("Max-Age=0")),
        "{:?}",
        reply.cookies()
    );
    reply.expect(200);
    t.get(&token, "/api/auth/user").await.problem(401);
    t.send("POST", "/api/auth/logout", &[], "").await.problem(401);
}

#[tokio::test]
async fn a_cookie_counts_only_from_our_own_pages() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::Admin).await;
    let cookie = format!("other=1; proximity-auth-cookie={token}");
    let cookie = ("cookie", cookie.as_str());
    let json = ("content-type", "application/json");
    t.send("GET", "/api/auth/user", &[cookie], "").await.expect(200);
    let path = "/api/core/settings/resources";
    for from in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example"), ("host", "p.example")],
    ] {
        let headers: Vec<_> = [cookie, json].into_iter().chain(from.iter().copied()).collect();
        t.send("POST", path, &headers, "{}").await.problem(403);
    }
    for from in [
        &[("sec-fetch-site", "same-origin")][..],
        &[("origin", "https://p.example"), ("host", "p.example")],
    ] {
        let headers: Vec<_> = [cookie, json].into_iter().chain(from.iter().copied()).collect();
        t.send("POST", path, &headers, "{}").await.expect(200);
    }
    // The refresh cookie too; a token in a header or body needs no origin.
    let login = t
        .post(
            "",
            "/api/auth/login",
            json!({"username": "ada", "password": "password"}),
        )
        .await
        .expect(200);
    let refresh = format!("proximity-refresh-cookie={}", login["refresh_token"].as_str().unwrap());
    t.send("POST", "/api/auth/token/refresh", &[("cookie", &refresh)], "")
        .await
        .problem(403);
    t.send(
        "POST",
        "/api/auth/token/refresh",
        &[("cookie", &refresh), ("sec-fetch-site", "same-origin")],
        "",
    )
    .await
    .expect(200);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let t = TestApi::new().await;
    let here = t.user("ada", Role::User).await;
    let login = json!({"username": "ada", "password": "password"});
    let there = t.post("", "/api/auth/login", login.clone()).await.expect(200);
    let path = "/api/auth/password/change";
    t.post(
        &here,
        path,
        json!({"old_password": "wrong one", "new_password": "new password"}),
    )
    .await
    .problem(400);
    assert_eq!(
        locs(
            &t.post(
                &here,
                path,
                json!({"old_password": "password", "new_password": "short"})
            )
            .await
            .problem(422)
        ),
        ["new_password"]
    );
    t.post(
        &here,
        path,
        json!({"old_password": "password", "new_password": "new password"}),
    )
    .await
    .expect(200);
    t.get(&here, "/api/auth/user").await.expect(200);
    t.get(there["access_token"].as_str().unwrap(), "/api/auth/user")
        .await
        .problem(401);
    t.post("", "/api/auth/login", login).await.problem(401);
}

#[tokio::test]
async fn a_user_changes_its_profile_and_nothing_else() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    t.user("bob", Role::User).await;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let patch = async |body: Value| t.send("PATCH", "/api/auth/user", &headers, body.to_string()).await;
    let user = patch(json!({"first_name": "Ada", "email": "ada@example.org", "preferred_theme": "dark"}))
        .await
        .expect(200);
    assert_eq!(
        (user["first_name"].as_str(), user["email"].as_str()),
        (Some("Ada"), Some("ada@example.org"))
    );
    for (body, field) in [
        (json!({"role": "admin"}), "role"),
        (json!({"username": "eve"}), "username"),
        (json!({"email": "no"}), "email"),
        (json!({"bio": 7}), "bio"),
        (json!({"nickname": "a"}), "nickname"),
    ] {
        assert_eq!(locs(&patch(body).await.problem(422)), [field]);
    }
    assert_eq!(patch(json!({"email": null})).await.expect(200)["email"], Value::Null);
    // An e-mail is taken as a user name.
    patch(json!({"email": "ada@example.org"})).await.expect(200);
    t.post(
        "",
        "/api/auth/login",
        json!({"username": "ADA@example.org", "password": "password"}),
    )
    .await
    .expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_counted_by_how_they_end() {
    let t = Arc::new(TestApi::new().await);
    t.user("ada", Role::User).await;
    let at_once = async |password: &'static str, many: usize| {
        let tries: Vec<_> = (0..many)
            .map(|_| {
                let t = t.clone();
                tokio::spawn(async move {
                    t.post("", "/api/auth/login", json!({"username": "ada", "password": password}))
                        .await
                        .status
                })
            })
            .collect();
        let mut ends = std::collections::BTreeMap::new();
        for one in tries {
            *ends.entry(one.await.unwrap()).or_insert(0) += 1;
        }
        ends
    };
    assert_eq!(at_once("password", 40).await, [(200, 40)].into());
    let guessed = at_once("a wrong password", 60).await;
    // Ten, and at most as many more as are hashed at the same time.
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!((10..10 + cores).contains(&guessed[&401]), "{guessed:?}");
    assert_eq!(guessed[&401] + guessed[&429], 60);
}
