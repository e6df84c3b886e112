//! Findings against the fake node: written only when nothing has changed since.
#![allow(clippy::unwrap_used)]

mod adopted;
mod again;
mod janitor;
mod leftovers;
mod previous;
mod round;

use super::{Reconciler, report::Told, rounds::Rounds};
use crate::{
    clock::SystemClock,
    domain::{app_state::Status, operation_state::OperationState, upkeep::Cause},
    operations::tests::{
        node::Port,
        world::{World, app_row},
    },
    store::{apps, operations},
};
use proximity_protocol::{ids::Epoch, observed::Inventory};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

async fn running() -> World {
    let world = World::new(1, true).await;
    world.queued("deploy").await;
    world.run_to_the_end(1).await;
    assert_eq!(world.app("nginx-00000001").await.unwrap().status, Status::Running);
    world
}

fn rounds(world: &World) -> Rounds {
    Rounds::new(
        world.store.clone(),
        Arc::new(world.clock.clone()),
        Arc::default(),
        Arc::default(),
    )
}

/// How much a look at the first node writes.
async fn written(world: &World) -> usize {
    reconciler(world)
        .node(world.node(), Cause::Change)
        .await
        .unwrap()
        .written()
}

fn reconciler(world: &World) -> Reconciler {
    Reconciler {
        rounds: rounds(world),
        store: world.store.clone(),
        commands: Arc::new(Port(world.nodes.clone())),
        inventories: world.inventories.clone(),
        engine: world.engine(1),
        clock: Arc::new(world.clock.clone()),
        bus: world.bus.clone(),
        epoch: Epoch(1),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_agrees_changes_nothing() {
    let world = running().await;
    assert_eq!(written(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_container_makes_an_error_and_keeps_everything() {
    let world = running().await;
    world.nodes.model(world.node(), |m| m.containers.clear());
    assert_eq!(written(&world).await, 1);
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!(app.status, Status::Error);
    assert!(app.status_reason.unwrap().contains("no longer on pve1"));
    assert_eq!(world.reservation_count().await, 3);
    assert_eq!(written(&world).await, 0, "said once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_changes_nothing() {
    let world = running().await;
    world.nodes.model(world.node(), |m| m.containers.clear());
    world.nodes.set_online(world.node(), false);
    let report = reconciler(&world).look(world.node(), true).await.unwrap().unwrap();
    assert_eq!((report.nodes[0].told, report.written()), (Told::NotConnected, 0));
    assert_eq!(world.app("nginx-00000001").await.unwrap().status, Status::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_with_an_operation_under_way_is_left_alone() {
    let world = running().await;
    world.nodes.model(world.node(), |m| m.containers.clear());
    let before = world.app("nginx-00000001").await.unwrap();
    world.delete("nginx-00000001").await;
    assert_eq!(written(&world).await, 0);
    assert_ne!(world.app("nginx-00000001").await.unwrap().status, before.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_port_is_published_again() {
    let world = running().await;
    world.nodes.model(world.node(), |m| m.published.clear());
    let reconciler = reconciler(&world);
    assert_eq!(reconciler.node(world.node(), Cause::Change).await.unwrap().written(), 1);
    world.settle(&reconciler.engine).await;
    assert_eq!(world.nodes.model(world.node(), |m| m.published.len()), 1);
    let mut conn = world.store.read().await.unwrap();
    let latest = operations::latest_of(&mut conn, "nginx-00000001")
        .await
        .unwrap()
        .unwrap();
    let row = operations::by_id(&mut conn, latest).await.unwrap().unwrap();
    assert_eq!((row.kind.as_str(), row.state), ("publish", OperationState::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_and_starting_by_hand_is_reflected() {
    let world = running().await;
    let reconciler = reconciler(&world);
    world.nodes.model(world.node(), |m| {
        m.containers.values_mut().for_each(|c| c.running = false)
    });
    assert_eq!(reconciler.node(world.node(), Cause::Change).await.unwrap().written(), 1);
    assert_eq!(world.app("nginx-00000001").await.unwrap().status, Status::Stopped);
    world.nodes.model(world.node(), |m| {
        m.containers.values_mut().for_each(|c| c.running = true)
    });
    assert_eq!(reconciler.node(world.node(), Cause::Change).await.unwrap().written(), 1);
    assert_eq!(world.app("nginx-00000001").await.unwrap().status, Status::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_slow_to_answer_keeps_no_other_waiting() {
    let world = World::new(2, true).await;
    world.queued("deploy").await;
    world.run_to_the_end(1).await;
    let (other, slow) = (world.ids[0], world.ids[1]);
    let mut tx = world.store.begin().await.unwrap();
    let mut app = app_row("nginx-00000002", slow, Status::Running);
    app.vmid = Some(200);
    apps::insert(&mut tx, &app).await.unwrap();
    tx.commit().await.unwrap();
    world.nodes.model(slow, |m| m.hangs = true);
    world.nodes.model(other, |m| m.containers.clear());
    let reconciler = Reconciler {
        clock: Arc::new(SystemClock),
        ..reconciler(&world)
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (reconciler, stop) = (reconciler.clone(), stop.clone());
        async move { reconciler.run(stop).await }
    });
    let suspicious = Inventory {
        quorate: true,
        unreadable: vec![],
        containers: vec![],
        elsewhere: vec![],
        published: vec![],
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), async {
        while world.app("nginx-00000001").await.unwrap().status != Status::Error {
            world.inventories.put(slow, 0, suspicious.clone());
            world.inventories.put(other, 0, suspicious.clone());
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    seen.expect("the other node was reconciled");
    assert_eq!(world.app("nginx-00000002").await.unwrap().status, Status::Running);
}

async fn clustered() -> World {
    let world = World::new(2, true).await;
    world.queued("deploy").await;
    world.run_to_the_end(1).await;
    world
}

/// The old node is dead: only the new one tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_follows_its_container_and_its_port_is_published_there() {
    for dead in [false, true] {
        let world = clustered().await;
        let (old, new) = (world.ids[0], world.ids[1]);
        world.nodes.move_container(100, old, new, "pve2");
        let reconciler = reconciler(&world);
        if dead {
            world.nodes.set_online(old, false);
        }
        let asked = if dead { new } else { old };
        assert_eq!(
            reconciler.node(asked, Cause::Change).await.unwrap().written(),
            1,
            "dead: {dead}"
        );
        assert_eq!(world.app("nginx-00000001").await.unwrap().published, None);
        world.settle(&reconciler.engine).await;
        let app = world.app("nginx-00000001").await.unwrap();
        assert_eq!((app.node_id, app.status), (new, Status::Running));
        assert!(app.published.is_some());
        let addresses = world.nodes.model(new, |m| m.containers[&100].address);
        assert_eq!(app.ip_address, addresses, "kept");
        assert_eq!(world.nodes.model(new, |m| m.published.len()), 1);
        assert_eq!(
            reconciler.node(new, Cause::Change).await.unwrap().written(),
            0,
            "said once"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_quorum_moves_and_frees_nothing() {
    let world = clustered().await;
    let (old, new) = (world.ids[0], world.ids[1]);
    let reconciler = reconciler(&world);
    // Its list is of yesterday: the container is missing in it, and then it is elsewhere.
    world.nodes.model(old, |m| m.no_quorum = true);
    world.nodes.move_container(100, old, new, "pve2");
    world.nodes.set_online(new, false);
    assert_eq!(reconciler.node(old, Cause::Change).await.unwrap().written(), 0);
    world.nodes.model(old, |m| m.elsewhere.clear());
    assert_eq!(reconciler.node(old, Cause::Change).await.unwrap().written(), 0);
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!((app.node_id, app.status), (old, Status::Running));
    assert_eq!(world.reservation_count().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_node_without_an_agent_it_is_unknown_until_it_comes_back() {
    let world = clustered().await;
    let (old, new) = (world.ids[0], world.ids[1]);
    let reconciler = reconciler(&world);
    world.nodes.move_container(100, old, new, "pve9");
    // Nobody of ours has it.
    let container = world.nodes.model(new, |m| m.containers.remove(&100).unwrap());
    assert_eq!(reconciler.node(old, Cause::Change).await.unwrap().written(), 1);
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!((app.status, app.node_id, app.published), (Status::Unknown, old, None));
    assert!(app.status_reason.unwrap().contains("proximity-agent join"));
    assert_eq!(
        reconciler.node(old, Cause::Change).await.unwrap().written(),
        0,
        "said once"
    );
    world.nodes.model(new, |m| m.containers.insert(100, container));
    assert_eq!(reconciler.node(new, Cause::Change).await.unwrap().written(), 1);
    world.settle(&reconciler.engine).await;
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!((app.status, app.node_id), (Status::Running, new));
    assert!(app.published.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ha_has_moved_and_not_started_yet_is_stopped_until_it_runs() {
    let world = clustered().await;
    let (old, new) = (world.ids[0], world.ids[1]);
    let reconciler = reconciler(&world);
    world.nodes.move_container(100, old, new, "pve2");
    world
        .nodes
        .model(new, |m| m.containers.get_mut(&100).unwrap().running = false);
    assert_eq!(reconciler.node(old, Cause::Change).await.unwrap().written(), 1);
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!((app.status, app.node_id), (Status::Stopped, new));
    world
        .nodes
        .model(new, |m| m.containers.get_mut(&100).unwrap().running = true);
    assert_eq!(reconciler.node(new, Cause::Change).await.unwrap().written(), 1);
    world.settle(&reconciler.engine).await;
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!((app.status, app.published.is_some()), (Status::Running, true));
}
