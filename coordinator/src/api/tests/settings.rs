//! Settings over HTTP.
use super::*;

#[tokio::test]
async fn settings_have_their_defaults_and_change_all_or_nothing() {
    let t = TestApi::new().await;
    let admin = t.user("ada", Role::Admin).await;
    let user = t.user("bob", Role::Operator).await;
    let resources =
        json!({"default_cpu_cores": 2, "default_memory_mb": 2048, "default_disk_gb": 20, "default_swap_mb": 512});
    assert_eq!(
        t.get(&user, "/api/core/settings/resources").await.expect(200),
        resources
    );
    let network = t.get(&user, "/api/core/settings/network").await.expect(200);
    assert_eq!(
        network,
        json!({"default_subnet": "10.0.0.0/24", "default_gateway": "10.0.0.1", "default_dns_primary": "8.8.8.8", "default_dns_secondary": "8.8.4.4", "default_bridge": "vmbr0"})
    );
    let path = "/api/core/settings/resources";
    t.post(&user, path, json!({})).await.problem(403);
    assert_eq!(t.post(&admin, path, json!({})).await.expect(200), resources);
    let body = t
        .post(
            &admin,
            path,
            json!({"default_cpu_cores": 4, "default_memory_mb": 1, "cpu": 1}),
        )
        .await
        .problem(422);
    assert_eq!(locs(&body), ["cpu"]);
    assert_eq!(t.get(&user, path).await.expect(200), resources);
    assert_eq!(
        t.post(&admin, path, json!({"default_cpu_cores": 4})).await.expect(200)["default_cpu_cores"],
        4
    );
    assert_eq!(t.get(&user, path).await.expect(200)["default_cpu_cores"], 4);
    let wrong = t
        .post(
            &admin,
            "/api/core/settings/network",
            json!({"default_gateway": "192.168.0.1"}),
        )
        .await
        .problem(422);
    assert_eq!(locs(&wrong), ["default_gateway"]);
    t.post(&admin, path, json!([1])).await.problem(422);
}
