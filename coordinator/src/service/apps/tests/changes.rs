//! `PATCH`, and operations that are asked to turn around.

use super::*;
use crate::{domain::operation_state::OperationState, operations::tests::node::Wrong};
use proximity_protocol::fault::FaultKind;

fn change(value: Value) -> ChangeApp {
    serde_json::from_value(value).unwrap()
}

async fn running(world: &World, apps: &Apps, more: Value) -> AppView {
    let view = created(apps, &ada(), &body(more)).await;
    world.settle(&apps.deps().engine).await;
    apps.get(&ada(), &view.id).await.unwrap()
}

async fn no_change(apps: &Apps, id: &str, value: Value) -> (u16, String) {
    let error = apps.change(&ada(), id, &change(value)).await.unwrap_err();
    (status(&error), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_change_at_once_and_the_container_by_an_operation() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let app = running(&world, &apps, json!({})).await;
    let words = json!({"description": "The shop", "labels": ["prod"]});
    let changed = apps.change(&ada(), &app.id, &change(words.clone())).await.unwrap();
    assert_eq!(
        (changed.started, changed.app.status, changed.app.operation_id.clone()),
        (false, Status::Running, app.operation_id.clone())
    );
    assert_eq!(
        (changed.app.description.as_str(), changed.app.labels.as_slice()),
        ("The shop", &["prod".to_owned()][..])
    );
    // What is so already starts nothing.
    let same = json!({"config": {"memory_mb": 256}, "environment": {"COLOR": "blue"}});
    assert!(!apps.change(&ada(), &app.id, &change(same)).await.unwrap().started);

    let asked = json!({"config": {"memory_mb": 512, "cpu_cores": 3, "disk_gb": 5}, "environment": {"COLOR": "red", "API_TOKEN": "tttt"}});
    let changed = apps.change(&ada(), &app.id, &change(asked)).await.unwrap();
    assert_eq!((changed.started, changed.app.status), (true, Status::Updating));
    let (code, text) = no_change(&apps, &app.id, json!({"config": {"memory_mb": 128}})).await;
    assert!(code == 409 && text.contains("under way"), "{text}");
    world.settle(&apps.deps().engine).await;
    let after = apps.get(&ada(), &app.id).await.unwrap();
    assert_eq!(
        (
            after.status,
            after.environment["COLOR"].as_str(),
            &after.config["memory_mb"]
        ),
        (Status::Running, "red", &json!(512))
    );
    assert!(
        !after.environment.contains_key("API_TOKEN"),
        "secrets are shown nowhere"
    );
    let container = world.nodes.model(world.node(), |m| m.containers[&100].clone());
    assert_eq!(
        (
            container.settings.memory_mb,
            container.settings.cpu_cores,
            container.disk_gb
        ),
        (Some(512), Some(3), 5)
    );
    let env = &container.recipe.unwrap().env;
    let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(env, [("API_TOKEN", "tttt"), ("COLOR", "red")]);
    let row = world.app(&app.id).await.unwrap();
    assert_eq!((row.resources.memory_mb, row.resources.disk_gb), (512, 5));
    assert_eq!(row.description, "The shop");

    // Gone again, and the default is back.
    let back = json!({"environment": {"COLOR": null, "API_TOKEN": null}});
    apps.change(&ada(), &app.id, &change(back)).await.unwrap();
    world.settle(&apps.deps().engine).await;
    let env = world
        .nodes
        .model(world.node(), |m| m.containers[&100].recipe.clone().unwrap().env);
    assert_eq!(
        env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect::<Vec<_>>(),
        [("COLOR", "blue")]
    );
    world.assert_nothing_stray("changed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_changed_is_refused_and_changes_nothing() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let app = running(&world, &apps, json!({})).await;
    for (value, code, words) in [
        (json!({"config": {"disk_gb": 1}}), 422, "never made smaller"),
        (json!({"config": {"memory_mb": 32}}), 422, "at least 64"),
        (json!({"config": {"cpu_cores": 9}}), 422, "largest node"),
        (json!({"config": {"storage": "local"}}), 422, "storage"),
        (json!({"config": {"image": "x"}}), 422, "image"),
        (json!({"config": {"colour": 1}}), 422, "not known"),
        (json!({"environment": {"COLOR": "RED"}}), 422, "match"),
        (json!({"environment": {"lower": "x"}}), 422, "lower"),
        (json!({"labels": [""], "description": "x"}), 422, "labels"),
    ] {
        let (found, text) = no_change(&apps, &app.id, value.clone()).await;
        assert!(found == code && text.contains(words), "{value}: {found} {text}");
    }
    assert!(serde_json::from_value::<ChangeApp>(json!({"hostname": "other"})).is_err());
    let viewer = caller(3, "eve", Role::Viewer);
    let bob = caller(2, "bob", Role::User);
    let words = change(json!({"description": "x"}));
    assert_eq!(status(&apps.change(&viewer, &app.id, &words).await.unwrap_err()), 403);
    assert_eq!(status(&apps.change(&bob, &app.id, &words).await.unwrap_err()), 404);
    assert_eq!(apps.get(&ada(), &app.id).await.unwrap().description, "");

    // Stopped: settings can be changed, values cannot.
    apps.act(&ada(), &app.id, Action::Stop, Deletion::default())
        .await
        .unwrap();
    world.settle(&apps.deps().engine).await;
    let (code, text) = no_change(&apps, &app.id, json!({"environment": {"COLOR": "red"}})).await;
    assert!(code == 409 && text.contains("start it first"), "{text}");
    apps.change(&ada(), &app.id, &change(json!({"config": {"memory_mb": 300}})))
        .await
        .unwrap();
    world.settle(&apps.deps().engine).await;
    let after = apps.get(&ada(), &app.id).await.unwrap();
    assert_eq!(
        (after.status, &after.config["memory_mb"]),
        (Status::Stopped, &json!(300))
    );

    // Adopted: words only.
    let mut tx = world.store.begin().await.unwrap();
    let mut row = world.app(&app.id).await.unwrap();
    row.id = "custom-0a1b2c3d".parse().unwrap();
    row.hostname = "adopted".into();
    row.adopted = true;
    rows::insert(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    for value in [
        json!({"config": {"memory_mb": 512}}),
        json!({"environment": {"COLOR": "red"}}),
    ] {
        let (code, text) = no_change(&apps, "custom-0a1b2c3d", value).await;
        assert!(code == 409 && text.contains("was adopted"), "{text}");
    }
    let words = change(json!({"description": "mine", "labels": ["x"]}));
    assert!(!apps.change(&ada(), "custom-0a1b2c3d", &words).await.unwrap().started);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_fails_brings_back_what_was() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let app = running(&world, &apps, json!({})).await;
    world
        .nodes
        .trap("healthy", false, Wrong::Fault(FaultKind::PolicyDenied, u32::MAX));
    let asked = json!({"config": {"memory_mb": 512}, "environment": {"COLOR": "red", "MORE": "1", "API_TOKEN": "t"}});
    apps.change(&ada(), &app.id, &change(asked)).await.unwrap();
    world.settle(&apps.deps().engine).await;
    let after = apps.get(&ada(), &app.id).await.unwrap();
    assert_eq!(
        (after.status, after.environment["COLOR"].as_str()),
        (Status::Running, "blue")
    );
    assert_eq!(after.config, app.config);
    let container = world.nodes.model(world.node(), |m| m.containers[&100].clone());
    let env = container.recipe.unwrap().env;
    assert_eq!(
        env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect::<Vec<_>>(),
        [("COLOR", "blue")]
    );
    assert_eq!(container.settings.memory_mb, Some(256));
    let operations = Operations::new(world.store.clone(), world.engine(1));
    let operation = operations.get(&ada(), &after.operation_id.unwrap()).await.unwrap();
    assert_eq!(operation.state, OperationState::Undone);
    world.assert_nothing_stray("taken back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_stays_within_the_owners_quota() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let first = running(&world, &apps, json!({})).await;
    let second = running(&world, &apps, json!({"hostname": "web-2"})).await;
    let was = world.app(&first.id).await.unwrap().resources;
    let other = world.app(&second.id).await.unwrap().resources;
    let (cores, memory) = (was.cpu_cores + other.cpu_cores, was.memory_mb + other.memory_mb);
    let disk = was.disk_gb + other.disk_gb;
    let limits = async |cores: u32, memory: u32, disk: u32| {
        let mut tx = world.store.begin().await.unwrap();
        sqlx::query("UPDATE users SET max_cpu_cores = $1, max_memory_mb = $2, max_disk_gb = $3")
            .bind(cores)
            .bind(memory)
            .bind(disk)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    limits(cores, memory + 64, 1000).await;
    let (code, why) = no_change(&apps, &first.id, json!({"config": {"cpu_cores": was.cpu_cores + 1}})).await;
    assert!(code == 409 && why.contains("max_cpu_cores"), "{why}");
    let (code, why) = no_change(&apps, &first.id, json!({"config": {"memory_mb": was.memory_mb + 65}})).await;
    assert!(code == 409 && why.contains("max_memory_mb"), "{why}");
    // What the first asks for is not in force yet, and counts.
    apps.change(
        &ada(),
        &first.id,
        &change(json!({"config": {"memory_mb": was.memory_mb + 64}})),
    )
    .await
    .unwrap();
    let (code, why) = no_change(
        &apps,
        &second.id,
        json!({"config": {"memory_mb": other.memory_mb + 64}}),
    )
    .await;
    assert!(
        code == 409 && why.contains(&format!("{} in use, 64 more", memory + 64)),
        "{why}"
    );
    world.settle(&apps.deps().engine).await;
    assert_eq!(
        no_change(
            &apps,
            &second.id,
            json!({"config": {"memory_mb": other.memory_mb + 64}})
        )
        .await
        .0,
        409
    );
    // Above a limit that was lowered since, less may still be asked for.
    limits(1, 1, disk).await;
    let less = json!({"config": {"memory_mb": was.memory_mb}});
    apps.change(&ada(), &first.id, &change(less)).await.unwrap();
    world.settle(&apps.deps().engine).await;
    let (code, why) = no_change(&apps, &first.id, json!({"config": {"disk_gb": was.disk_gb + 1}})).await;
    assert!(code == 409 && why.contains("max_disk_gb"), "{why}");
}

/// What a cancel means for each kind of action: all is as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_operation_leaves_the_app_as_it_was() {
    for (action, step, before) in [
        (Action::Stop, "stop", Status::Running),
        (Action::Restart, "stop", Status::Running),
        (Action::Start, "healthy", Status::Stopped),
    ] {
        let world = World::new(1, true).await;
        let apps = apps(&world);
        let operations = Operations::new(world.store.clone(), apps.deps().engine.clone());
        let app = running(&world, &apps, json!({})).await;
        if before == Status::Stopped {
            apps.act(&ada(), &app.id, Action::Stop, Deletion::default())
                .await
                .unwrap();
            world.settle(&apps.deps().engine).await;
        }
        world.nodes.trap(step, false, Wrong::Fault(FaultKind::Locked, u32::MAX));
        let Acted::Accepted(answer) = apps.act(&ada(), &app.id, action, Deletion::default()).await.unwrap() else {
            panic!()
        };
        let id = answer.operation_id.as_str();
        let stop = tokio_util::sync::CancellationToken::new();
        let engine = tokio::spawn({
            let (engine, stop) = (apps.deps().engine.clone(), stop.clone());
            async move { engine.run(stop).await }
        });
        until(&world, &operations, id, OperationState::Waiting).await;
        let bob = caller(2, "bob", Role::User);
        assert_eq!(status(&operations.cancel(&bob, id).await.unwrap_err()), 404);
        for _ in 0..2 {
            let asked = operations.cancel(&ada(), id).await;
            // The second time it may be on its way back already.
            assert!(
                asked.is_ok_and(|view| view.cancel_requested)
                    || world.operation(id.parse().unwrap()).await.cancel_requested
            );
        }
        until(&world, &operations, id, OperationState::Undone).await;
        stop.cancel();
        engine.await.unwrap();
        let after = apps.get(&ada(), &app.id).await.unwrap();
        assert_eq!((after.status, after.status_reason), (before, None), "{action}");
        let (runs, published) = world
            .nodes
            .model(world.node(), |m| (m.containers[&100].running, m.published.len()));
        let ran = before == Status::Running;
        assert_eq!((runs, published), (ran, usize::from(ran)), "{action}");
        let error = operations.cancel(&ada(), id).await.unwrap_err();
        assert!(
            status(&error) == 409 && error.to_string().contains("taken back already"),
            "{error}"
        );
    }
}

async fn until(world: &World, operations: &Operations, id: &str, state: OperationState) {
    let mut events = world.bus.subscribe();
    let reached = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while operations.get(&ada(), id).await.unwrap().state != state {
            let _ = events.recv().await;
        }
    });
    reached.await.unwrap_or_else(|_| panic!("not {state}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_and_what_has_ended_cannot_be_cancelled() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let operations = Operations::new(world.store.clone(), apps.deps().engine.clone());
    let app = running(&world, &apps, json!({})).await;
    let deployed = app.operation_id.clone().unwrap();
    let error = operations.cancel(&ada(), &deployed).await.unwrap_err();
    assert!(
        status(&error) == 409 && error.to_string().contains("done already"),
        "{error}"
    );
    let Acted::Accepted(answer) = apps.delete(&ada(), &app.id, Deletion::default()).await.unwrap() else {
        panic!()
    };
    let error = operations.cancel(&ada(), &answer.operation_id).await.unwrap_err();
    assert!(
        status(&error) == 409 && error.to_string().contains("no way back"),
        "{error}"
    );
    assert_eq!(status(&operations.cancel(&ada(), "nonsense").await.unwrap_err()), 404);
    world.settle(&apps.deps().engine).await;

    // One that has not begun ends without having done anything.
    let second = created(&apps, &ada(), &body(json!({}))).await;
    operations
        .cancel(&ada(), &second.operation_id.clone().unwrap())
        .await
        .unwrap();
    world.settle(&apps.deps().engine).await;
    let after = apps.get(&ada(), &second.id).await.unwrap();
    assert_eq!(
        (after.status, after.status_reason.as_deref()),
        (Status::Error, Some("cancelled"))
    );
    world.assert_nothing_stray("cancelled").await;
}
