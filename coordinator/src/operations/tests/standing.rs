//! Apps that stand still before an operation that is not to start them.

use super::{node::Wrong, world::World};
use crate::{domain::operation_state::OperationState, operations::configure::CONFIGURE, store::operations};
use proximity_protocol::fault::FaultKind;

const FOREVER: u32 = u32::MAX;

/// What stood before it was moved stands afterwards, on either node, and nothing of it is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stood_still_is_moved_and_stands_still() {
    for fails in [false, true] {
        let world = World::new(2, true).await;
        let id = world.queued("migrate").await;
        world.nodes.model(world.node(), |m| {
            m.containers.get_mut(&100).unwrap().running = false;
            m.published.clear();
        });
        if fails {
            world
                .nodes
                .trap("migrate", false, Wrong::Half(FaultKind::PolicyDenied, FOREVER));
        }
        world.run_to_the_end(1).await;
        let operation = world.operation(id).await;
        let state = if fails {
            OperationState::Undone
        } else {
            OperationState::Done
        };
        let there = world.ids[usize::from(!fails)];
        assert_eq!(
            (operation.state, operation.node_id),
            (state, Some(there)),
            "{operation:?}"
        );
        let (runs, published) = world
            .nodes
            .model(there, |m| (m.containers[&100].running, m.published.len()));
        assert_eq!((runs, published), (false, 0));
        let app = world.app("nginx-00000001").await.unwrap();
        assert_eq!((app.node_id, app.published), (there, None));
        if !fails {
            assert_eq!(app.status, crate::domain::app_state::Status::Stopped);
        }
    }
}

/// A change of an app that stands still, asked for as the service does: without values, which are written into running containers only.
async fn standing_change() -> (World, proximity_protocol::ids::OperationId) {
    let world = World::new(1, true).await;
    let id = world.queued("configure").await;
    world.nodes.model(world.node(), |m| {
        m.containers.get_mut(&100).unwrap().running = false;
        m.published.clear();
    });
    let mut params = world.operation(id).await.params;
    params["previous"] = "stopped".into();
    params["environment"] = serde_json::Value::Null;
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE operations SET params = $1 WHERE id = $2")
        .bind(params.to_string())
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    (world, id)
}

/// It is changed, or is as before, whichever step fails; it is never started and nothing of it is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_still_is_changed_and_stands_still() {
    let steps = CONFIGURE.steps.iter().map(|step| Some(step.name));
    for fails in steps.chain([None]) {
        let (world, id) = standing_change().await;
        if let Some(step) = fails {
            let wrong = Wrong::Half(FaultKind::PolicyDenied, FOREVER);
            world.nodes.trap(step, false, wrong);
        }
        world.run_to_the_end(1).await;
        let reached = world.nodes.traps.lock().unwrap().iter().any(|trap| trap.sprung > 0);
        // Nothing runs, so that nothing is told, waited for or published.
        assert_eq!(reached, matches!(fails, Some("settings" | "disk")), "{fails:?}");
        let operation = world.operation(id).await;
        let done = !reached;
        let expected = if done {
            OperationState::Done
        } else {
            OperationState::Undone
        };
        assert_eq!(operation.state, expected, "{fails:?}: {operation:?}");
        let app = world.app("nginx-00000001").await.unwrap();
        assert_eq!(app.status, crate::domain::app_state::Status::Stopped, "{fails:?}");
        assert_eq!(app.resources.memory_mb, if done { 256 } else { 128 }, "{fails:?}");
        let (container, published) = world
            .nodes
            .model(world.node(), |m| (m.containers[&100].clone(), m.published.len()));
        assert_eq!((container.running, published), (false, 0), "{fails:?}");
        assert_eq!(container.settings.memory_mb, Some(app.resources.memory_mb), "{fails:?}");
        assert_eq!(container.disk_gb, app.resources.disk_gb, "{fails:?}");
        let mut conn = world.store.read().await.unwrap();
        assert!(operations::unfinished(&mut conn).await.unwrap().is_empty());
    }
}
