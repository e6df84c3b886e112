//! `/api/proxmox`: the shapes; what the use cases do has tests of its own.
use super::*;

#[tokio::test]
async fn a_join_token_is_shown_once_and_to_admins_only() {
    let t = TestApi::new().await;
    let admin = t.user("ada", Role::Admin).await;
    let operator = t.user("bob", Role::Operator).await;
    let path = "/api/proxmox/join-tokens";
    t.get(&operator, path).await.problem(403);
    t.post(&operator, path, json!({"nonsense": 1})).await.problem(403);
    let made = t
        .post(
            &admin,
            &format!("{path}/"),
            json!({"node_name": "pve1", "ttl_seconds": 60}),
        )
        .await
        .expect(201);
    for field in ["id", "token", "command", "expires_at"] {
        assert!(made[field].is_string(), "{field}");
    }
    let list = t.get(&admin, path).await;
    assert!(!list.text.contains(made["token"].as_str().unwrap()));
    let list = list.expect(200);
    assert_eq!(
        (list["total"].as_u64(), list["tokens"][0]["id"].as_str()),
        (Some(1), made["id"].as_str())
    );
    for (body, place) in [
        (json!({"ttl_seconds": 86_401}), "ttl_seconds"),
        (json!({"ttl_seconds": 0}), "ttl_seconds"),
        (json!({"node_name": "a b"}), "node_name"),
        (json!({"allowed_cidr": "x"}), "allowed_cidr"),
        (json!({"password": "x"}), "password"),
    ] {
        assert_eq!(locs(&t.post(&admin, path, body).await.problem(422)), [place]);
    }
    t.post(&admin, path, json!({"host_id": 99})).await.problem(404);
    assert_eq!(
        locs(&t.get(&admin, &format!("{path}?per_page=0")).await.problem(422)),
        ["per_page"]
    );
    let bearer = format!("Bearer {admin}");
    let one = format!("{path}/{}", made["id"].as_str().unwrap());
    assert_eq!(
        t.send("DELETE", &one, &[("authorization", &bearer)], "").await.status,
        204
    );
    t.send("DELETE", &format!("{path}/x"), &[("authorization", &bearer)], "")
        .await
        .problem(404);
}

#[tokio::test]
async fn hosts_are_bare_arrays_and_take_no_credentials() {
    let t = TestApi::new().await;
    let admin = t.user("ada", Role::Admin).await;
    let user = t.user("bob", Role::User).await;
    let list = t.get(&user, "/api/proxmox/hosts/").await.expect(200);
    assert_eq!(list.as_array().unwrap().len(), 1);
    for field in [
        "id",
        "name",
        "host",
        "port",
        "is_active",
        "is_default",
        "last_seen",
        "total_cpu",
        "total_memory",
        "total_storage",
        "created_at",
        "updated_at",
        "created_by",
    ] {
        assert!(list[0].get(field).is_some(), "{field}");
    }
    assert_eq!(
        locs(&t.get(&user, "/api/proxmox/hosts?page=1").await.problem(422)),
        ["page"]
    );
    t.post(&user, "/api/proxmox/hosts", json!({"password": "x"}))
        .await
        .problem(403);
    for field in ["password", "user", "ssh_port", "verify_ssl"] {
        let body = t
            .post(&admin, "/api/proxmox/hosts", json!({"name": "new", field: "x"}))
            .await
            .problem(422);
        assert_eq!(locs(&body), [field]);
        assert!(body["detail"].as_str().unwrap().contains("join token"), "{body}");
    }
    for (body, place) in [
        (json!({}), "name"),
        (json!({"name": "new", "port": "x"}), "port"),
        (json!({"name": "new", "size": 1}), "size"),
    ] {
        assert_eq!(
            locs(&t.post(&admin, "/api/proxmox/hosts", body).await.problem(422)),
            [place]
        );
    }
    let made = t
        .post(
            &admin,
            "/api/proxmox/hosts",
            json!({"name": "new", "host": "192.0.2.7"}),
        )
        .await
        .expect(201);
    t.post(&admin, "/api/proxmox/hosts", json!({"name": "new"}))
        .await
        .problem(409);
    let path = format!("/api/proxmox/hosts/{}", made["id"]);
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let network = json!({"address_mode": "static", "bridge": "vmbr0", "subnet": "10.9.0.0/24", "pool_first": "10.9.0.10", "pool_last": "10.9.0.20", "gateway": "10.9.0.1", "dns": []});
    let set = t
        .send("PUT", &format!("{path}/network"), &headers, network.to_string())
        .await
        .expect(200);
    assert_eq!(set["pool_last"], "10.9.0.20");
    assert_eq!(t.get(&user, &format!("{path}/network")).await.expect(200), set);
    assert_eq!(
        t.send("PUT", &path, &headers, json!({"is_active": false}).to_string())
            .await
            .expect(200)["is_active"],
        false
    );
    assert_eq!(t.send("DELETE", &path, &headers, "").await.status, 204);
    for gone in [
        path.as_str(),
        "/api/proxmox/hosts/x",
        "/api/proxmox/hosts/99999999999999999999",
    ] {
        t.get(&admin, gone).await.problem(404);
    }
    t.post(&user, "/api/proxmox/hosts/1/test", json!({})).await.problem(403);
    assert_eq!(
        t.post(&admin, "/api/proxmox/hosts/1/test", json!({})).await.expect(200)["nodes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        t.post(&admin, "/api/proxmox/hosts/1/sync-nodes", json!({}))
            .await
            .expect(200)["message"],
        "Synced 2 nodes"
    );
}

#[tokio::test]
async fn nodes_are_bare_arrays_and_are_drained_and_revoked() {
    let t = TestApi::new().await;
    let admin = t.user("ada", Role::Admin).await;
    let operator = t.user("bob", Role::Operator).await;
    let user = t.user("eve", Role::User).await;
    let list = t.get(&user, "/api/proxmox/nodes?host_id=1").await.expect(200);
    assert_eq!(list.as_array().unwrap().len(), 2);
    for field in [
        "id",
        "host_id",
        "host_name",
        "name",
        "node_type",
        "status",
        "cpu_count",
        "cpu_usage",
        "memory_total",
        "memory_used",
        "storage_total",
        "storage_used",
        "uptime",
        "ip_address",
        "pve_version",
        "lxc_count",
        "agent_version",
        "last_updated",
        "certificate_expires_at",
    ] {
        assert!(list[0].get(field).is_some(), "{field}");
    }
    assert_eq!(
        t.get(&user, "/api/proxmox/nodes?host_id=7").await.expect(200),
        json!([])
    );
    assert_eq!(
        locs(&t.get(&user, "/api/proxmox/nodes?host_id=x").await.problem(422)),
        ["host_id"]
    );
    assert_eq!(
        locs(&t.get(&user, "/api/proxmox/nodes?page=1").await.problem(422)),
        ["page"]
    );
    let path = format!("/api/proxmox/nodes/{}", list[0]["id"].as_str().unwrap());
    assert_eq!(t.get(&user, &path).await.expect(200), list[0]);
    t.get(&user, "/api/proxmox/nodes/x").await.problem(404);
    t.post(&user, &format!("{path}/drain"), json!({})).await.problem(403);
    assert_eq!(
        t.post(&operator, &format!("{path}/drain"), json!({})).await.expect(200)["status"],
        "draining"
    );
    assert_eq!(
        t.post(&operator, &format!("{path}/undrain"), json!({}))
            .await
            .expect(200)["status"],
        "online"
    );
    t.post(&operator, &format!("{path}/revoke"), json!({}))
        .await
        .problem(403);
    assert_eq!(
        t.post(&admin, &format!("{path}/revoke"), json!({})).await.expect(200)["status"],
        "revoked"
    );
}
