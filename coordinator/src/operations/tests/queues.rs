//! Many operations: the bound per node, one at a time per app, cancelling, a node that is away from the start.

use super::{
    node::Wrong,
    world::{World, app_row, deploy_params},
};
use crate::{
    clock::Clock,
    domain::{app_state::Status, operation_state::OperationState},
    operations::{
        kind,
        submit::{self, Requester},
    },
    store::{apps, operations, reservations},
};
use proximity_protocol::{fault::FaultKind, ids::OperationId};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn requester() -> Requester {
    Requester {
        name: "ada".into(),
        request_id: None,
    }
}

impl World {
    /// Queues the deletion of an app, as the service does.
    pub(crate) async fn delete(&self, app_id: &str) -> OperationId {
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await.unwrap();
        let mut app = apps::by_id(&mut tx, app_id).await.unwrap().unwrap();
        for other in operations::unfinished_of(&mut tx, app_id).await.unwrap() {
            operations::request_cancel(&mut tx, other.id).await.unwrap();
        }
        let params = serde_json::json!({ "previous": app.status });
        app.status = Status::Removing;
        apps::update(&mut tx, now, &app).await.unwrap();
        let kind = kind(if app.adopted { "forget" } else { "delete" }).unwrap();
        let id = submit::queue(&mut tx, now, kind, &app, params, &requester())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        id
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_carries_out_at_most_four_at_a_time() {
    let world = World::new(1, true).await;
    let mut tx = world.store.begin().await.unwrap();
    for n in 0..30_u16 {
        let mut app = app_row(&format!("nginx-{n:08x}"), world.node(), Status::Deploying);
        let address = std::net::Ipv4Addr::new(10, 1, 1, u8::try_from(n).unwrap() + 1);
        app.vmid = Some(100 + u32::from(n));
        app.public_port = Some(8000 + n);
        app.ip_address = Some(address);
        apps::insert(&mut tx, &app).await.unwrap();
        let id = app.id.as_str();
        reservations::take_vmid(&mut tx, 0, 1, 100 + u32::from(n), id, 1)
            .await
            .unwrap();
        reservations::take_port(&mut tx, 0, 1, 8000 + n, id).await.unwrap();
        reservations::take_address(&mut tx, 0, 1, address, id).await.unwrap();
        let params = serde_json::to_value(deploy_params()).unwrap();
        submit::queue(
            &mut tx,
            i64::from(n),
            kind("deploy").unwrap(),
            &app,
            params,
            &requester(),
        )
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    world.run_to_the_end(1).await;
    world.assert_nothing_stray("thirty").await;
    let (made, busiest) = world.nodes.model(world.node(), |m| (m.made, m.busiest));
    assert_eq!(made, 30);
    assert!((1..=4).contains(&busiest), "{busiest} at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_waits_for_the_deployment_and_turns_it_around() {
    let world = World::new(1, true).await;
    let deploy = world.queued("deploy").await;
    // Somebody holds a lock for a while: the deployment waits, and can be cancelled there.
    world
        .nodes
        .trap("install", false, Wrong::Fault(FaultKind::Locked, u32::MAX));
    let engine = world.engine(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let mut events = world.bus.subscribe();
    tokio::time::timeout(Duration::from_secs(30), async {
        while world.operation(deploy).await.state != OperationState::Waiting {
            let _ = events.recv().await;
        }
    })
    .await
    .expect("it waits");
    let delete = world.delete("nginx-00000001").await;
    engine.wake();
    engine.kick(deploy);
    tokio::time::timeout(Duration::from_secs(30), async {
        while world.operation(delete).await.state != OperationState::Done {
            let _ = events.recv().await;
        }
    })
    .await
    .expect("it is deleted");
    stop.cancel();
    running.await.unwrap();
    let operation = world.operation(deploy).await;
    assert_eq!(
        (operation.state, operation.reason.as_deref()),
        (OperationState::Undone, Some("cancelled"))
    );
    let operation = world.operation(delete).await;
    world
        .assert_ended("delete", &operation, "deleted while deploying")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_does_not_wait_until_an_installation_has_ended() {
    let world = World::new(1, true).await;
    let deploy = world.queued("deploy").await;
    world.nodes.model(world.node(), |m| m.waits_at = Some("install"));
    let engine = world.engine(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let mut events = world.bus.subscribe();
    let mut waiting = world.nodes.waiting.subscribe();
    tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count == 1))
        .await
        .expect("it installs")
        .unwrap();
    let delete = world.delete("nginx-00000001").await;
    engine.wake();
    engine.kick(deploy);
    tokio::time::timeout(Duration::from_secs(30), async {
        while world.operation(delete).await.state != OperationState::Done {
            let _ = events.recv().await;
        }
    })
    .await
    .expect("it is deleted");
    stop.cancel();
    running.await.unwrap();
    assert_eq!(world.operation(deploy).await.state, OperationState::Undone);
    let operation = world.operation(delete).await;
    world
        .assert_ended("delete", &operation, "deleted while installing")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_away_is_waited_for_without_spending_a_try() {
    let world = World::new(1, true).await;
    let id = world.queued("start").await;
    world.nodes.set_online(world.node(), false);
    let engine = world.engine(1);
    let mut events = world.bus.subscribe();
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let state = |wanted| {
        let world = &world;
        async move {
            let mut events = world.bus.subscribe();
            tokio::time::timeout(Duration::from_secs(30), async {
                while world.operation(id).await.state != wanted {
                    let _ = events.recv().await;
                }
            })
            .await
            .unwrap_or_else(|_| panic!("not {wanted}"));
        }
    };
    state(OperationState::Waiting).await;
    assert_eq!(
        world.operation(id).await.reason.as_deref(),
        Some("pve1 is not connected")
    );
    assert!(world.nodes.seen.lock().unwrap().is_empty());
    world.nodes.set_online(world.node(), true);
    state(OperationState::Done).await;
    stop.cancel();
    running.await.unwrap();
    let mut conn = world.store.read().await.unwrap();
    let steps = operations::steps(&mut conn, id).await.unwrap();
    assert!(steps.iter().all(|s| s.tries == 0), "{steps:#?}");
    assert!(events.try_recv().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_parks_and_the_next_run_goes_on() {
    let world = World::new(1, true).await;
    let id = world.queued("deploy").await;
    world.nodes.set_online(world.node(), false);
    let stop = CancellationToken::new();
    stop.cancel();
    world.engine(1).run(stop).await;
    assert!(!world.operation(id).await.state.ended());
    world.nodes.set_online(world.node(), true);
    world.run_to_the_end(2).await;
    let operation = world.operation(id).await;
    world.assert_ended("deploy", &operation, "parked").await;
    let seen = world.nodes.seen.lock().unwrap();
    assert!(seen.iter().all(|c| c.epoch.0 == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_waited_for_is_said_once() {
    let world = World::new(1, true).await;
    let id = world.queued("stop").await;
    world.nodes.trap("stop", false, Wrong::Fault(FaultKind::Locked, 20));
    world.run_to_the_end(1).await;
    assert_eq!(world.operation(id).await.state, OperationState::Done);
    let mut conn = world.store.read().await.unwrap();
    let (lines, _) = crate::store::deployment_logs::page(&mut conn, "nginx-00000001", 1000, 0)
        .await
        .unwrap();
    let told = lines.iter().filter(|l| l.message == "the trap says Locked").count();
    assert_eq!(told, 1, "{lines:#?}");
}

/// The node tells that its guests have changed: the lock is perhaps gone, and nobody waits for the next look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_waited_for_is_looked_at_when_the_node_tells_something() {
    let world = World::new(1, true).await;
    let id = world.queued("stop").await;
    world.nodes.trap("stop", false, Wrong::Fault(FaultKind::Locked, 1));
    // A clock that never comes to the next look.
    let engine = world.engine_at(1, std::sync::Arc::new(crate::clock::SystemClock));
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let ended = tokio::time::timeout(Duration::from_secs(10), async {
        while world.operation(id).await.state != OperationState::Done {
            let told = world.nodes.model(world.node(), |m| super::node::inventory(m));
            world.inventories.put(world.node(), 0, told);
            tokio::task::yield_now().await;
        }
    })
    .await;
    stop.cancel();
    running.await.unwrap();
    ended.expect("sooner than the 15 s of the next look");
}
