//! Every kind that has a way back is cancelled in every step: while it waits on its node, and while the node is at work and goes on.

use super::world::World;
use crate::{
    domain::{app_state::Status, operation_state::OperationState},
    operations::{KINDS, step::Kind},
    store::operations,
};
use proximity_protocol::ids::OperationId;
use std::time::Duration;

/// Runs an operation of that kind, and cancels it when its step is at its node.
async fn cancelled_at(kind: &'static Kind, step: &'static str, goes_on: bool) -> (World, OperationId) {
    let world = World::of(kind.name).await;
    let id = world.queued(kind.name).await;
    for node in &world.ids {
        world.nodes.model(*node, |m| {
            m.waits_at = Some(step);
            m.goes_on = goes_on;
        });
    }
    let engine = world.engine(1);
    let cancels = async {
        let mut waiting = world.nodes.waiting.subscribe();
        tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count == 1))
            .await
            .unwrap_or_else(|_| panic!("{} has not reached {step}", kind.name))
            .unwrap();
        let mut tx = world.store.begin().await.unwrap();
        operations::request_cancel(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
        engine.kick(id);
    };
    tokio::join!(world.settle(&engine), cancels);
    (world, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_is_taken_back_from_every_step() {
    for kind in KINDS.iter().filter(|kind| !kind.forward_only) {
        let last = kind.steps.last().unwrap().name;
        for step in kind.steps {
            for goes_on in [false, true] {
                let (world, id) = cancelled_at(kind, step.name, goes_on).await;
                let context = format!("{} cancelled in {}, goes on {goes_on}", kind.name, step.name);
                let operation = world.operation(id).await;
                // What was at work in its last step has nothing left to be taken back from.
                let expected = if goes_on && step.name == last {
                    OperationState::Done
                } else {
                    OperationState::Undone
                };
                assert_eq!(operation.state, expected, "{context}: {operation:#?}");
                if expected == OperationState::Done {
                    world.assert_ended(kind.name, &operation, &context).await;
                    continue;
                }
                assert_eq!(
                    (operation.reason.as_deref(), &operation.error),
                    (Some("cancelled"), &None),
                    "{context}"
                );
                assert_as_it_was(&world, kind, &operation, &context).await;
            }
        }
    }
}

/// Cancelled before it began, it has done nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_begun_does_nothing() {
    for kind in KINDS.iter().filter(|kind| !kind.forward_only) {
        let world = World::of(kind.name).await;
        let id = world.queued(kind.name).await;
        let mut tx = world.store.begin().await.unwrap();
        operations::request_cancel(&mut tx, id).await.unwrap();
        tx.commit().await.unwrap();
        world.run_to_the_end(1).await;
        let operation = world.operation(id).await;
        assert_eq!(operation.state, OperationState::Undone, "{}", kind.name);
        assert!(world.nodes.seen.lock().unwrap().is_empty(), "{}", kind.name);
        assert_as_it_was(&world, kind, &operation, kind.name).await;
    }
}

/// What was to be made is gone; what was there is as it was, and the app says so.
async fn assert_as_it_was(world: &World, kind: &Kind, operation: &operations::OperationRow, context: &str) {
    let app = world.app("nginx-00000001").await.unwrap();
    match kind.name {
        "deploy" | "clone" | "adopt" => world.assert_ended(kind.name, operation, context).await,
        // Whether the port answers is looked at by reconciliation.
        "publish" => assert_eq!((app.status, app.status_reason), (Status::Running, None), "{context}"),
        "start" => {
            assert_eq!((app.status, app.status_reason), (Status::Stopped, None), "{context}");
            world.assert_ended(kind.name, operation, context).await;
        }
        _ => {
            assert_eq!((app.status, app.status_reason), (Status::Running, None), "{context}");
            world.assert_ended(kind.name, operation, context).await;
        }
    }
}
