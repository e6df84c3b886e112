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
