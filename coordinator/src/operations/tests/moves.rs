//! The container moves to another node of its cluster before each command of each kind: the operation follows and ends as if nothing had happened.

use super::{
    node::{Wrong, inventory},
    world::World,
};
use crate::{
    clock::Clock,
    domain::{app_state::Status, operation_state::OperationState},
    operations::{KINDS, step::Kind},
    store::{deployment_logs, nodes, operations::OperationRow},
};
use proximity_protocol::{fault::FaultKind, ids::OperationId};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const APP: &str = "nginx-00000001";

/// Steps before which there is a container of the app that can move.
fn movable(kind: &'static Kind) -> impl Iterator<Item = &'static str> {
    let before = ["reserve", "template", "create", "adopt"];
    // What is about an archive stays where that is.
    let archive = ["test", "delete", "others"];
    // A migration goes where the others are only pushed.
    let last = if kind.name == "migrate" { 4 } else { usize::MAX };
    kind.steps
        .iter()
        .take(last)
        .map(|step| step.name)
        .filter(move |name| !before.contains(name) && !archive.contains(name))
}

/// Runs an engine until the operation has ended, while the other node tells again and again what it has.
async fn run(world: &World, id: OperationId) -> OperationRow {
    let engine = world.engine(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let row = world.operation(id).await;
            if row.state.ended() {
                return row;
            }
            let told = world.nodes.model(world.ids[1], |m| inventory(m));
            world.inventories.put(world.ids[1], world.clock.now_ms(), told);
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    match ended {
        Ok(row) => row,
        Err(_) => panic!("not ended: {:#?}", world.operation(id).await),
    }
}

async fn assert_there(world: &World, kind: &Kind, ended: &OperationRow, context: &str) {
    let there = world.ids[1];
    assert_eq!(ended.node_id, Some(there), "{context}");
    world.assert_nothing_stray(context).await;
    assert_eq!(
        world
            .nodes
            .model(world.node(), |m| m.containers.len() + m.published.len()),
        0,
        "{context}"
    );
    let app = world.app(APP).await;
    let (container, published) = world
        .nodes
        .model(there, |m| (m.containers.get(&100).cloned(), m.published.len()));
    if kind.name == "delete" {
        assert!(app.is_none() && container.is_none() && published == 0, "{context}");
        return;
    }
    if kind.name == "forget" {
        let left = container.is_some_and(|c| c.owner.is_none() && c.running);
        assert!(app.is_none() && left && published == 0, "{context}");
        return;
    }
    let (app, container) = (app.unwrap(), container.unwrap());
    assert_eq!((app.node_id, app.ip_address), (there, container.address), "{context}");
    let runs = kind.name != "stop";
    // What works beside the app publishes nothing: reconciliation does.
    let serves = runs && !kind.beside_app;
    assert_eq!((container.running, published == 1), (runs, serves), "{context}");
    let status = if runs { Status::Running } else { Status::Stopped };
    assert_eq!((app.status, app.published.is_some()), (status, serves), "{context}");
}

/// A node may be away when an operation leaves it, and when that ends elsewhere nobody tells it: it would keep what it did for ever.
#[tokio::test]
async fn what_was_done_at_a_node_that_the_operation_has_left_may_be_forgotten_there() {
    let world = World::new(2, true).await;
    let id = world.queued("start").await;
    let mut conn = world.store.read().await.unwrap();
    for (node, forgotten) in [(world.ids[0], vec![]), (world.ids[1], vec![id])] {
        assert_eq!(nodes::settled(&mut conn, node, &[id]).await.unwrap(), forgotten);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_follows_a_container_that_moves_before_any_of_its_steps() {
    // Which of two containers has moved is not told: those wait until it is back.
    let beside = ["restore", "verify", "discard", "clone"];
    for kind in KINDS.iter().filter(|kind| !beside.contains(&kind.name)) {
        for step in movable(kind) {
            for dies in [false, true] {
                // To close a port nobody has to know where the container is.
                if step == "unpublish" && !dies {
                    continue;
                }
                let context = format!("{} before {step}, dead: {dies}", kind.name);
                let world = World::new(2, true).await;
                let id = world.queued(kind.name).await;
                world.nodes.trap(step, false, Wrong::Move(dies));
                let ended = run(&world, id).await;
                assert_eq!(ended.state, OperationState::Done, "{context}: {ended:#?}");
                assert_eq!(world.nodes.traps.lock().unwrap()[0].sprung, 1, "{context}");
                assert_there(&world, kind, &ended, &context).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_follows_too() {
    for dies in [false, true] {
        let world = World::new(2, true).await;
        let id = world.queued("deploy").await;
        world
            .nodes
            .trap("publish", false, Wrong::Fault(FaultKind::DiskFull, u32::MAX));
        world.nodes.trap("start", true, Wrong::Move(dies));
        let ended = run(&world, id).await;
        assert_eq!(ended.state, OperationState::Undone, "{ended:#?}");
        assert_eq!(ended.node_id, Some(world.ids[1]));
        for node in &world.ids {
            assert_eq!(world.nodes.model(*node, |m| m.containers.len()), 0);
        }
        assert_eq!(world.reservation_count().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_node_without_an_agent_it_waits_and_says_what_to_do() {
    let world = World::new(2, true).await;
    let id = world.queued("restart").await;
    let (here, there) = (world.ids[0], world.ids[1]);
    world.nodes.move_container(100, here, there, "pve9");
    let engine = world.engine(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let waits = async {
        loop {
            let row = world.operation(id).await;
            if row.state == OperationState::Waiting && row.reason.is_some() {
                return row;
            }
            tokio::task::yield_now().await;
        }
    };
    let row = tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap();
    let reason = row.reason.unwrap();
    assert!(
        reason.contains("node pve9") && reason.contains("proximity-agent join"),
        "{reason}"
    );
    // Many looks later it is said once, and no try is spent.
    let before = world.nodes.seen.lock().unwrap().len();
    while world.nodes.seen.lock().unwrap().len() < before + 40 {
        tokio::task::yield_now().await;
    }
    assert!(!world.operation(id).await.state.ended());
    // The operator brings it back.
    world.nodes.move_container(100, there, here, "pve1");
    while !world.operation(id).await.state.ended() {
        tokio::task::yield_now().await;
    }
    let ended = world.operation(id).await;
    assert_eq!((ended.state, ended.node_id), (OperationState::Done, Some(here)));
    stop.cancel();
    running.await.unwrap();
    let mut conn = world.store.read().await.unwrap();
    let (lines, _) = deployment_logs::page(&mut conn, APP, 1000, 0).await.unwrap();
    let told = lines.iter().filter(|line| line.message.contains("pve9")).count();
    assert_eq!(told, 1, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_in_the_middle_is_started_again_and_gone_on_with() {
    for (kind, step) in [
        ("deploy", "install"),
        ("deploy", "publish"),
        ("start", "healthy"),
        ("restart", "network"),
    ] {
        let world = World::new(1, true).await;
        let id = world.queued(kind).await;
        world.nodes.trap(step, false, Wrong::Stop);
        world.run_to_the_end(1).await;
        let ended = world.operation(id).await;
        assert_eq!(ended.state, OperationState::Done, "{kind} at {step}: {ended:#?}");
        world.assert_ended(kind, &ended, step).await;
        let seen = world.nodes.seen.lock().unwrap();
        let starts = seen.iter().filter(|c| c.step.name.as_str() == "start").count();
        assert_eq!(starts, 2, "{kind} at {step}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_again_and_again_is_taken_back() {
    let world = World::new(1, true).await;
    let id = world.queued("deploy").await;
    world
        .nodes
        .trap("install", false, Wrong::Fault(FaultKind::ContainerStopped, u32::MAX));
    world.run_to_the_end(1).await;
    let ended = world.operation(id).await;
    world.assert_ended("deploy", &ended, "stops").await;
    assert_eq!(ended.state, OperationState::Undone);
}
