//! Containers that a restore has replaced go when their time is over, and not before the new one has proven itself.

use super::reconciler;
use crate::{
    domain::{app_state::Status, upkeep::Cause},
    operations::tests::{
        node::Wrong,
        world::{SIDE, World},
    },
    store::apps,
};
use proximity_protocol::fault::FaultKind;
use std::time::Duration;

const APP: &str = "nginx-00000001";
const DAY: Duration = Duration::from_secs(24 * 3600 + 1);

/// An app that a restore has brought back just now.
async fn restored() -> World {
    let world = World::new(1, true).await;
    world.queued("restore").await;
    world.run_to_the_end(1).await;
    let app = world.app(APP).await.unwrap();
    assert_eq!((app.status, app.vmid), (Status::Running, Some(SIDE)));
    world
}

/// A round, and what it queued; whether the old one is still kept.
async fn is_kept(world: &World) -> bool {
    let reconciler = reconciler(world);
    reconciler.round(Cause::Timer).await.unwrap();
    world.settle(&reconciler.engine).await;
    world.assert_nothing_stray("after a round").await;
    world.side().await.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_one_goes_when_the_new_one_has_run_for_long_enough() {
    let world = restored().await;
    assert!(is_kept(&world).await, "it has just been replaced");
    world.clock.advance(DAY);
    assert!(!is_kept(&world).await);
    let left = world.nodes.model(world.node(), |m| m.containers.len());
    assert_eq!((left, world.app(APP).await.unwrap().status), (1, Status::Running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_new_one_does_not_run_or_is_not_healthy_the_old_one_is_kept() {
    let world = restored().await;
    world.clock.advance(DAY);
    world
        .nodes
        .trap("healthy", false, Wrong::Fault(FaultKind::PolicyDenied, 1));
    assert!(is_kept(&world).await, "it is not healthy");
    let side = world.side().await.unwrap();
    assert!(side.note.unwrap().contains("healthy"));
    assert!(is_kept(&world).await, "it is not tried again at once");

    let mut app = world.app(APP).await.unwrap();
    app.status = Status::Stopped;
    let mut tx = world.store.begin().await.unwrap();
    apps::update(&mut tx, crate::clock::Clock::now_ms(&world.clock), &app)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world
        .nodes
        .model(world.node(), |m| m.containers.get_mut(&SIDE).unwrap().running = false);
    world.nodes.model(world.node(), |m| m.published.clear());
    world.clock.advance(DAY);
    assert!(is_kept(&world).await, "it was stopped");
}
