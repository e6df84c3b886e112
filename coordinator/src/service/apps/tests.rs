//! The use cases over a registry, an engine and fake nodes.
#![allow(clippy::unwrap_used)]

mod adoption;
mod changes;
mod draining;
mod queue;

use super::*;
use crate::{
    domain::{
        app_state::{Action, Status},
        catalog::Catalog,
    },
    operations::tests::world::World,
    service::operations::Operations,
    store::operations,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn catalog() -> SharedCatalog {
    let nginx = json!({
        "id": "nginx", "name": "nginx", "description": "Web server", "version": "1.22", "category": "Web", "ports": {"http": 80},
        "min_memory": 64, "min_cpu": 1, "min_disk": 1,
        "env_vars": {"COLOR": {"default": "blue", "pattern": "[a-z]+"}},
        "deploy": {"kind": "native", "template": "debian-12-standard", "install": "true", "health": "true"}
    });
    let postgres = json!({
        "id": "postgresql", "name": "PostgreSQL", "description": "Database", "version": "15", "category": "Database", "ports": {"postgresql": 5432},
        "min_memory": 256, "volumes": [{"path": "/var/lib/postgresql", "size_gb": 8}],
        "env_vars": {"POSTGRES_PASSWORD": {"generated": true, "secret": true}, "ADMIN": {"required": true}},
        "deploy": {"kind": "native", "template": "debian-12-standard", "install": "true", "health": "true", "health_timeout_s": 33,
                   "files": {"site.conf": "x"}}
    });
    let compose = json!({
        "id": "gatus", "name": "Gatus", "description": "Status", "version": "1", "category": "Monitoring",
        "docker_compose": {"services": {"gatus": {"image": "x", "ports": ["8080:8080"]}}}
    });
    let files: Vec<(String, Vec<u8>)> = [nginx, postgres, compose]
        .iter()
        .map(|e| {
            (
                format!("{}.json", e["id"].as_str().unwrap()),
                e.to_string().into_bytes(),
            )
        })
        .collect();
    SharedCatalog::new(Catalog::parse(files.iter().map(|(n, c)| (n.as_str(), c.as_slice()))).unwrap())
}

const TRIAL: Deletion = Deletion {
    dry_run: true,
    destroy_container: None,
};

fn apps(world: &World) -> Apps {
    Apps::new(AppsDeps {
        store: world.store.clone(),
        engine: world.engine(1),
        queries: world.queries(),
        live: Live::default(),
        inventories: world.inventories.clone(),
        catalog: catalog(),
        clock: Arc::new(world.clock.clone()),
        bus: world.bus.clone(),
        secrets: world.secrets.clone(),
    })
}

fn caller(user_id: i64, username: &str, role: Role) -> Caller {
    Caller {
        user_id,
        username: username.into(),
        role,
        remote: None,
        request_id: None,
    }
}

fn ada() -> Caller {
    caller(1, "ada", Role::User)
}

fn body(value: Value) -> CreateApp {
    let mut whole = json!({"catalog_id": "nginx", "hostname": "web-1", "config": {"memory_mb": 256, "disk_gb": 2}});
    for (key, value) in value.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

async fn created(apps: &Apps, caller: &Caller, body: &CreateApp) -> AppView {
    match apps.create(caller, body, false).await.unwrap() {
        Created::Accepted(view) => *view,
        plan => panic!("{plan:?}"),
    }
}

async fn refused(apps: &Apps, caller: &Caller, body: &CreateApp) -> (u16, String) {
    let error = apps.create(caller, body, false).await.unwrap_err();
    (status(&error), error.to_string())
}

fn status(error: &ServiceError) -> u16 {
    match error {
        ServiceError::Refused(_) => 400,
        ServiceError::Unauthenticated(_) => 401,
        ServiceError::Forbidden(_) => 403,
        ServiceError::NotFound(_) => 404,
        ServiceError::Conflict(_) => 409,
        ServiceError::Invalid(_) => 422,
        ServiceError::TooMany { .. } => 429,
        ServiceError::Unavailable { .. } => 503,
        ServiceError::Internal(_) | ServiceError::Store(_) => 500,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_is_accepted_deployed_acted_on_and_deleted() {
    let world = World::new(2, false).await;
    let apps = apps(&world);
    let view = created(&apps, &ada(), &body(json!({}))).await;
    assert_eq!(
        (view.status, view.public_port, view.lxc_id, view.url.as_deref()),
        (Status::Deploying, Some(8000), None, None)
    );
    assert!(view.id.starts_with("nginx-") && view.owner == "ada" && view.operation_id.is_some());
    assert_eq!(view.environment["COLOR"], "blue");
    world.settle(&apps.deps().engine).await;
    let view = apps.get(&ada(), &view.id).await.unwrap();
    assert_eq!(
        (view.status, view.lxc_id, view.url.as_deref()),
        (Status::Running, Some(100), Some("http://192.0.2.1:8000"))
    );
    assert_eq!(view.direct_url.as_deref(), Some("http://10.0.0.100:80"));

    for (action, message, after) in [
        (Action::Stop, "Stopping web-1", Status::Stopped),
        (Action::Start, "Starting web-1", Status::Running),
        (Action::Restart, "Restarting web-1", Status::Running),
    ] {
        match apps.act(&ada(), &view.id, action, Deletion::default()).await.unwrap() {
            Acted::Accepted(answer) => assert_eq!((answer.success, answer.message.as_str()), (true, message)),
            plan => panic!("{plan:?}"),
        }
        world.settle(&apps.deps().engine).await;
        assert_eq!(apps.get(&ada(), &view.id).await.unwrap().status, after);
    }
    let error = apps
        .act(&ada(), &view.id, Action::Start, Deletion::default())
        .await
        .unwrap_err();
    assert!(
        status(&error) == 409 && error.to_string().contains("possible now: stop, restart, delete"),
        "{error}"
    );

    match apps.delete(&ada(), &view.id, TRIAL).await.unwrap() {
        Acted::Plan(plan) => assert!(plan.loses[0].contains("container 100 on pve1"), "{plan:?}"),
        done => panic!("{done:?}"),
    }
    let Acted::Accepted(answer) = apps.delete(&ada(), &view.id, Deletion::default()).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        status(&apps.delete(&ada(), &view.id, Deletion::default()).await.unwrap_err()),
        409
    );
    world.settle(&apps.deps().engine).await;
    assert_eq!(status(&apps.get(&ada(), &view.id).await.unwrap_err()), 404);
    assert_eq!(world.reservation_count().await, 0);
    let operations = Operations::new(world.store.clone(), world.engine(1));
    let operation = operations.get(&ada(), &answer.operation_id).await.unwrap();
    assert_eq!(
        (operation.kind.as_str(), operation.state.as_str(), operation.steps.len()),
        ("delete", "done", 4)
    );
    assert!(
        !operations
            .events(&ada(), &answer.operation_id, 0, 100)
            .await
            .unwrap()
            .is_empty()
    );
    let bob = caller(2, "bob", Role::User);
    assert_eq!(
        status(&operations.get(&bob, &answer.operation_id).await.unwrap_err()),
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_at_once_get_distinct_everything() {
    let world = World::new(3, true).await;
    let apps = apps(&world);
    let tasks: Vec<_> = (0..200)
        .map(|n| {
            let apps = apps.clone();
            tokio::spawn(async move {
                apps.create(&ada(), &body(json!({"hostname": format!("web-{n}")})), false)
                    .await
            })
        })
        .collect();
    let mut nodes = BTreeSet::new();
    for task in tasks {
        match task.await.unwrap().unwrap() {
            Created::Accepted(view) => nodes.insert(view.node.clone()),
            plan => panic!("{plan:?}"),
        };
    }
    assert_eq!(nodes.len(), 3, "spread by what is in flight");
    world.settle(&apps.deps().engine).await;
    world.assert_nothing_stray("two hundred").await;
    let mut all = Vec::new();
    for page in 1..=2 {
        let query = ListApps {
            page,
            per_page: 100,
            ..ListApps::default()
        };
        let found = apps.list(&ada(), &query).await.unwrap();
        assert_eq!(found.total, 200);
        all.extend(found.apps);
    }
    assert!(
        all.iter().all(|a| a.status == Status::Running),
        "{:?}",
        all.iter().find(|a| a.status != Status::Running)
    );
    assert_eq!(
        all.iter().map(|a| a.lxc_id.unwrap()).collect::<BTreeSet<_>>().len(),
        200
    );
    assert_eq!(
        all.iter()
            .map(|a| a.public_port.unwrap())
            .collect::<BTreeSet<_>>()
            .len(),
        200
    );
    assert_eq!(
        all.iter().map(|a| a.ip_address.unwrap()).collect::<BTreeSet<_>>().len(),
        200
    );
    assert_eq!(all.iter().map(|a| a.id.clone()).collect::<BTreeSet<_>>().len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_host_name_at_once_is_one_app() {
    let world = World::new(1, false).await;
    let apps = apps(&world);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let apps = apps.clone();
            tokio::spawn(async move {
                apps.create(&ada(), &body(json!({})), false)
                    .await
                    .map_err(|e| status(&e))
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(code) => assert_eq!(code, 409),
        }
    }
    assert_eq!(accepted, 1);
    world.assert_nothing_stray("same name").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_in_the_contracts_order_and_leaves_nothing() {
    let world = World::new(2, false).await;
    let apps = apps(&world);
    let viewer = caller(3, "eve", Role::Viewer);
    let cases = [
        (viewer, json!({"hostname": "-"}), 403, "viewers only read"),
        (
            ada(),
            json!({"hostname": "Bad_Name", "catalog_id": "nothing"}),
            422,
            "hostname",
        ),
        (
            ada(),
            json!({"config": {"color": 1}, "catalog_id": "nothing"}),
            422,
            "known are",
        ),
        (ada(), json!({"environment": {"a b": "x"}}), 422, "a name is"),
        (ada(), json!({"environment": {"COLOR": "BLUE"}}), 422, "has to match"),
        (ada(), json!({"config": {"image": "x"}}), 422, "compose"),
        (ada(), json!({"config": {"memory_mb": 32}}), 422, "at least 64"),
        (ada(), json!({"config": {"memory_mb": 4_000_000}}), 422, "largest node"),
        (ada(), json!({"config": {"cpu_cores": 9}}), 422, "at most 8"),
        (ada(), json!({"catalog_id": "postgresql"}), 422, "is required"),
        (ada(), json!({"catalog_id": "nothing"}), 404, "catalog"),
        (ada(), json!({"catalog_id": "gatus"}), 400, "cannot be deployed"),
        (ada(), json!({"node": "pve9"}), 404, "no node"),
        (ada(), json!({"host_id": 9}), 404, "no host 9"),
        (
            ada(),
            json!({"config": {"storage": "fast"}}),
            503,
            "pve1: has no storage fast; pve2: has no storage fast",
        ),
    ];
    for (caller, change, code, words) in cases {
        let (found, text) = refused(&apps, &caller, &body(change.clone())).await;
        assert!(found == code && text.contains(words), "{change}: {found} {text}");
    }
    world.nodes.set_online(world.ids[1], false);
    let (code, text) = refused(&apps, &ada(), &body(json!({"node": "pve2"}))).await;
    assert!(code == 409 && text.contains("offline"), "{text}");
    world.nodes.set_online(world.ids[0], false);
    let (code, text) = refused(&apps, &ada(), &body(json!({}))).await;
    assert!(
        code == 503 && text.contains("pve1: its agent is not connected"),
        "{text}"
    );
    assert_eq!(world.reservation_count().await, 0);
    let mut conn = world.store.read().await.unwrap();
    assert!(operations::unfinished(&mut conn).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_inactive_full_and_quota_are_conflicts() {
    let world = World::new(1, false).await;
    let apps = apps(&world);
    let set = |sql: &'static str| {
        let store = world.store.clone();
        async move {
            let mut tx = store.begin().await.unwrap();
            sqlx::query(sql).execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
        }
    };
    set("UPDATE nodes SET admission = 'draining'").await;
    assert_eq!(refused(&apps, &ada(), &body(json!({"node": "pve1"}))).await.0, 409);
    assert_eq!(refused(&apps, &ada(), &body(json!({}))).await.0, 503);
    set("UPDATE nodes SET admission = 'enrolled'").await;
    set("UPDATE hosts SET is_active = FALSE").await;
    assert_eq!(refused(&apps, &ada(), &body(json!({"host_id": 1}))).await.0, 409);
    set("UPDATE hosts SET is_active = TRUE").await;
    set("INSERT INTO settings (key, value, updated_at) VALUES ('features', '{\"public_port_first\": 8100, \"public_port_last\": 8100}', 0)").await;
    let view = created(&apps, &ada(), &body(json!({}))).await;
    assert_eq!(view.public_port, Some(8100));
    let (code, text) = refused(&apps, &ada(), &body(json!({"hostname": "web-2"}))).await;
    assert!(code == 409 && text.contains("no free public port"), "{text}");
    set("UPDATE settings SET value = '{}'").await;
    for (sql, quota) in [
        ("UPDATE users SET max_apps = 1", "max_apps"),
        ("UPDATE users SET max_apps = NULL, max_memory_mb = 500", "max_memory_mb"),
        ("UPDATE users SET max_memory_mb = NULL, max_disk_gb = 3", "max_disk_gb"),
        (
            "UPDATE users SET max_disk_gb = NULL, max_cpu_cores = 2",
            "max_cpu_cores",
        ),
    ] {
        set(sql).await;
        let (code, text) = refused(&apps, &ada(), &body(json!({"hostname": "web-2"}))).await;
        assert!(code == 409 && text.contains(quota), "{text}");
    }
    world.assert_nothing_stray("conflicts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_plans_and_changes_nothing() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let Created::Plan(plan) = apps.create(&ada(), &body(json!({})), true).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        (plan.node.as_str(), plan.steps.len(), plan.ports[0].public_port),
        ("pve1", 8, Some(8000))
    );
    assert!(
        plan.placement.unwrap()["because"]
            .as_str()
            .unwrap()
            .contains("most memory available")
    );
    assert_eq!(world.reservation_count().await, 0);
    assert_eq!(apps.list(&ada(), &ListApps::default()).await.unwrap().total, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_generated_sealed_and_shown_nowhere() {
    let world = World::new(1, false).await;
    let apps = apps(&world);
    let wanted =
        body(json!({"catalog_id": "postgresql", "environment": {"ADMIN": "root", "OTHER_PASSWORD": "hunter2"}}));
    let wanted = CreateApp { config: None, ..wanted };
    let view = created(&apps, &ada(), &wanted).await;
    assert_eq!(view.environment.keys().collect::<Vec<_>>(), ["ADMIN"]);
    assert_eq!((view.internal_port, view.volumes[0].size_gb), (5432, 8));
    world.settle(&apps.deps().engine).await;
    let recipe = world
        .nodes
        .model(world.node(), |m| m.containers[&100].recipe.clone().unwrap());
    let names: Vec<&str> = recipe.env.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["ADMIN", "OTHER_PASSWORD", "POSTGRES_PASSWORD"]);
    assert_eq!(recipe.files[0].content, b"x");
    let generated = recipe.env[2].1.expose();
    assert_eq!(generated.len(), 32);
    let view = apps.get(&ada(), &view.id).await.unwrap();
    assert_eq!(
        (view.url.as_deref(), view.iframe_url),
        (Some("postgresql://192.0.2.1:8000"), None)
    );
    // Neither stands readable anywhere in the registry's file.
    let mut conn = world.store.read().await.unwrap();
    let (path,): (String,) = sqlx::query_as("SELECT file FROM pragma_database_list WHERE name = 'main'")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    for file in [path.clone(), format!("{path}-wal")] {
        let bytes = std::fs::read(&file).unwrap_or_default();
        for secret in [generated.as_bytes(), b"hunter2"] {
            assert!(
                !bytes.windows(secret.len()).any(|w| w == secret),
                "a secret stands in {file}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_others_does_not_exist() {
    let world = World::new(1, false).await;
    let apps = apps(&world);
    let view = created(&apps, &ada(), &body(json!({}))).await;
    let bob = caller(2, "bob", Role::User);
    for error in [
        apps.get(&bob, &view.id).await.unwrap_err(),
        apps.logs(&bob, &view.id, 1, 20).await.unwrap_err(),
        apps.act(&bob, &view.id, Action::Stop, Deletion::default())
            .await
            .unwrap_err(),
        apps.delete(&bob, &view.id, TRIAL).await.unwrap_err(),
    ] {
        assert_eq!(status(&error), 404);
    }
    assert_eq!(apps.list(&bob, &ListApps::default()).await.unwrap().total, 0);
    let root = caller(4, "root", Role::Admin);
    assert_eq!(apps.list(&root, &ListApps::default()).await.unwrap().total, 1);
    let (code, _) = refused(&apps, &bob, &body(json!({}))).await;
    assert_eq!(code, 409, "host names are unique over all owners");
    let lines = apps.logs(&ada(), &view.id, 1, 20).await.unwrap();
    assert!(
        lines.logs[0].message.starts_with("Accepted: web-1 on pve1"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_filter_and_sort() {
    let world = World::new(1, false).await;
    let apps = apps(&world);
    for name in ["alpha", "beta", "al_pha"] {
        let hostname = name.replace('_', "-");
        created(&apps, &ada(), &body(json!({"hostname": hostname}))).await;
    }
    let names = |query: ListApps| {
        let apps = apps.clone();
        async move {
            apps.list(&ada(), &query)
                .await
                .unwrap()
                .apps
                .into_iter()
                .map(|a| a.hostname)
                .collect::<Vec<_>>()
        }
    };
    let all = ListApps::default;
    assert_eq!(
        names(ListApps {
            sort: Some("hostname".into()),
            ..all()
        })
        .await,
        ["al-pha", "alpha", "beta"]
    );
    assert_eq!(
        names(ListApps {
            search: Some("ALPH".into()),
            ..all()
        })
        .await,
        ["alpha"]
    );
    assert_eq!(
        names(ListApps {
            search: Some("%".into()),
            ..all()
        })
        .await,
        [""; 0]
    );
    assert_eq!(
        names(ListApps {
            search: Some("_".into()),
            ..all()
        })
        .await,
        [""; 0]
    );
    assert_eq!(
        names(ListApps {
            node: Some("pve2".into()),
            ..all()
        })
        .await,
        [""; 0]
    );
    assert_eq!(
        names(ListApps {
            status: Some("deploying".into()),
            catalog_id: Some("nginx".into()),
            ..all()
        })
        .await
        .len(),
        3
    );
    for wrong in [
        ListApps {
            status: Some("asleep".into()),
            ..all()
        },
        ListApps {
            sort: Some("size".into()),
            ..all()
        },
        ListApps { per_page: 201, ..all() },
    ] {
        assert_eq!(status(&apps.list(&ada(), &wrong).await.unwrap_err()), 422);
    }
}
