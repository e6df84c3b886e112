//! A node is thrown out while something is done there.

use super::{node::Wrong, world::World};
use crate::{
    domain::{operation_state::OperationState, placement::Admission},
    events::NewEvent,
    operations::KINDS,
    store::{self, nodes},
};
use proximity_protocol::{fault::FaultKind, ids::OperationId};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

async fn revoke(world: &World) {
    let node = world.node();
    let mut tx = world.store.begin().await.unwrap();
    nodes::set_admission(&mut tx, 0, node, Admission::Revoked)
        .await
        .unwrap();
    let event = NewEvent {
        kind: "node",
        app_id: None,
        operation_id: None,
        owner_id: None,
        data: serde_json::json!({"node_id": node, "change": "revoked"}),
    };
    let event = store::insert_event(&mut tx, 0, event).await.unwrap();
    tx.commit().await.unwrap();
    world.nodes.set_online(node, false);
    world.bus.publish(event);
}

async fn until(world: &World, id: OperationId, wanted: OperationState) {
    let mut events = world.bus.subscribe();
    let reached = tokio::time::timeout(Duration::from_secs(30), async {
        while world.operation(id).await.state != wanted {
            let _ = events.recv().await;
        }
    });
    if reached.await.is_err() {
        panic!("not {wanted:?}: {:#?}", world.operation(id).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_of_each_kind_ends_stuck_and_says_what_frees_it() {
    for kind in KINDS {
        // Waiting for somebody's lock, for the node itself, or in the middle of nothing.
        for offline in [false, true] {
            let world = World::of(kind.name).await;
            let id = world.queued(kind.name).await;
            for step in kind.steps {
                world
                    .nodes
                    .trap(step.name, false, Wrong::Fault(FaultKind::Locked, u32::MAX));
            }
            world.nodes.set_online(world.node(), !offline);
            let engine = world.engine(1);
            let stop = CancellationToken::new();
            let running = tokio::spawn({
                let (engine, stop) = (engine.clone(), stop.clone());
                async move { engine.run(stop).await }
            });
            until(&world, id, OperationState::Waiting).await;
            let reserved = world.reservation_count().await;
            revoke(&world).await;
            until(&world, id, OperationState::Stuck).await;
            stop.cancel();
            running.await.unwrap();
            let operation = world.operation(id).await;
            let context = format!("{} offline {offline}: {operation:#?}", kind.name);
            assert!(
                operation.reason.as_deref().unwrap().contains("was revoked"),
                "{context}"
            );
            let action = operation.action.as_deref().unwrap();
            assert!(action.contains("--take-over") && action.contains("then"), "{context}");
            assert_eq!(
                world.reservation_count().await,
                reserved,
                "freed without proof: {context}"
            );
        }
    }
}
