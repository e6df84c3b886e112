//! Schedules and coverage over HTTP.
use super::*;

#[tokio::test]
async fn a_schedule_is_made_read_changed_and_deleted() {
    let t = TestApi::new().await;
    let operator = t.user("op", Role::Operator).await;
    let user = t.user("ada", Role::User).await;
    let viewer = t.user("eve", Role::Viewer).await;
    let all = "/api/backups/schedules";
    let body = json!({"label": "prod", "calendar": "Mon..Fri 22:00", "jitter_s": 600, "retention": {"keep-last": 2, "keep_weekly": 4}});
    t.post(&viewer, all, body.clone()).await.problem(403);
    let made = t.post(&operator, all, body.clone()).await.expect(201);
    assert_eq!(
        (
            &made["calendar"],
            &made["time_zone"],
            &made["retention"]["keep_last"],
            &made["owner"]
        ),
        (&json!("mon..fri 22:00"), &json!("UTC"), &json!(2), &Value::Null)
    );
    assert!(
        made["next_run_at"].as_str().unwrap().ends_with("T22:00:00.000Z"),
        "{made}"
    );
    assert_eq!(made["runs"], json!([]));
    let one = format!("{all}/{}", made["id"]);
    assert_eq!(t.get(&operator, &one).await.expect(200), made);
    let page = t.get(&operator, &format!("{all}/")).await.expect(200);
    assert_eq!(
        (&page["total"], &page["page"], &page["per_page"]),
        (&json!(1), &json!(1), &json!(50))
    );
    assert_eq!(page["schedules"][0]["runs"], Value::Null, "a list has no runs");

    // What everybody's apps are covered by is for operators.
    for (method, body) in [("GET", None), ("PATCH", Some(json!({"jitter_s": 0}))), ("DELETE", None)] {
        t.send_as(&user, method, &one, body).await.problem(404);
    }
    t.post(&operator, &format!("{one}/run"), json!({})).await.problem(409);
    let changed = t
        .send_as(
            &operator,
            "PATCH",
            &one,
            Some(json!({"enabled": false, "storage": "nas", "name": "nightly"})),
        )
        .await
        .expect(200);
    assert_eq!(
        (
            &changed["enabled"],
            &changed["storage"],
            &changed["next_run_at"],
            &changed["calendar"]
        ),
        (&json!(false), &json!("nas"), &Value::Null, &made["calendar"])
    );
    let cleared = t
        .send_as(&operator, "PATCH", &one, Some(json!({"storage": null})))
        .await;
    assert_eq!(cleared.expect(200)["storage"], Value::Null);
    let plan = t.get(&operator, &format!("{one}/retention")).await.expect(200);
    assert_eq!((&plan["remove_count"], &plan["apps"]), (&json!(0), &json!([])));

    let wrong = t
        .post(
            &operator,
            all,
            json!({"label": "x", "calendar": "daily 02:30", "retention": {"keep_last": 99_999}}),
        )
        .await
        .problem(422);
    assert_eq!(locs(&wrong), ["body.retention"]);
    for wrong in [
        json!({"label": "x", "calendar": "daily 02:30", "every": 1}),
        json!({"label": "x"}),
        json!({"calendar": "daily 02:30"}),
        json!({"label": "x", "calendar": "daily 02:30", "retention": {"keep_forever": 1}}),
    ] {
        t.post(&operator, all, wrong).await.problem(422);
    }
    t.post(&operator, &format!("{all}?dry_run=true"), body)
        .await
        .problem(422);
    for wrong in ["0", "x", "99999999999999999999"] {
        t.get(&operator, &format!("{all}/{wrong}")).await.problem(404);
    }
    assert_eq!(t.send_as(&operator, "DELETE", &one, None).await.status, 204);
    t.get(&operator, &one).await.problem(404);
}

#[tokio::test]
async fn coverage_is_paged_and_a_backup_that_is_not_there_is_not_protected() {
    let t = TestApi::new().await;
    let user = t.user("ada", Role::User).await;
    let page = t.get(&user, "/api/backups/coverage").await.expect(200);
    assert_eq!(page, json!({"apps": [], "total": 0, "page": 1, "per_page": 50}));
    t.get(&user, "/api/backups/coverage?per_page=201").await.problem(422);
    t.get(&user, "/api/backups/coverage?state=late").await.problem(422);
    let path = "/api/apps/nginx-00000001/backups/1";
    t.send_as(&user, "PATCH", path, Some(json!({"protected": true})))
        .await
        .problem(404);
    t.send_as(&user, "PATCH", path, Some(json!({"status": "gone"})))
        .await
        .problem(422);
}
