//! A node is emptied.

use super::*;
use crate::operations::tests::node::{Container, Wrong};
use proximity_protocol::{fault::FaultKind, ids::NodeId, observed::NodeFacts};

fn operator() -> Caller {
    caller(4, "root", Role::Operator)
}

/// Nodes of one cluster.
async fn cluster(nodes: u128) -> World {
    let world = World::new(nodes, true).await;
    let mut tx = world.store.begin().await.unwrap();
    for id in &world.ids {
        let (facts,): (String,) = sqlx::query_as("SELECT facts FROM nodes WHERE id = $1")
            .bind(id.to_string())
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let facts = NodeFacts {
            cluster: Some("lab".into()),
            ..serde_json::from_str(&facts).unwrap()
        };
        sqlx::query("UPDATE nodes SET facts = $1 WHERE id = $2")
            .bind(serde_json::to_string(&facts).unwrap())
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    world
}

async fn app(world: &World, apps: &Apps, hostname: &str) -> AppView {
    let view = created(apps, &ada(), &body(json!({"hostname": hostname, "node": "pve1"}))).await;
    world.settle(&apps.deps().engine).await;
    view
}

async fn drain(world: &World, apps: &Apps, node: NodeId) -> Vec<DrainedApp> {
    let mut tx = world.store.begin().await.unwrap();
    sqlx::query("UPDATE nodes SET admission = 'draining' WHERE id = $1")
        .bind(node.to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    apps.move_away(&operator(), &node.to_string()).await.unwrap()
}

fn of<'a>(drained: &'a [DrainedApp], hostname: &str) -> &'a DrainedApp {
    drained.iter().find(|app| app.hostname == hostname).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_go_goes_and_what_stays_says_why() {
    let world = cluster(3).await;
    let apps = apps(&world);
    let running = app(&world, &apps, "web-1").await;
    let standing = app(&world, &apps, "web-2").await;
    let under_ha = app(&world, &apps, "web-3").await;
    apps.act(&ada(), &standing.id, Action::Stop, Deletion::default())
        .await
        .unwrap();
    world.settle(&apps.deps().engine).await;
    let number = async |view: &AppView| {
        let view = apps.get(&ada(), &view.id).await.unwrap();
        view.lxc_id.unwrap()
    };
    let ha = number(&under_ha).await;
    world.nodes.model(world.node(), |m| {
        m.containers.get_mut(&ha).unwrap().ha = true;
        m.containers
            .insert(999, Container::new(None, true, Some([10, 1, 9, 9].into())));
        m.adopts.insert(999);
    });
    let body = AdoptContainer {
        vmid: 999,
        node_name: "pve1".into(),
        ..AdoptContainer::default()
    };
    apps.adopt(&operator(), &body).await.unwrap();
    world.settle(&apps.deps().engine).await;

    let drained = drain(&world, &apps, world.node()).await;
    assert_eq!(drained.len(), 4);
    for (hostname, status) in [("web-1", Status::Running), ("web-2", Status::Stopped)] {
        let app = of(&drained, hostname);
        assert!(
            app.can_move && app.because.is_none() && app.operation_id.is_some(),
            "{app:?}"
        );
        assert_eq!(app.status, status);
        assert!(["pve2", "pve3"].contains(&app.moves_to.as_deref().unwrap()), "{app:?}");
    }
    let why = |hostname: &str| of(&drained, hostname).because.clone().unwrap();
    assert!(
        why("web-3").contains(&format!("ha-manager migrate ct:{ha}")),
        "{drained:?}"
    );
    let adopted = drained
        .iter()
        .find(|app| app.because.as_ref().is_some_and(|why| why.contains("adopted")))
        .unwrap();
    assert!(!adopted.can_move && adopted.operation_id.is_none());

    // Asked again while they move: the same operations.
    let again = apps.move_away(&operator(), &world.node().to_string()).await.unwrap();
    assert_eq!(of(&again, "web-1").operation_id, of(&drained, "web-1").operation_id);
    assert!(of(&again, "web-1").can_move);
    world.settle(&apps.deps().engine).await;
    for (view, status) in [(&running, "running"), (&standing, "stopped")] {
        let now = apps.get(&ada(), &view.id).await.unwrap();
        assert_eq!(
            (now.node.as_str() == "pve1", now.status.to_string().as_str()),
            (false, status)
        );
    }
    let left = world
        .nodes
        .model(world.node(), |m| m.containers.keys().copied().collect::<BTreeSet<_>>());
    assert_eq!(left, BTreeSet::from([ha, 999]));
    let once_more = apps.move_away(&operator(), &world.node().to_string()).await.unwrap();
    assert!(once_more.len() == 2 && once_more.iter().all(|app| !app.can_move));
    world.assert_nothing_stray("drained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_cluster_keeps_its_apps_and_says_so() {
    let world = World::new(2, true).await;
    let apps = apps(&world);
    app(&world, &apps, "web-1").await;
    let drained = drain(&world, &apps, world.node()).await;
    let why = drained[0].because.as_ref().unwrap();
    assert!(!drained[0].can_move && why.contains("pve1 is in no cluster"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_answer_keeps_its_apps_and_says_so() {
    let world = cluster(2).await;
    let apps = apps(&world);
    let view = app(&world, &apps, "web-1").await;
    world.nodes.set_online(world.node(), false);
    let drained = drain(&world, &apps, world.node()).await;
    let why = drained[0].because.as_ref().unwrap();
    assert!(
        why.contains("its agent is not connected") && why.contains("drain again"),
        "{why}"
    );
    assert_eq!(apps.get(&ada(), &view.id).await.unwrap().status, Status::Running);
}

/// Where it cannot be brought up it does not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_does_not_come_up_there_comes_home() {
    let world = cluster(2).await;
    let apps = apps(&world);
    let view = app(&world, &apps, "web-1").await;
    world
        .nodes
        .trap("healthy", false, Wrong::Fault(FaultKind::Unhealthy, u32::MAX));
    let drained = drain(&world, &apps, world.node()).await;
    assert!(drained[0].can_move);
    world.settle(&apps.deps().engine).await;
    let now = apps.get(&ada(), &view.id).await.unwrap();
    assert_eq!((now.status, now.node.as_str()), (Status::Running, "pve1"));
    let serves = world.nodes.model(world.node(), |m| {
        (m.containers.values().all(|c| c.running), m.published.len())
    });
    assert_eq!(serves, (true, 1));
}
