//! Every command of every kind, forward and back, fails, waits, is lost before and after the act, meets a node that goes away.

use super::{node::Wrong, world::World};
use crate::{
    domain::operation_state::OperationState,
    operations::{KINDS, step::Kind},
};
use proximity_protocol::fault::FaultKind;

/// The step whose failure makes the operation turn around so that `step` is taken back with a command.
fn turning(kind: &Kind, step: &str) -> &'static str {
    match (kind.name, step) {
        // What failed on the way down is brought up again; what failed on the way up is not.
        ("restart", "unpublish" | "stop") => "stop",
        _ => kind.steps.last().unwrap().name,
    }
}

const FOREVER: u32 = u32::MAX;

async fn run(
    kind: &'static Kind,
    traps: &[(&'static str, bool, Wrong)],
) -> (World, crate::store::operations::OperationRow, String) {
    let context = format!("{} with {traps:?}", kind.name);
    let world = World::of(kind.name).await;
    let id = world.queued(kind.name).await;
    for (step, undo, wrong) in traps {
        world.nodes.trap(step, *undo, *wrong);
    }
    world.run_to_the_end(1).await;
    for trap in world.nodes.traps.lock().unwrap().iter() {
        assert!(
            trap.sprung > 0,
            "{context}: {}{} was not reached",
            trap.step,
            if trap.undo { " undo" } else { "" }
        );
    }
    let operation = world.operation(id).await;
    world.assert_ended(kind.name, &operation, &context).await;
    assert!(
        world.nodes.model(world.node(), |m| m.made) <= 1,
        "{context}: made twice"
    );
    (world, operation, context)
}

const PASSING: &[Wrong] = &[
    Wrong::Fault(FaultKind::ToolFailed, 1),
    Wrong::Fault(FaultKind::InDoubt, 2),
    Wrong::Fault(FaultKind::Locked, 12),
    Wrong::Fault(FaultKind::NotQuorate, 3),
    Wrong::Half(FaultKind::InDoubt, 1),
    Wrong::Half(FaultKind::ToolFailed, 2),
    Wrong::Half(FaultKind::DeadlineExceeded, 1),
    Wrong::LoseAfter,
    Wrong::LoseBefore,
    Wrong::GoAway,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_trouble_each_kind_ends_done() {
    for kind in KINDS {
        let (_, operation, context) = run(kind, &[]).await;
        assert_eq!(operation.state, OperationState::Done, "{context}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_that_passes_changes_nothing() {
    for kind in KINDS {
        for step in kind.steps {
            for wrong in PASSING {
                let (world, operation, context) = run(kind, &[(step.name, false, *wrong)]).await;
                if matches!(wrong, Wrong::Fault(fault, _) | Wrong::Half(fault, _) if step.ends.contains(fault)) {
                    assert_eq!(operation.state, OperationState::Undone, "{context}");
                    continue;
                }
                assert_eq!(operation.state, OperationState::Done, "{context}");
                if matches!(wrong, Wrong::LoseAfter | Wrong::LoseBefore | Wrong::GoAway) {
                    world.assert_one_key_each(operation.id, &context).await;
                    let seen = world.nodes.seen.lock().unwrap();
                    let asked = seen.iter().filter(|c| c.step.name.as_str() == step.name).count();
                    assert_eq!(asked, 2, "{context}: asked again for the recorded result");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_that_stays_turns_around_or_is_told() {
    for kind in KINDS {
        for step in kind.steps {
            for wrong in [
                Wrong::Fault(FaultKind::ToolFailed, FOREVER),
                Wrong::Half(FaultKind::ToolFailed, FOREVER),
                Wrong::Fault(FaultKind::PolicyDenied, FOREVER),
                Wrong::Half(FaultKind::DiskFull, FOREVER),
                Wrong::Fault(FaultKind::InDoubt, FOREVER),
                Wrong::Half(FaultKind::InDoubt, FOREVER),
            ] {
                let (_, operation, context) = run(kind, &[(step.name, false, wrong)]).await;
                let expected = if kind.forward_only {
                    OperationState::Stuck
                } else {
                    OperationState::Undone
                };
                assert_eq!(operation.state, expected, "{context}");
                assert!(operation.reason.is_some_and(|r| r.contains(step.name)), "{context}");
            }
        }
    }
}

fn with_undo() -> impl Iterator<Item = (&'static Kind, &'static str)> {
    let all = KINDS.iter().filter(|k| !k.forward_only);
    all.flat_map(|kind| kind.steps.iter().filter(|s| s.undo.is_some()).map(|s| (*kind, s.name)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_on_the_way_back_that_passes_changes_nothing() {
    for (kind, step) in with_undo() {
        for wrong in PASSING.iter().copied().chain([Wrong::Fault(FaultKind::ToolFailed, 9)]) {
            let turn = (turning(kind, step), false, Wrong::Half(FaultKind::ToolFailed, FOREVER));
            let (_, operation, context) = run(kind, &[turn, (step, true, wrong)]).await;
            assert_eq!(operation.state, OperationState::Undone, "{context}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_cannot_be_done_is_stuck_and_a_deletion_frees_it() {
    for (kind, step) in with_undo() {
        let turn = (turning(kind, step), false, Wrong::Half(FaultKind::ToolFailed, FOREVER));
        let (world, operation, context) = run(
            kind,
            &[turn, (step, true, Wrong::Fault(FaultKind::ToolFailed, FOREVER))],
        )
        .await;
        assert_eq!(operation.state, OperationState::Stuck, "{context}");
        assert!(world.reservation_count().await > 0, "{context}: freed without proof");

        // The operator did as told; now the app is deleted.
        world.nodes.traps.lock().unwrap().clear();
        let delete = world.delete("nginx-00000001").await;
        world.run_to_the_end(2).await;
        let operation = world.operation(delete).await;
        world.assert_ended(&operation.kind, &operation, &context).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_already_is_no_trouble_on_the_way_out() {
    for delete in KINDS.iter().filter(|k| k.forward_only) {
        for gone in [FaultKind::ContainerMissing, FaultKind::NotOurs] {
            let world = World::new(1, true).await;
            let id = world.queued(delete.name).await;
            world.nodes.model(world.node(), |m| {
                m.containers.clear();
                m.published.clear();
                if gone == FaultKind::NotOurs {
                    m.stranger_vmids.insert(100);
                }
            });
            world.run_to_the_end(1).await;
            let operation = world.operation(id).await;
            assert_eq!(operation.state, OperationState::Done, "{} {gone:?}", delete.name);
            world.assert_ended(delete.name, &operation, "gone").await;
        }
    }
}

/// What is taken back goes to where it was, not to where the registry believed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_before_a_start_is_not_stopped_by_its_undo() {
    for ran in [true, false] {
        let world = World::new(1, true).await;
        let id = world.queued("start").await;
        world
            .nodes
            .model(world.node(), |m| m.containers.get_mut(&100).unwrap().running = ran);
        world
            .nodes
            .trap("publish", false, Wrong::Half(FaultKind::PolicyDenied, FOREVER));
        world.run_to_the_end(1).await;
        let operation = world.operation(id).await;
        assert_eq!(operation.state, OperationState::Undone, "{operation:?}");
        let (runs, published) = world
            .nodes
            .model(world.node(), |m| (m.containers[&100].running, m.published.len()));
        assert_eq!((runs, published), (ran, 0));
    }
}

/// The container is found missing before anything is changed, and the app says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_gone_is_told_before_anything_is_changed() {
    for kind in ["start", "stop", "restart"] {
        let world = World::new(1, true).await;
        let id = world.queued(kind).await;
        world.nodes.model(world.node(), |m| m.containers.clear());
        world.run_to_the_end(1).await;
        let operation = world.operation(id).await;
        assert_eq!(operation.state, OperationState::Undone, "{kind}: {operation:?}");
        let app = world.app("nginx-00000001").await.unwrap();
        assert_eq!(app.status, crate::domain::app_state::Status::Error, "{kind}");
        assert!(app.status_reason.unwrap().contains("does not exist any more"), "{kind}");
        assert_eq!(world.nodes.seen.lock().unwrap().len(), 1, "{kind}: only the look");
    }
}

/// A restart puts what waits into force, and the app stops saying that it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_wait_are_told_until_a_restart() {
    let world = World::new(1, true).await;
    let id = world.queued("configure").await;
    world.nodes.model(world.node(), |m| m.memory_waits = true);
    world.run_to_the_end(1).await;
    assert_eq!(world.operation(id).await.state, OperationState::Done);
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!(app.pending_restart, ["memory"]);
    for kind in ["start", "restart"] {
        let world = World::new(1, true).await;
        world.queued(kind).await;
        world.run_to_the_end(1).await;
        let app = world.app("nginx-00000001").await.unwrap();
        assert!(app.pending_restart.is_empty(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_reach_the_recipe_and_nothing_else() {
    let (world, operation, _) = run(KINDS[0], &[]).await;
    let recipe = world
        .nodes
        .model(world.node(), |m| m.containers[&100].recipe.clone().unwrap());
    let env: Vec<(&str, &str)> = recipe.env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
    assert_eq!(env, [("COLOR", "blue"), ("PASSWORD", "very secret")]);
    assert!(!format!("{operation:?}").contains("very secret"));
    let mut conn = world.store.read().await.unwrap();
    let events = crate::store::operations::events_after(&mut conn, None, None, 0, 10_000)
        .await
        .unwrap();
    assert!(!events.is_empty() && !serde_json::to_string(&events).unwrap().contains("very secret"));
    let (lines, _) = crate::store::deployment_logs::page(&mut conn, "nginx-00000001", 1000, 0)
        .await
        .unwrap();
    assert!(!lines.iter().any(|l| l.message.contains("very secret")));
    let created = "Creating container 100 on pve1: 1 core, 128 MiB, 2 GB on local";
    assert!(lines.iter().any(|l| l.message == created), "{lines:#?}");
}
