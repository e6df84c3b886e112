//! The bound of a node's queue.

use super::*;
use crate::operations::tests::node::Container;

/// A queue that is full takes no more, except for deletions; another node with room is taken instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_queue_has_a_bound() {
    let world = World::new(2, false).await;
    let apps = apps(&world);
    let view = created(&apps, &ada(), &body(json!({"node": "pve1"}))).await;
    world.settle(&apps.deps().engine).await;
    world.fill_queue(world.node(), 500).await;
    let (status, why) = refused(&apps, &ada(), &body(json!({"hostname": "web-2", "node": "pve1"}))).await;
    assert!(
        status == 503 && why.contains("pve1 has 500 operations queued"),
        "{status} {why}"
    );
    let more = serde_json::from_value(json!({"config": {"memory_mb": 512}})).unwrap();
    let container = Container::new(None, false, None);
    world.nodes.model(world.node(), |m| {
        m.containers.insert(105, container);
        m.adopts.insert(105);
    });
    let stranger = AdoptContainer {
        vmid: 105,
        node_name: "pve1".into(),
        port_to_expose: Some(80),
        ..AdoptContainer::default()
    };
    for error in [
        apps.act(&ada(), &view.id, Action::Stop, Deletion::default())
            .await
            .unwrap_err(),
        apps.change(&ada(), &view.id, &more).await.unwrap_err(),
        apps.adopt(&caller(4, "root", Role::Operator), &stranger)
            .await
            .unwrap_err(),
    ] {
        assert!(
            matches!(error, ServiceError::Unavailable { retry_after_s: 60, .. }),
            "{error}"
        );
    }
    assert_eq!(apps.get(&ada(), &view.id).await.unwrap().status, Status::Running);
    apps.delete(&ada(), &view.id, Deletion::default()).await.unwrap();
    let other = created(&apps, &ada(), &body(json!({"hostname": "web-3"}))).await;
    assert_eq!(other.node, "pve2");
}
