//! The catalog over HTTP.
use super::*;

#[tokio::test]
async fn the_catalog_is_listed_searched_and_shown() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::Viewer).await;
    let list = t.get(&token, "/api/catalog/").await.expect(200);
    assert_eq!(
        (list["total"].as_u64(), list["applications"][0]["id"].as_str()),
        (Some(1), Some("nginx"))
    );
    let one = t.get(&token, "/api/catalog/nginx").await.expect(200);
    assert_eq!(one, list["applications"][0]);
    assert_eq!(one["ports"], json!({"http": 80}));
    assert_eq!(one["homepage"], Value::Null);
    assert_eq!(one["env_vars"]["PAGE_TITLE"]["default"], "Hello");
    assert_eq!(
        t.get(&token, "/api/catalog/search?q=ngnix").await.expect(200)["total"],
        1
    );
    assert_eq!(t.get(&token, "/api/catalog/search?q=").await.expect(200)["total"], 0);
    assert_eq!(t.get(&token, "/api/catalog/category/WEB").await.expect(200)["total"], 1);
    assert_eq!(
        t.get(&token, "/api/catalog/category/none").await.expect(200)["total"],
        0
    );
    assert_eq!(
        t.get(&token, "/api/catalog/categories").await.expect(200)["categories"],
        json!(["Web"])
    );
    let stats = t.get(&token, "/api/catalog/stats").await.expect(200);
    assert_eq!(
        (stats["total_apps"].as_u64(), stats["total_categories"].as_u64()),
        (Some(1), Some(1))
    );
}

#[tokio::test]
async fn a_public_catalog_is_for_all() {
    let t = TestApi::new().await;
    let admin = t.user("ada", Role::Admin).await;
    t.send("GET", "/api/catalog", &[], "").await.problem(401);
    t.post(&admin, "/api/core/settings/features", json!({"public_catalog": true}))
        .await
        .expect(200);
    t.send("GET", "/api/catalog", &[], "").await.expect(200);
    t.send("POST", "/api/catalog/reload", &[], "").await.problem(401);
}

#[tokio::test]
async fn a_reload_swaps_the_whole_catalog_or_keeps_the_old() {
    let t = TestApi::new().await;
    let admin = t.user("ada", Role::Admin).await;
    write(&t.folder, "second.json", &NGINX.replace("\"nginx\"", "\"second\""));
    assert_eq!(
        t.post(&admin, "/api/catalog/reload", json!({})).await.expect(200)["total"],
        2
    );
    write(&t.folder, "third.json", "{");
    write(&t.folder, "nginx.json", &NGINX.replace("\"http\": 80", "\"http\": 0"));
    let body = t.post(&admin, "/api/catalog/reload", json!({})).await.problem(422);
    let places: Vec<_> = body["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["loc"][1].as_str().unwrap(), e["loc"][2].as_str().unwrap()))
        .collect();
    assert_eq!(places, [("nginx.json", "ports.http"), ("third.json", "")]);
    assert_eq!(t.get(&admin, "/api/catalog/stats").await.expect(200)["total_apps"], 2);
    std::fs::remove_dir_all(&t.folder).unwrap();
    t.post(&admin, "/api/catalog/reload", json!({})).await.problem(422);
}
