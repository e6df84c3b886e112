//! Every kind of operation gets stuck, goes on again, and is abandoned.
#![allow(clippy::unwrap_used)]

use super::{Rescue, Wanted};
use crate::{
    clock::Clock,
    domain::{app_state::Status, operation_state::OperationState},
    operations::{
        KINDS,
        step::Kind,
        tests::{node::Wrong, world::World},
    },
    service::{Caller, Role, ServiceError},
    store::operations::OperationRow,
};
use proximity_protocol::{fault::FaultKind, ids::OperationId};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const APP: &str = "nginx-00000001";
const FOREVER: Wrong = Wrong::Fault(FaultKind::ToolFailed, u32::MAX);

fn operator() -> Caller {
    Caller {
        user_id: 4,
        username: "root".into(),
        role: Role::Operator,
        remote: None,
        request_id: None,
    }
}

/// As the command line has it: without an engine.
fn rescue(world: &World) -> Rescue {
    Rescue::new(world.store.clone(), Arc::new(world.clock.clone()), None)
}

/// The step that fails, and the undo that does, so that an operation of the kind gets stuck.
fn traps(kind: &Kind) -> Vec<(&'static str, bool)> {
    if kind.forward_only {
        return vec![(kind.steps[0].name, false)];
    }
    let last = kind.steps.last().unwrap().name;
    // What failed on the way up is taken back; of a restart only what was started then.
    let undo = kind.steps.iter().rev().find(|s| s.undo.is_some());
    undo.map(|undo| vec![(last, false), (undo.name, true)])
        .unwrap_or_default()
}

async fn stuck(kind: &'static Kind) -> (World, OperationId) {
    let world = World::of(kind.name).await;
    let id = world.queued(kind.name).await;
    for (step, undo) in traps(kind) {
        let wrong = if undo {
            FOREVER
        } else {
            Wrong::Half(FaultKind::ToolFailed, u32::MAX)
        };
        world.nodes.trap(step, undo, wrong);
    }
    world.run_to_the_end(1).await;
    let row = world.operation(id).await;
    assert_eq!(row.state, OperationState::Stuck, "{}: {row:?}", kind.name);
    (world, id)
}

fn can_be_stuck() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied().filter(|kind| !traps(kind).is_empty())
}

async fn audited(world: &World, action: &str) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM audit WHERE action = $1 AND actor = 'root' AND outcome = 'ok'")
        .bind(action)
        .fetch_one(&mut *world.store.read().await.unwrap())
        .await
        .unwrap()
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> String {
    match result {
        Err(ServiceError::Conflict(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stuck_goes_on_from_where_it_stood() {
    for kind in can_be_stuck() {
        let (world, id) = stuck(kind).await;
        let done_before = world.nodes.seen.lock().unwrap().len();
        // The operator has put right what stood in the way.
        world.nodes.traps.lock().unwrap().clear();
        rescue(&world).retry(&operator(), &id.to_string()).await.unwrap();
        assert_eq!(audited(&world, "operation.retry").await, 1);
        world.run_to_the_end(2).await;
        let row = world.operation(id).await;
        let expected = if kind.forward_only {
            OperationState::Done
        } else {
            OperationState::Undone
        };
        assert_eq!(row.state, expected, "{}: {row:?}", kind.name);
        assert!(row.action.is_none() && row.finished_at.is_some(), "{row:?}");
        world.assert_ended(kind.name, &row, kind.name).await;
        let first = world.nodes.seen.lock().unwrap()[done_before].step.clone();
        let (step, undo) = *traps(kind).last().unwrap();
        assert_eq!((first.name.as_str(), first.undo), (step, undo), "{}", kind.name);
        assert!(first.attempt > 1, "{}: under a new key", kind.name);
    }
}

/// A deadline counts from when it goes on: the janitor does not turn around at once what was stuck for days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_goes_on_after_days_has_all_its_time_anew() {
    let (world, id) = stuck(KINDS.iter().find(|k| k.forward_only).unwrap()).await;
    world.clock.advance(std::time::Duration::from_secs(7 * 86_400));
    rescue(&world).retry(&operator(), &id.to_string()).await.unwrap();
    let row = world.operation(id).await;
    assert!(
        !row.state.ended() && row.created_at < row.updated_at - 86_400_000,
        "{row:?}"
    );
    let mut conn = world.store.read().await.unwrap();
    let before = row.updated_at - 86_400_000;
    assert_eq!(
        crate::store::operations::begun_before(&mut conn, before).await.unwrap(),
        []
    );
    let later = crate::store::operations::begun_before(&mut conn, row.updated_at + 1)
        .await
        .unwrap();
    assert_eq!(later.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_stuck_again_is_told_again() {
    let (world, id) = stuck(KINDS.iter().find(|k| k.forward_only).unwrap()).await;
    rescue(&world).retry(&operator(), &id.to_string()).await.unwrap();
    assert_eq!(world.app(APP).await.unwrap().status, Status::Removing);
    world.run_to_the_end(2).await;
    let row = world.operation(id).await;
    assert_eq!(row.state, OperationState::Stuck);
    assert!(row.action.is_some());
    assert_eq!(world.app(APP).await.unwrap().status, Status::Error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_abandoned_keeps_its_reservations_and_says_what_is_left() {
    for kind in can_be_stuck() {
        let (world, id) = stuck(kind).await;
        let reserved = world.reservation_count().await;
        let abandoned = rescue(&world).abandon(&operator(), &id.to_string()).await.unwrap();
        let left = abandoned.left.join(" ");
        assert!(
            left.contains("VMID 100, port 8000, address 10.1.0.10 stay reserved") && left.contains(APP),
            "{}: {left}",
            kind.name
        );
        assert_eq!(abandoned.operation.state, OperationState::Stuck);
        assert_eq!(abandoned.operation.abandoned_by.as_deref(), Some("root"));
        assert_eq!(audited(&world, "operation.abandon").await, 1);
        assert_eq!(world.reservation_count().await, reserved, "{}", kind.name);
        let app = world.app(APP).await.unwrap();
        if kind.beside_app {
            // What it worked on says so.
            assert_eq!(
                (app.status, app.status_reason),
                (Status::Running, None),
                "{}",
                kind.name
            );
            let told = world.side().await.and_then(|side| side.note);
            let told = told.or(world.backup().await.0.and_then(|backup| backup.error_message));
            assert!(told.is_some_and(|why| why.contains("pve1")), "{}", kind.name);
        } else {
            assert_eq!(app.status, Status::Error);
            assert!(app.status_reason.unwrap().contains("was abandoned"));
        }
        assert!(refusal(rescue(&world).abandon(&operator(), &id.to_string()).await).contains("already"));
        let open = rescue(&world).list(&Wanted::default(), 10).await.unwrap();
        assert!(open.is_empty(), "{open:?}");

        // The app can be deleted as ever.
        world.nodes.traps.lock().unwrap().clear();
        let delete = world.delete(APP).await;
        world.run_to_the_end(2).await;
        let row = world.operation(delete).await;
        world.assert_ended(&row.kind, &row, kind.name).await;
    }
}

/// An engine waits for a node that never comes back, and somebody abandons the operation on the command line. When the node answers after all, nothing is
/// written to what has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_can_be_abandoned_beside_a_running_engine() {
    let world = World::new(1, true).await;
    let id = world.queued("stop").await;
    world.nodes.set_online(world.node(), false);
    let engine = world.engine(1);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (engine, stop) = (engine.clone(), stop.clone());
        async move { engine.run(stop).await }
    });
    let reaches = |wanted: fn(&OperationRow) -> bool| {
        let world = &world;
        async move {
            let reached = async {
                while !wanted(&world.operation(id).await) {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), reached)
                .await
                .expect("in time");
        }
    };
    reaches(|row| row.state == OperationState::Waiting).await;
    rescue(&world).abandon(&operator(), &id.to_string()).await.unwrap();
    world.nodes.set_online(world.node(), true);
    let delete = world.delete(APP).await;
    engine.wake();
    let deleted = async {
        while !world.operation(delete).await.state.ended() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), deleted)
        .await
        .expect("the lease is free");
    stop.cancel();
    running.await.unwrap();
    let row = world.operation(id).await;
    assert_eq!(
        (row.state, row.abandoned_by.as_deref()),
        (OperationState::Stuck, Some("root"))
    );
    assert_eq!(world.operation(delete).await.state, OperationState::Done);
    let seen = world.nodes.seen.lock().unwrap();
    assert!(
        seen.iter().all(|command| command.operation == delete),
        "nothing more of it was sent"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_do_harm_is_refused() {
    let delete = KINDS.iter().find(|k| k.forward_only).unwrap();
    let (world, id) = stuck(delete).await;
    let rescue = rescue(&world);
    let id = id.to_string();
    let user = Caller {
        role: Role::User,
        ..operator()
    };
    assert!(matches!(
        rescue.retry(&user, &id).await,
        Err(ServiceError::Forbidden(_))
    ));
    assert!(matches!(
        rescue.abandon(&user, &id).await,
        Err(ServiceError::Forbidden(_))
    ));
    assert!(matches!(
        rescue.retry(&operator(), "nothing").await,
        Err(ServiceError::NotFound(_))
    ));
    let unknown = OperationId(uuid::Uuid::from_u128(77)).to_string();
    assert!(matches!(
        rescue.abandon(&operator(), &unknown).await,
        Err(ServiceError::NotFound(_))
    ));

    // Another deletion has dealt with the app since.
    world.clock.advance(Duration::from_secs(1));
    let later = world.delete(APP).await;
    let why = refusal(rescue.retry(&operator(), &id).await);
    assert!(why.contains(&later.to_string()), "{why}");
    let why = refusal(rescue.abandon(&operator(), &later.to_string()).await);
    assert!(why.contains("is queued"), "{why}");
    world.nodes.traps.lock().unwrap().clear();
    world.run_to_the_end(2).await;
    let why = refusal(rescue.retry(&operator(), &id).await);
    assert!(why.contains("removed since"), "{why}");
    let why = refusal(rescue.abandon(&operator(), &later.to_string()).await);
    assert!(why.contains("has ended (done)"), "{why}");
    assert!(refusal(rescue.retry(&operator(), &later.to_string()).await).contains("only what is stuck"));
    assert!(world.clock.now_ms() > 0);
}
