//! What could not be written is looked at again: at once, or when the operation that was in the way has ended. No inventory comes for that: a node tells only
//! what has changed.

use super::{reconciler, running};
use crate::{
    clock::SystemClock,
    domain::{
        app_state::Status,
        operation_state::OperationState,
        settings::DriftPolicy,
        upkeep::{Cause, Round},
    },
    operations::tests::{
        node::{Wrong, inventory},
        world::World,
    },
    reconcile::{
        Reconciler,
        report::{Done, Report},
    },
    store::{operations, reports},
};
use proximity_protocol::{fault::FaultKind, observed::RunState};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const APP: &str = "nginx-00000001";

/// Reconciliation as it goes on by itself. Its hour does not pass here.
struct Going {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Going {
    /// Answers once it listens.
    async fn on(world: &World) -> Self {
        let reconciler = Reconciler {
            clock: Arc::new(SystemClock),
            ..reconciler(world)
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { reconciler.run(stop).await }
        });
        let going = Self { stop, task };
        // What comes from here on is heard: this report is of what came.
        let report = told(world, 1).await;
        assert_eq!(report.findings, []);
        going
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// The newest report, when there are so many.
async fn told(world: &World, count: i64) -> Report {
    tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let mut conn = world.store.read().await.unwrap();
            let (rows, total) = reports::page(&mut conn, Round::Reconcile, 1, 0).await.unwrap();
            drop(conn);
            if let Some(row) = rows.first().filter(|_| total >= count)
                && let Ok(report) = serde_json::from_value(row.report.clone())
            {
                return report;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a report")
}

async fn becomes(world: &World, status: Status) {
    let seen = tokio::time::timeout(Duration::from_secs(30), async {
        while world.app(APP).await.unwrap().status != status {
            tokio::task::yield_now().await;
        }
    });
    if seen.await.is_err() {
        panic!("the app is {} and not {status}", world.app(APP).await.unwrap().status);
    }
}

/// Asks for a round, so that the first thing that is told is known to be from after the beginning.
async fn ask(world: &World) {
    let mut tx = world.store.begin().await.unwrap();
    reports::ask(&mut tx, 1, Round::Reconcile, Cause::Request, Some("ada"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

fn stopped_by_hand(world: &World) {
    world.nodes.model(world.node(), |m| {
        m.containers.values_mut().for_each(|c| c.running = false)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_an_operation_kept_from_being_written_is_written_when_it_has_ended() {
    let world = running().await;
    ask(&world).await;
    let going = Going::on(&world).await;
    // The app is not on its way anywhere, and its lease is taken.
    let publish = world.queue_again("publish", APP).await;
    stopped_by_hand(&world);
    let now = world.nodes.model(world.node(), |m| inventory(m));
    world.inventories.put(world.node(), 0, now);
    let report = told(&world, 2).await;
    assert_eq!(
        (report.findings[0].finding.as_str(), report.findings[0].done),
        ("stands", Done::Left)
    );
    assert!(report.findings[0].message.contains("when that has ended"));
    let mut tx = world.store.begin().await.unwrap();
    operations::request_cancel(&mut tx, publish).await.unwrap();
    tx.commit().await.unwrap();
    world.run_to_the_end(2).await;
    assert_eq!(world.operation(publish).await.state, OperationState::Undone);
    becomes(&world, Status::Stopped).await;
    going.end().await;
}

/// The node told of the stop while the app was on its way, when it proves nothing: the operation itself may have stopped it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_told_while_an_operation_was_at_work_counts_when_it_has_ended() {
    let world = World::new(1, true).await;
    let change = world.queued("configure").await;
    ask(&world).await;
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE apps SET status = 'updating', published = '192.0.2.1'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let going = Going::on(&world).await;
    let mut told = world.nodes.model(world.node(), |m| inventory(m));
    told.containers[0].state = RunState::Stopped;
    world.inventories.put(world.node(), 0, told);
    world.nodes.trap("disk", false, Wrong::Stop);
    world.run_to_the_end(2).await;
    let ended = world.operation(change).await;
    assert_eq!(ended.state, OperationState::Done, "{ended:?}");
    becomes(&world, Status::Stopped).await;
    going.end().await;
}

/// The row changed between the look and the writing, and nobody tells of that: looked at again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_changed_under_a_round_is_looked_at_again_at_once() {
    let world = running().await;
    ask(&world).await;
    let going = Going::on(&world).await;
    stopped_by_hand(&world);
    // The survey waits until the row has changed.
    world.nodes.model(world.node(), |m| m.holds_inventory = true);
    let now = world.nodes.model(world.node(), |m| inventory(m));
    world.inventories.put(world.node(), 0, now);
    let mut waiting = world.nodes.waiting.subscribe();
    tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count > 0))
        .await
        .expect("the node is asked")
        .unwrap();
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE apps SET description = 'another', updated_at = updated_at + 1")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    world.nodes.model(world.node(), |m| m.holds_inventory = false);
    world.nodes.let_go.notify_waiters();
    becomes(&world, Status::Stopped).await;
    going.end().await;
}

/// What cannot be corrected is not tried again and again: the next round or the next change asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_correction_that_failed_is_no_reason_to_look_again() {
    let world = running().await;
    world.set(|s| s.drift_policy = DriftPolicy::Correct).await;
    stopped_by_hand(&world);
    let reconciler = reconciler(&world);
    reconciler.round(Cause::Timer).await.unwrap();
    let latest = operations::latest_of(&mut world.store.read().await.unwrap(), APP)
        .await
        .unwrap()
        .unwrap();
    world
        .nodes
        .trap("start", false, Wrong::Fault(FaultKind::Malformed, u32::MAX));
    world.settle(&reconciler.engine).await;
    let start = world.operation(latest).await;
    assert_eq!((start.kind.as_str(), start.state), ("start", OperationState::Undone));
    assert_eq!(reconciler.node_of(latest).await, None);
    let by_ada = world.queue_again("restart", APP).await;
    world.run_to_the_end(3).await;
    assert!(world.operation(by_ada).await.state.ended());
    assert_eq!(reconciler.node_of(by_ada).await, Some(world.node()));
}
