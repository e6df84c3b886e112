//! Runs of reconciliation and janitor, and what operators do about operations that are stuck.
use super::*;

#[tokio::test]
async fn runs_are_for_admins_and_reports_for_operators() {
    let t = TestApi::new().await;
    let admin = t.user("root", Role::Admin).await;
    let operator = t.user("op", Role::Operator).await;
    let user = t.user("ada", Role::User).await;
    for kind in ["reconcile", "janitor"] {
        let (run, reports) = (format!("/api/core/{kind}"), format!("/api/core/{kind}/reports"));
        for token in [&operator, &user] {
            t.post(token, &run, json!({})).await.problem(403);
        }
        let asked = t.post(&admin, &run, json!({})).await.expect(202);
        assert_eq!(asked["success"], true);
        t.get(&user, &reports).await.problem(403);
        let page = t.get(&operator, &format!("{reports}/")).await.expect(200);
        assert_eq!(
            (&page["total"], &page["page"], &page["per_page"]),
            (&json!(1), &json!(1), &json!(50))
        );
        let first = &page["reports"][0];
        assert_eq!((&first["id"], &first["state"]), (&asked["report_id"], &json!("asked")));
        assert_eq!(
            (&first["cause"], &first["requested_by"], &first["kind"]),
            (&json!("request"), &json!("root"), &json!(kind))
        );
        let one = t.get(&admin, &format!("{reports}/{}", first["id"])).await.expect(200);
        assert_eq!(&one, first);
        for wrong in ["0", "x", "99999999999999999999"] {
            t.get(&admin, &format!("{reports}/{wrong}")).await.problem(404);
        }
        t.get(&admin, &format!("{reports}?per_page=201")).await.problem(422);
        t.post(&admin, &format!("{run}?dry_run=true"), json!({}))
            .await
            .problem(422);
    }
    // A report of the one is none of the other.
    let mine = t.get(&admin, "/api/core/janitor/reports").await.expect(200)["reports"][0]["id"].clone();
    t.get(&admin, &format!("/api/core/reconcile/reports/{mine}"))
        .await
        .problem(404);
}

#[tokio::test]
async fn the_settings_of_operations_have_bounds() {
    let t = TestApi::new().await;
    let admin = t.user("root", Role::Admin).await;
    let user = t.user("ada", Role::User).await;
    let path = "/api/core/settings/operations";
    assert_eq!(t.get(&user, path).await.expect(200)["reconcile_interval_s"], 3600);
    t.post(&user, path, json!({"reconcile_interval_s": 60}))
        .await
        .problem(403);
    let wrong = t
        .post(&admin, path, json!({"reconcile_interval_s": 1, "keep": 5}))
        .await
        .problem(422);
    assert_eq!(locs(&wrong).len(), 1, "stray keys first: {wrong}");
    let new = t
        .post(&admin, path, json!({"drift_policy": "correct"}))
        .await
        .expect(200);
    assert_eq!(new["drift_policy"], "correct");
}

#[tokio::test]
async fn only_operators_step_in() {
    let t = TestApi::new().await;
    let operator = t.user("op", Role::Operator).await;
    let user = t.user("ada", Role::User).await;
    let app = t
        .post(&user, "/api/apps", json!({"catalog_id": "nginx", "hostname": "my-web"}))
        .await
        .expect(201);
    let path = format!("/api/operations/{}", app["operation_id"].as_str().unwrap());
    for verb in ["retry", "abandon"] {
        t.post(&user, &format!("{path}/{verb}"), json!({})).await.problem(403);
        let refused = t
            .post(&operator, &format!("{path}/{verb}"), json!({}))
            .await
            .problem(409);
        assert!(
            refused["detail"]
                .as_str()
                .unwrap()
                .contains("the deploy of my-web is queued"),
            "{refused}"
        );
        t.post(&operator, &format!("/api/operations/nothing/{verb}"), json!({}))
            .await
            .problem(404);
    }
}
