//! Apps that the other kinds of operations made or left: adopted and forgotten ones, ones on the way between nodes, ones that wait for a restart.

use super::{clustered, reconciler, running};
use crate::{
    domain::{app_state::Status, operation_state::OperationState, settings::DriftPolicy, upkeep::Cause},
    operations::tests::world::World,
    reconcile::report::Report,
};

const APP: &str = "nginx-00000001";

async fn round(world: &World) -> Report {
    reconciler(world).round(Cause::Timer).await.unwrap()
}

async fn adopted() -> World {
    let world = World::new(1, true).await;
    let adopt = world.queued("adopt").await;
    // Its record may be there already: it is neither nobody's nor a stray.
    let report = round(&world).await;
    assert_eq!((report.findings.len(), report.strays.len()), (0, 0), "{report:?}");
    world.run_to_the_end(1).await;
    assert_eq!(world.operation(adopt).await.state, OperationState::Done);
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_container_is_the_apps_until_it_is_let_go_of() {
    let world = adopted().await;
    let report = round(&world).await;
    assert_eq!(
        (
            report.findings.len(),
            report.strays.len(),
            report.unknown_containers.len()
        ),
        (0, 0, 0),
        "{report:?}"
    );
    world.nodes.model(world.node(), |m| {
        m.containers.values_mut().for_each(|c| c.running = false)
    });
    assert_eq!(round(&world).await.findings[0].finding, "stands");
    assert_eq!(world.app(APP).await.unwrap().status, Status::Stopped);

    let forget = world.queue_again("forget", APP).await;
    world.run_to_the_end(2).await;
    assert_eq!(world.operation(forget).await.state, OperationState::Done);
    let report = round(&world).await;
    let unknown: Vec<u32> = report.unknown_containers.iter().map(|c| c.vmid).collect();
    assert_eq!(unknown, [100], "it can be adopted again");
    assert!(report.strays.is_empty() && report.findings.is_empty(), "{report:?}");
    assert!(world.nodes.model(world.node(), |m| m.containers.contains_key(&100)));
}

/// As any app is, if its policy says so; nothing else about it is changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_container_that_was_stopped_by_hand_is_started_where_that_is_wanted() {
    let world = adopted().await;
    world.set(|s| s.drift_policy = DriftPolicy::Correct).await;
    let before = world.nodes.model(world.node(), |m| m.containers[&100].clone());
    world.nodes.model(world.node(), |m| {
        m.containers.values_mut().for_each(|c| c.running = false)
    });
    let reconciler = reconciler(&world);
    reconciler.round(Cause::Timer).await.unwrap();
    world.settle(&reconciler.engine).await;
    assert_eq!(world.app(APP).await.unwrap().status, Status::Running);
    assert_eq!(world.nodes.model(world.node(), |m| m.containers[&100].clone()), before);
}

/// An operation is just moving it: wherever it is seen, or not, its operation knows better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_being_moved_is_left_to_its_operation() {
    let world = World::new(2, true).await;
    world.queued("migrate").await;
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE apps SET status = 'updating'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let before = world.app(APP).await;
    let (old, new) = (world.ids[0], world.ids[1]);
    for there in [true, false] {
        if there {
            world.nodes.move_container(100, old, new, "pve2");
        } else {
            world.nodes.model(new, |m| m.containers.clear());
        }
        let report = round(&world).await;
        assert_eq!(
            (report.findings.len(), report.strays.len(), report.freed.len()),
            (0, 0, 0),
            "{report:?}"
        );
        assert_eq!(world.app(APP).await, before);
    }
}

/// A start puts in force what waited for one, whoever starts it: by hand, or HA where it has moved it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_started_behind_our_back_waits_for_no_restart() {
    let waits = async |world: &World, status: &str| {
        let mut tx = world.store.begin().await.unwrap();
        sqlx::query("UPDATE apps SET status = $1, pending_restart = '[\"memory\"]'")
            .bind(status)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    };
    let world = running().await;
    waits(&world, "running").await;
    assert_eq!(round(&world).await.findings, [], "it waits, and that is no difference");
    assert_eq!(world.app(APP).await.unwrap().pending_restart, ["memory"]);
    waits(&world, "stopped").await;
    assert_eq!(round(&world).await.findings[0].finding, "runs");
    assert!(world.app(APP).await.unwrap().pending_restart.is_empty());

    let world = clustered().await;
    waits(&world, "running").await;
    world.nodes.move_container(100, world.ids[0], world.ids[1], "pve2");
    assert_eq!(round(&world).await.findings[0].finding, "arrived");
    assert!(world.app(APP).await.unwrap().pending_restart.is_empty());
}
