//! What is overdue turns around, what is old is forgotten, and nothing that runs is written off.

use super::rounds;
use crate::{
    clock::Clock,
    domain::{
        app_state::Status,
        operation_state::OperationState,
        upkeep::{Cause, Round, RoundState},
    },
    operations::{KINDS, step::Kind, tests::world::World},
    reconcile::janitor::{Janitor, JanitorReport},
    store::{events, reports},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn janitor(world: &World, engine: crate::operations::Engine) -> Janitor {
    Janitor {
        store: world.store.clone(),
        engine,
        clock: Arc::new(world.clock.clone()),
        bus: world.bus.clone(),
        rounds: rounds(world),
    }
}

async fn run(world: &World) -> JanitorReport {
    janitor(world, world.engine(9)).round(Cause::Timer).await.unwrap()
}

async fn execute(world: &World, sql: &'static str) {
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query(sql).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn count(world: &World, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql)
        .fetch_one(&mut *world.store.read().await.unwrap())
        .await
        .unwrap()
}

/// An operation of that kind which never gets on from its last step, and which an engine drives.
struct Stalled {
    world: World,
    engine: crate::operations::Engine,
    id: proximity_protocol::ids::OperationId,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Stalled {
    async fn at_its_last_step(kind: &'static Kind) -> Self {
        let world = World::of(kind.name).await;
        let id = world.queued(kind.name).await;
        for node in &world.ids {
            world
                .nodes
                .model(*node, |m| m.waits_at = Some(kind.steps.last().unwrap().name));
        }
        let engine = world.engine(1);
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            async move { engine.run(stop).await }
        });
        let mut waiting = world.nodes.waiting.subscribe();
        tokio::time::timeout(Duration::from_secs(30), waiting.wait_for(|count| *count == 1))
            .await
            .unwrap_or_else(|_| panic!("{} has not reached its last step", kind.name))
            .unwrap();
        Self {
            world,
            engine,
            id,
            stop,
            running,
        }
    }

    async fn janitor(&self) -> JanitorReport {
        let janitor = janitor(&self.world, self.engine.clone());
        janitor.round(Cause::Timer).await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

/// Past its deadline each kind that has a way back is taken back by its own undo, and what was there before is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_overdue_is_taken_back_and_not_written_off() {
    for kind in KINDS.iter().filter(|kind| !kind.forward_only) {
        let stalled = Stalled::at_its_last_step(kind).await;
        let world = &stalled.world;
        assert_eq!(stalled.janitor().await.overdue, [], "{} has time", kind.name);
        assert!(!world.operation(stalled.id).await.state.ended());
        world.clock.advance(DAY + Duration::from_secs(1));
        let report = stalled.janitor().await;
        assert_eq!(report.overdue.len(), 1, "{}", kind.name);
        assert!(report.overdue[0].done.contains("asked to turn around"), "{report:?}");
        let ended = async {
            while !world.operation(stalled.id).await.state.ended() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended)
            .await
            .unwrap_or_else(|_| panic!("{} does not end", kind.name));
        let row = world.operation(stalled.id).await;
        assert_eq!(row.state, OperationState::Undone, "{}", kind.name);
        let app = world.app("nginx-00000001").await.unwrap();
        let made = matches!(kind.name, "deploy" | "clone" | "adopt");
        assert_eq!(app.status == Status::Error, made, "{}: {app:?}", kind.name);
        // Whether the port answers is looked at by reconciliation.
        if kind.name != "publish" {
            world.assert_ended(kind.name, &row, "overdue").await;
        }
        stalled.end().await;
    }
}

/// A deletion has no way back: it is only told, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_way_back_is_only_told() {
    for kind in KINDS.iter().filter(|kind| kind.forward_only) {
        let world = World::of(kind.name).await;
        let id = world.queued(kind.name).await;
        world.clock.advance(DAY * 2);
        let mut events = world.bus.subscribe();
        let report = run(&world).await;
        assert!(report.overdue[0].done.contains("no way back"), "{report:?}");
        assert_eq!(events.try_recv().unwrap().kind, "alarm");
        let row = world.operation(id).await;
        assert!(!row.cancel_requested && row.state == OperationState::Queued);
        world.run_to_the_end(2).await;
        assert_eq!(world.operation(id).await.state, OperationState::Done, "{}", kind.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_is_forgotten_and_what_is_needed_is_kept() {
    let world = World::new(1, true).await;
    world.set(|s| s.keep_events = 1000).await;
    let ended = world.queued("deploy").await;
    world.run_to_the_end(1).await;
    let now = world.clock.now_ms();
    let under_way = world.queue_again("stop", "nginx-00000001").await;
    // 5,000 events, of which the first belongs to what goes on.
    execute(
        &world,
        "INSERT INTO events (at, kind, operation_id, data) SELECT 0, 'operation', (SELECT id FROM operations WHERE kind = 'stop'), '{}'",
    )
    .await;
    execute(
        &world,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO events (at, kind, data) SELECT 0, 'app', '{}' FROM n",
    )
    .await;
    execute(
        &world,
        "INSERT INTO refused_choices (host_id, kind, value, at) VALUES (1, 'vmid', '100', 5)",
    )
    .await;
    execute(
        &world,
        "INSERT INTO sessions (id, user_id, created_at, expires_at, refresh_jti) VALUES ('old', 1, 0, 5, 'x'), ('new', 1, 0, 9000000000000, 'y')",
    )
    .await;
    execute(
        &world,
        "INSERT INTO join_tokens (id, secret_hash, created_by, created_at, expires_at) VALUES ('t', x'00', 'ada', 0, 5), ('u', x'00', 'ada', 0, 9000000000000)",
    )
    .await;
    let report = run(&world).await.forgotten;
    assert!(report.events >= 4000, "{report:?}");
    assert_eq!((report.refused_choices, report.sessions, report.join_tokens), (1, 1, 1));
    assert_eq!((report.operations, report.log_lines), (0, 0), "they are young");
    assert_eq!(
        count(&world, "SELECT COUNT(*) FROM events WHERE kind = 'app'").await,
        1000
    );
    assert_eq!(
        count(
            &world,
            "SELECT COUNT(*) FROM events WHERE operation_id = (SELECT id FROM operations WHERE kind = 'stop')"
        )
        .await,
        1,
        "its stream begins at the beginning"
    );
    let forgotten = events::any_forgotten_after(&mut world.store.read().await.unwrap(), 0).await;
    assert!(forgotten.unwrap(), "whoever resumes at the beginning is told");
    assert_eq!(
        (
            count(&world, "SELECT COUNT(*) FROM sessions").await,
            count(&world, "SELECT COUNT(*) FROM join_tokens").await
        ),
        (1, 1)
    );

    world.set(|s| s.keep_log_lines = 7).await;
    let report = run(&world).await.forgotten;
    assert!(report.log_lines > 0);
    assert_eq!(count(&world, "SELECT COUNT(*) FROM deployment_logs").await, 7);
    world.run_to_the_end(2).await;
    world.clock.advance(DAY * 91);
    assert!(world.clock.now_ms() > now);
    let report = run(&world).await.forgotten;
    assert_eq!(report.operations, 1, "the deployment, but not the latest of the app");
    assert!(report.log_lines > 5, "{report:?}");
    let left = count(&world, "SELECT COUNT(*) FROM operations").await;
    assert_eq!(left, 1);
    assert_eq!(world.operation(under_way).await.state, OperationState::Done);
    assert_eq!(
        count(
            &world,
            "SELECT COUNT(*) FROM operation_steps WHERE operation_id NOT IN (SELECT id FROM operations)"
        )
        .await,
        0
    );
    assert_ne!(ended, under_way);
    assert_eq!(
        run(&world).await.forgotten,
        crate::reconcile::janitor::Forgotten::default()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_at_the_start_when_due_and_when_asked() {
    let world = World::new(1, true).await;
    let (bell, stop) = (Arc::new(tokio::sync::Notify::new()), CancellationToken::new());
    let janitor = Janitor {
        clock: Arc::new(crate::clock::SystemClock),
        rounds: crate::reconcile::rounds::Rounds::new(
            world.store.clone(),
            Arc::new(crate::clock::SystemClock),
            Arc::default(),
            bell.clone(),
        ),
        ..janitor(&world, world.engine(1))
    };
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { janitor.run(stop).await }
    });
    let reports = async |wanted: i64| {
        let there = async {
            loop {
                let mut conn = world.store.read().await.unwrap();
                let (rows, total) = reports::page(&mut conn, Round::Janitor, 10, 0).await.unwrap();
                drop(conn);
                if total == wanted && rows.iter().all(|r| r.finished_at.is_some()) {
                    return rows;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), there)
            .await
            .expect("in time")
    };
    assert_eq!(reports(1).await[0].cause, Cause::Start);
    let mut tx = world.store.begin().await.unwrap();
    reports::ask(&mut tx, 1, Round::Janitor, Cause::Request, Some("ada"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    bell.notify_one();
    let rows = reports(2).await;
    assert_eq!(
        (rows[0].cause, rows[0].requested_by.as_deref()),
        (Cause::Request, Some("ada"))
    );
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn whoever_asked_for_a_run_that_breaks_off_is_told() {
    let world = World::new(1, false).await;
    execute(&world, "ALTER TABLE join_tokens RENAME TO not_there").await;
    let janitor = janitor(&world, world.engine(9));
    janitor.round(Cause::Request).await.unwrap_err();
    let mut conn = world.store.read().await.unwrap();
    let (found, _) = reports::page(&mut conn, Round::Janitor, 10, 0).await.unwrap();
    let states: Vec<RoundState> = found.iter().map(|report| report.state).collect();
    assert_eq!(states, [RoundState::Broken]);
}
