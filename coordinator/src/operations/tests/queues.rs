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

/// So many apps of an owner on the first node, each with its deployment queued.
async fn many(world: &World, first: u16, count: u16, owner_id: i64) -> Vec<OperationId> {
    let mut tx = world.store.begin().await.unwrap();
    let mut queued = Vec::new();
    for n in first..first + count {
        let mut app = app_row(&format!("nginx-{n:08x}"), world.node(), Status::Deploying);
        let address = std::net::Ipv4Addr::new(10, 1, 1, u8::try_from(n).unwrap());
        (app.vmid, app.public_port, app.ip_address) = (Some(100 + u32::from(n)), Some(8000 + n), Some(address));
        app.owner_id = owner_id;
        apps::insert(&mut tx, &app).await.unwrap();
        let id = app.id.as_str();
        reservations::take_vmid(&mut tx, 0, 1, 100 + u32::from(n), id, 1)
            .await
            .unwrap();
        reservations::take_port(&mut tx, 0, 1, 8000 + n, id).await.unwrap();
        reservations::take_address(&mut tx, 0, 1, address, id).await.unwrap();
        let params = serde_json::to_value(deploy_params()).unwrap();
        let kind = kind("deploy").unwrap();
        queued.push(
            submit::queue(&mut tx, i64::from(n), kind, &app, params, &requester())
                .await
                .unwrap(),
        );
    }
    tx.commit().await.unwrap();
    queued
}

/// An engine at work.
struct AtWork {
    engine: crate::operations::Engine,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl AtWork {
    fn on(world: &World) -> Self {
        let (engine, stop) = (world.engine(1), CancellationToken::new());
        let running = tokio::spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            async move { engine.run(stop).await }
        });
        Self { engine, stop, running }
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    async fn cancel(&self, world: &World, id: OperationId) {
        let mut tx = world.store.begin().await.unwrap();
        assert!(operations::request_cancel(&mut tx, id).await.unwrap());
        tx.commit().await.unwrap();
        self.engine.kick(id);
    }
}

async fn reaches(world: &World, id: OperationId, wanted: OperationState) {
    let reached = async {
        while world.operation(id).await.state != wanted {
            tokio::task::yield_now().await;
        }
    };
    let within = tokio::time::timeout(Duration::from_secs(30), reached).await;
    assert!(within.is_ok(), "not {wanted}: {:?}", world.operation(id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installations_that_never_end_keep_nobody_waiting() {
    let world = World::new(1, true).await;
    world.nodes.model(world.node(), |m| m.waits_at = Some("install"));
    let endless = many(&world, 10, 12, 1).await;
    let work = AtWork::on(&world);
    let mut waiting = world.nodes.waiting.subscribe();
    tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count == 12))
        .await
        .expect("all of them install, though four commands at a time load a node")
        .unwrap();
    // There is room for another's deletion, and for one of the same owner.
    let delete = world.delete("nginx-0000000a").await;
    work.engine.wake();
    work.engine.kick(endless[0]);
    reaches(&world, delete, OperationState::Done).await;
    for id in &endless[1..] {
        work.cancel(&world, *id).await;
    }
    for id in &endless {
        reaches(&world, *id, OperationState::Undone).await;
    }
    work.end().await;
    let busiest = world.nodes.model(world.node(), |m| m.busiest);
    assert!((1..=4).contains(&busiest), "{busiest} at a time");
    world.assert_nothing_stray("endless").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_anothers_download_keeps_no_seat() {
    let world = World::new(1, true).await;
    world.nodes.model(world.node(), |m| m.waits_at = Some("template"));
    let queued = many(&world, 10, 8, 1).await;
    let work = AtWork::on(&world);
    let mut waiting = world.nodes.waiting.subscribe();
    tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count == 1))
        .await
        .expect("one downloads")
        .unwrap();
    let told = async {
        loop {
            let mut conn = world.store.read().await.unwrap();
            let mut reasons = Vec::new();
            for id in &queued {
                let row = operations::by_id(&mut conn, *id).await.unwrap().unwrap();
                reasons.extend(row.reason.filter(|_| row.state == OperationState::Waiting));
            }
            drop(conn);
            if reasons.len() == 7 {
                return reasons;
            }
            tokio::task::yield_now().await;
        }
    };
    let reasons = tokio::time::timeout(Duration::from_secs(30), told)
        .await
        .expect("the others say what they wait for");
    assert!(
        reasons[0].contains("template debian-12-standard on local"),
        "{reasons:?}"
    );
    // They hold nothing: each can be cancelled, and another app's operation goes on.
    let last = *queued.last().unwrap();
    work.cancel(&world, last).await;
    reaches(&world, last, OperationState::Undone).await;
    let first = queued.iter().copied();
    let mut left: Vec<OperationId> = first.filter(|id| *id != last).collect();
    world.nodes.model(world.node(), |m| m.waits_at = None);
    // The one that downloads is told that it need not, and the next finds nothing in its way.
    let mut conn = world.store.read().await.unwrap();
    let mut downloading = Vec::new();
    for id in &left {
        let row = operations::by_id(&mut conn, *id).await.unwrap().unwrap();
        if row.state != OperationState::Waiting {
            downloading.push(*id);
        }
    }
    drop(conn);
    assert_eq!(downloading.len(), 1);
    work.cancel(&world, downloading[0]).await;
    reaches(&world, downloading[0], OperationState::Undone).await;
    left.retain(|id| *id != downloading[0]);
    for id in left {
        reaches(&world, id, OperationState::Done).await;
    }
    work.end().await;
    world.assert_nothing_stray("downloads").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_tells_nothing_is_told() {
    let world = World::new(1, true).await;
    world.set(|s| (s.no_progress_alarm_s, s.no_answer_s) = (600, 0)).await;
    let id = world.queued("deploy").await;
    world.nodes.model(world.node(), |m| m.waits_at = Some("install"));
    let before = world.clock.now_ms();
    let mut events = world.bus.subscribe();
    let work = AtWork::on(&world);
    let told = async {
        loop {
            let event = events.recv().await.unwrap();
            if event.data["no_progress_since"].is_string() && event.data["step"] == "install" {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(Duration::from_secs(30), told)
        .await
        .expect("an alarm");
    assert!(
        event.data["message"]
            .as_str()
            .unwrap()
            .contains("has told nothing for 10 min"),
        "{event:?}"
    );
    let row = world.operation(id).await;
    assert_eq!(row.state, OperationState::Running, "it is waited for");
    assert!(row.quiet_since.unwrap() >= before);
    // Nothing was broken off. Cancelled, it turns around, and makes progress again.
    work.cancel(&world, id).await;
    reaches(&world, id, OperationState::Undone).await;
    work.end().await;
    let row = world.operation(id).await;
    assert_eq!(row.quiet_since, None);
    let mut conn = world.store.read().await.unwrap();
    let (lines, _) = crate::store::deployment_logs::page(&mut conn, "nginx-00000001", 1000, 0)
        .await
        .unwrap();
    let told = lines
        .iter()
        .filter(|line| line.step == "install" && line.message.contains("has told nothing for 10 min"))
        .count();
    assert_eq!(told, 1, "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_without_an_answer_is_sent_again_with_the_same_key() {
    let world = World::new(1, true).await;
    world.set(|s| (s.no_progress_alarm_s, s.no_answer_s) = (0, 7200)).await;
    let id = world.queued("deploy").await;
    world.nodes.model(world.node(), |m| m.waits_at = Some("install"));
    let work = AtWork::on(&world);
    let mut waiting = world.nodes.waiting.subscribe();
    tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count >= 3))
        .await
        .expect("it is asked again")
        .unwrap();
    work.cancel(&world, id).await;
    reaches(&world, id, OperationState::Undone).await;
    work.end().await;
    let seen = world.nodes.seen.lock().unwrap();
    let mut keys: Vec<_> = seen
        .iter()
        .filter(|c| c.step.name.as_str() == "install")
        .map(|c| &c.step)
        .collect();
    assert!(keys.len() >= 3);
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}");
}
