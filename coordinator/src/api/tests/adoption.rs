//! Discover, adopt, change, cancel over HTTP; what the use cases do has tests of its own.
use super::*;
use crate::operations::tests::node::Container;
use std::net::Ipv4Addr;

fn by_hand(t: &TestApi, vmid: u32) {
    let container = Container::new(None, true, Some(Ipv4Addr::new(10, 1, 9, 5)));
    t.world
        .nodes
        .model(t.world.node(), |m| m.containers.insert(vmid, container));
}

#[tokio::test]
async fn what_is_found_is_a_bare_array_and_what_could_not_be_asked_a_header() {
    let t = TestApi::new().await;
    let (user, operator) = (t.user("ada", Role::User).await, t.user("olga", Role::Operator).await);
    t.get(&user, "/api/apps/discover").await.problem(403);
    t.get(&operator, "/api/apps/discover?page=1").await.problem(422);
    t.get(&operator, "/api/apps/discover?host_id=99").await.problem(404);
    let nothing = t.get(&operator, "/api/apps/discover/").await;
    assert!(!nothing.headers.contains_key("x-incomplete"));
    assert_eq!(nothing.expect(200), json!([]));
    by_hand(&t, 105);
    let found = t.get(&operator, "/api/apps/discover?host_id=1").await.expect(200);
    let mut fields: Vec<&str> = found[0].as_object().unwrap().keys().map(String::as_str).collect();
    fields.retain(|field| {
        [
            "vmid",
            "name",
            "status",
            "node",
            "memory",
            "disk",
            "uptime",
            "cpus",
            "ip_address",
            "listening_ports",
            "suggested_type",
        ]
        .contains(field)
    });
    assert_eq!(fields.len(), 11, "{found:#}");
    t.world.nodes.set_online(t.world.node(), false);
    let reply = t.get(&operator, "/api/apps/discover").await;
    assert!(reply.headers.contains_key("retry-after"));
    assert!(reply.problem(503)["detail"].as_str().unwrap().contains("pve1"));
}

#[tokio::test]
async fn an_adoption_answers_as_the_seed_shows() {
    let t = TestApi::new().await;
    let (user, operator) = (t.user("ada", Role::User).await, t.user("olga", Role::Operator).await);
    by_hand(&t, 105);
    t.world.nodes.model(t.world.node(), |m| m.adopts.insert(105));
    let body = json!({"vmid": 105, "node_name": "pve1", "suggested_type": "nginx", "port_to_expose": 80});
    t.post(&user, "/api/apps/adopt", body.clone()).await.problem(403);
    let wrong = json!({"vmid": 105, "node_name": "pve1", "colour": "red"});
    assert_eq!(
        locs(&t.post(&operator, "/api/apps/adopt", wrong).await.problem(422)),
        ["colour"]
    );
    let answer = t.post(&operator, "/api/apps/adopt", body.clone()).await.expect(202);
    for (field, value) in [
        ("success", json!(true)),
        ("message", json!("Adoption of container 105 started...")),
        ("vmid", json!(105)),
        ("node", json!("pve1")),
        ("type", json!("nginx")),
        ("port_detection", json!("manual:80")),
    ] {
        assert_eq!(answer[field], value, "{field}");
    }
    let id = answer["id"].as_str().unwrap();
    let app = t.get(&operator, &format!("/api/apps/{id}")).await.expect(200);
    assert_eq!(app["status"], "adopting");
    assert_eq!(app["operation_id"], answer["operation_id"]);
    t.post(&operator, "/api/apps/adopt", body).await.problem(409);
    t.world.settle(&t.world.engine(1)).await;
    // A deletion that would destroy it is another matter than one that forgets it.
    let path = format!("/api/apps/{id}");
    t.send_as(&operator, "DELETE", &format!("{path}?destroy_container=true"), None)
        .await
        .problem(409);
    let plan = t
        .send_as(&operator, "DELETE", &format!("{path}?dry_run=true"), None)
        .await
        .expect(200);
    assert!(plan["plan"]["loses"].is_array());
    let deleted = t.send_as(&operator, "DELETE", &path, None).await.expect(202);
    assert!(
        deleted["message"].as_str().unwrap().starts_with("Forgetting "),
        "{deleted:#}"
    );
    let action = format!("{path}/action?destroy_container=true");
    assert_eq!(
        locs(&t.post(&operator, &action, json!({"action": "stop"})).await.problem(422)),
        ["destroy_container"]
    );
}

#[tokio::test]
async fn a_change_is_200_or_202_and_a_cancellation_202_or_409() {
    let t = TestApi::new().await;
    let token = t.user("ada", Role::User).await;
    let created = json!({"catalog_id": "nginx", "hostname": "my-web"});
    let app = t.post(&token, "/api/apps", created).await.expect(201);
    let cancel = format!("/api/operations/{}/cancel", app["operation_id"].as_str().unwrap());
    let path = format!("/api/apps/{}", app["id"].as_str().unwrap());
    t.world.settle(&t.world.engine(1)).await;
    assert!(
        t.post(&token, &cancel, json!({})).await.problem(409)["detail"]
            .as_str()
            .unwrap()
            .contains("done already")
    );
    let words = t
        .send_as(
            &token,
            "PATCH",
            &path,
            Some(json!({"description": "mine", "labels": ["a"]})),
        )
        .await
        .expect(200);
    assert_eq!(
        (&words["description"], &words["status"]),
        (&json!("mine"), &json!("running"))
    );
    let wrong = json!({"hostname": "other"});
    assert_eq!(
        locs(&t.send_as(&token, "PATCH", &path, Some(wrong)).await.problem(422)),
        ["hostname"]
    );
    let asked = json!({"config": {"memory_mb": 4096}});
    let changing = t.send_as(&token, "PATCH", &path, Some(asked)).await.expect(202);
    assert_eq!(changing["status"], "updating");
    assert_ne!(changing["operation_id"], app["operation_id"]);
    let cancel = format!("/api/operations/{}/cancel", changing["operation_id"].as_str().unwrap());
    let other = t.user("bob", Role::User).await;
    t.post(&other, &cancel, json!({})).await.problem(404);
    let cancelled = t.post(&token, &cancel, json!({})).await.expect(202);
    assert_eq!(
        (&cancelled["kind"], &cancelled["cancel_requested"]),
        (&json!("configure"), &json!(true))
    );
    t.world.settle(&t.world.engine(1)).await;
    let after = t.get(&token, &path).await.expect(200);
    assert_eq!(
        (&after["status"], &after["config"]),
        (&json!("running"), &app["config"])
    );
}
