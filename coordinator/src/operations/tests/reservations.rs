//! Strangers hold what was reserved: another is chosen, a bounded number of times.

use super::{node::Wrong, world::World};
use crate::{domain::operation_state::OperationState, store::reservations};
use proximity_protocol::fault::FaultKind;
use std::net::Ipv4Addr;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_holds_is_replaced_and_not_offered_again() {
    let world = World::new(1, true).await;
    let id = world.queued("deploy").await;
    world.nodes.model(world.node(), |m| {
        m.stranger_vmids.extend([100, 101]);
        m.stranger_ports.insert(8000);
        m.stranger_addresses.insert(Ipv4Addr::new(10, 1, 0, 10));
    });
    world.run_to_the_end(1).await;
    let operation = world.operation(id).await;
    assert_eq!(operation.state, OperationState::Done, "{operation:?}");
    world.assert_ended("deploy", &operation, "strangers").await;
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!(
        (app.vmid, app.public_port, app.ip_address),
        (Some(102), Some(8001), Some(Ipv4Addr::new(10, 1, 0, 11)))
    );
    let mut conn = world.store.read().await.unwrap();
    let taken = reservations::taken_vmids(&mut conn, operation.updated_at, 1)
        .await
        .unwrap();
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), [100, 101, 102]);
    let later = operation.updated_at + reservations::REFUSED_FOR_MS + 1;
    let taken = reservations::taken_vmids(&mut conn, later, 1).await.unwrap();
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), [102]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vmid_that_is_taken_between_confirmation_and_create_is_replaced() {
    let world = World::new(1, true).await;
    let id = world.queued("deploy").await;
    world.nodes.trap("create", false, Wrong::Fault(FaultKind::VmidTaken, 1));
    world
        .nodes
        .trap("publish", false, Wrong::Fault(FaultKind::PortTaken, 1));
    world.run_to_the_end(1).await;
    let operation = world.operation(id).await;
    assert_eq!(operation.state, OperationState::Done, "{operation:?}");
    world.assert_ended("deploy", &operation, "late strangers").await;
    let app = world.app("nginx-00000001").await.unwrap();
    assert_eq!((app.vmid, app.public_port), (Some(101), Some(8001)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn choosing_has_a_bound() {
    let world = World::new(1, true).await;
    let id = world.queued("deploy").await;
    world
        .nodes
        .trap("reserve", false, Wrong::Fault(FaultKind::PortTaken, u32::MAX));
    world.run_to_the_end(1).await;
    let operation = world.operation(id).await;
    assert_eq!(operation.state, OperationState::Undone, "{operation:?}");
    world.assert_ended("deploy", &operation, "bound").await;
    assert_eq!(world.nodes.seen.lock().unwrap().len(), 11, "ten other choices");
}
