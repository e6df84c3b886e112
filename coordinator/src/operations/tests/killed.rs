//! The coordinator is killed at every await point of every kind: the future is polled so many times and then dropped. A new engine goes on from the rows.

use super::{node::Wrong, world::World};
use crate::{
    domain::operation_state::OperationState,
    operations::{KINDS, drive::Drive, step::Kind},
};
use proximity_protocol::{fault::FaultKind, ids::OperationId};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Polls an operation's task `polls` times and drops it; whether it came to its end before.
async fn killed_after(world: &World, id: OperationId, polls: u32) -> bool {
    let engine = world.engine(1);
    let kicked = tokio::sync::Notify::new();
    let mut drive = Drive::new(&engine, id, &kicked);
    let mut advance = pin!(drive.advance());
    let mut left = polls;
    poll_fn(move |cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match advance.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn at_every_await(kind: &'static Kind, fails: Option<&'static str>, stride: u32) {
    let mut polls = 1;
    let mut ends = 0;
    loop {
        let context = format!("{} failing at {fails:?}, killed after {polls} polls", kind.name);
        let world = World::of(kind.name).await;
        let id = world.queued(kind.name).await;
        if let Some(step) = fails {
            world
                .nodes
                .trap(step, false, Wrong::Half(FaultKind::DiskFull, u32::MAX));
        }
        let ended = killed_after(&world, id, polls).await;
        world.run_to_the_end(2).await;
        let operation = world.operation(id).await;
        let expected = match fails {
            None => OperationState::Done,
            Some(_) if kind.forward_only => OperationState::Stuck,
            Some(_) => OperationState::Undone,
        };
        assert_eq!(operation.state, expected, "{context}: {operation:?}");
        world.assert_ended(kind.name, &operation, &context).await;
        assert!(
            world.nodes.model(world.node(), |m| m.made) <= 1,
            "{context}: made twice"
        );
        if fails.is_none() {
            world.assert_one_key_each(id, &context).await;
        }
        // Retries are waited for by the engine, not by the bare task: there the task pauses.
        if ended {
            ends += 1;
            if ends == 2 {
                break;
            }
        }
        polls += stride;
    }
    assert!(polls > 20, "{} was hardly polled", kind.name);
}

/// Some of the points, so that the ordinary test run stays short; the ignored test takes each.
const STRIDE: u32 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_forward() {
    for kind in KINDS {
        at_every_await(kind, None, STRIDE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn going_back() {
    for kind in KINDS.iter().filter(|k| !k.forward_only) {
        at_every_await(kind, kind.steps.last().map(|s| s.name), STRIDE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long: every single await point; part of the nightly run"]
async fn at_each_single_point() {
    for kind in KINDS {
        at_every_await(kind, None, 1).await;
        if !kind.forward_only {
            at_every_await(kind, kind.steps.last().map(|s| s.name), 1).await;
        }
    }
}
