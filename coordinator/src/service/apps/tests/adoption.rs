//! Containers that somebody else made: found, taken over, let go.

use super::*;
use crate::{
    operations::tests::node::Container,
    store::{adopted_configurations, reservations},
};
use proximity_protocol::ids::Generation;
use std::net::Ipv4Addr;

fn operator() -> Caller {
    caller(4, "root", Role::Operator)
}

/// A container that nobody owns.
fn by_hand(world: &World, node: usize, vmid: u32, running: bool) {
    let address = Ipv4Addr::new(10, 1, 9, u8::try_from(vmid % 256).unwrap());
    let container = Container::new(None, running, Some(address));
    world
        .nodes
        .model(world.ids[node], |m| m.containers.insert(vmid, container));
}

fn adopt(vmid: u32) -> AdoptContainer {
    AdoptContainer {
        vmid,
        node_name: "pve1".into(),
        ..AdoptContainer::default()
    }
}

async fn adopted(world: &World, apps: &Apps, body: &AdoptContainer) -> AdoptAnswer {
    let answer = apps.adopt(&operator(), body).await.unwrap();
    world.settle(&apps.deps().engine).await;
    answer
}

async fn no_adoption(apps: &Apps, body: &AdoptContainer) -> (u16, String) {
    let error = apps.adopt(&operator(), body).await.unwrap_err();
    (status(&error), error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_tell_is_named_beside_what_others_told() {
    let world = World::new(3, false).await;
    let apps = apps(&world);
    assert_eq!(status(&apps.discover(&ada(), None).await.unwrap_err()), 403);
    assert_eq!(status(&apps.discover(&operator(), Some(77)).await.unwrap_err()), 404);
    assert_eq!(apps.discover(&operator(), None).await.unwrap(), Discovered::default());

    // Nothing was found where everybody told: nothing is there. Where somebody could not tell, that is the answer.
    world.nodes.set_online(world.ids[2], false);
    let error = apps.discover(&operator(), None).await.unwrap_err();
    assert_eq!(status(&error), 503);
    assert!(
        error.to_string().contains("pve3: its agent is not connected"),
        "{error}"
    );

    by_hand(&world, 0, 105, true);
    by_hand(&world, 1, 106, false);
    created(&apps, &ada(), &body(json!({"node": "pve1"}))).await;
    world.settle(&apps.deps().engine).await;
    let found = apps.discover(&operator(), Some(1)).await.unwrap();
    assert_eq!(
        found.incomplete,
        [("pve3".to_owned(), "its agent is not connected".to_owned())]
    );
    let shown: Vec<(u32, &str, &str)> = found
        .containers
        .iter()
        .map(|c| (c.vmid, c.node.as_str(), c.status))
        .collect();
    assert_eq!(shown, [(105, "pve1", "running"), (106, "pve2", "stopped")]);
    let running = &found.containers[0];
    assert_eq!(
        (running.listening_ports.as_deref(), running.suggested_type.as_str()),
        (Some(&[22, 8080][..]), "custom")
    );
    assert!(
        !running.adoptable
            && running
                .not_adoptable_because
                .as_ref()
                .unwrap()
                .contains("run there: allow")
    );
    assert_eq!(found.containers[1].listening_ports, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_is_adopted_published_and_forgotten_again() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    by_hand(&world, 0, 105, true);
    let (code, text) = no_adoption(&apps, &adopt(105)).await;
    assert!(code == 409 && text.contains("run there: allow"), "{text}");
    assert_eq!(world.reservation_count().await, 0);

    world.nodes.model(world.node(), |m| m.adopts.insert(105));
    let before = world.nodes.model(world.node(), |m| m.containers[&105].clone());
    let answer = adopted(&world, &apps, &adopt(105)).await;
    assert_eq!(
        (
            answer.vmid,
            answer.node.as_str(),
            answer.r#type.as_str(),
            answer.port_detection.as_str()
        ),
        (105, "pve1", "custom", "automatic")
    );
    assert_eq!(answer.message, "Adoption of container 105 started...");
    let view = apps.get(&operator(), &answer.id).await.unwrap();
    assert_eq!(
        (view.status, view.lxc_id, view.internal_port, view.adopted),
        (Status::Running, Some(105), 8080, true)
    );
    assert_eq!(
        (view.url.as_deref(), view.direct_url.as_deref()),
        (Some("http://192.0.2.1:8000"), Some("http://10.1.9.105:8080"))
    );
    assert_eq!(view.hostname, "by-hand");
    assert_eq!(view.adopted_configuration.unwrap().text, "hostname: by-hand\n");
    assert!(apps.discover(&operator(), None).await.unwrap().containers.is_empty());
    let (code, text) = no_adoption(&apps, &adopt(105)).await;
    assert!(
        code == 409 && text.contains("managed already: it is the app by-hand"),
        "{text}"
    );

    // It can be stopped and started like any other.
    for (action, expected) in [(Action::Stop, Status::Stopped), (Action::Start, Status::Running)] {
        apps.act(&operator(), &answer.id, action, Deletion::default())
            .await
            .unwrap();
        world.settle(&apps.deps().engine).await;
        assert_eq!(apps.get(&operator(), &answer.id).await.unwrap().status, expected);
    }

    let Acted::Plan(plan) = apps.delete(&operator(), &answer.id, TRIAL).await.unwrap() else {
        panic!()
    };
    assert!(
        plan.loses.iter().any(|l| l.starts_with("nothing of container 105")),
        "{plan:?}"
    );
    assert_eq!(
        plan.steps.iter().map(|s| s.name).collect::<Vec<_>>(),
        ["unpublish", "release", "others"]
    );
    let destroy = Deletion {
        destroy_container: Some(true),
        ..Deletion::default()
    };
    let error = apps.delete(&operator(), &answer.id, destroy).await.unwrap_err();
    assert!(
        status(&error) == 409 && error.to_string().contains("run there: allow"),
        "{error}"
    );
    world.nodes.set_online(world.node(), false);
    let error = apps.delete(&operator(), &answer.id, destroy).await.unwrap_err();
    assert_eq!(status(&error), 503, "{error}");
    world.nodes.set_online(world.node(), true);

    apps.delete(&operator(), &answer.id, Deletion::default()).await.unwrap();
    world.settle(&apps.deps().engine).await;
    assert_eq!(status(&apps.get(&operator(), &answer.id).await.unwrap_err()), 404);
    let (left, published) = world
        .nodes
        .model(world.node(), |m| (m.containers[&105].clone(), m.published.len()));
    assert_eq!((left, published), (before, 0), "it stays as it was");
    world.assert_nothing_stray("forgotten").await;
    assert_eq!(world.reservation_count().await, 0);
    let mut conn = world.store.read().await.unwrap();
    assert_eq!(
        adopted_configurations::of_app(&mut conn, &answer.id).await.unwrap(),
        None
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_container_is_destroyed_only_where_its_node_allows_that() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    by_hand(&world, 0, 105, true);
    world.nodes.model(world.node(), |m| {
        m.adopts.insert(105);
        m.destroys_adopted = true;
    });
    let answer = adopted(&world, &apps, &adopt(105)).await;
    let destroy = Deletion {
        destroy_container: Some(true),
        ..Deletion::default()
    };
    apps.delete(&operator(), &answer.id, destroy).await.unwrap();
    world.settle(&apps.deps().engine).await;
    assert!(
        world
            .nodes
            .model(world.node(), |m| m.containers.is_empty() && m.published.is_empty())
    );
    world.assert_nothing_stray("destroyed").await;

    // What was made for an app goes with it.
    let made = created(&apps, &ada(), &body(json!({}))).await;
    world.settle(&apps.deps().engine).await;
    let keep = Deletion {
        destroy_container: Some(false),
        ..Deletion::default()
    };
    assert_eq!(status(&apps.delete(&ada(), &made.id, keep).await.unwrap_err()), 409);
    apps.delete(&ada(), &made.id, destroy).await.unwrap();
    world.settle(&apps.deps().engine).await;
    assert!(world.nodes.model(world.node(), |m| m.containers.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_adopted_is_refused_with_the_reason_and_leaves_nothing() {
    let world = World::new(2, true).await;
    let apps = apps(&world);
    by_hand(&world, 0, 105, false);
    by_hand(&world, 0, 107, true);
    world.nodes.model(world.node(), |m| {
        m.adopts.extend([105, 106, 107, 108]);
        m.stranger_vmids.insert(106);
        let mut others = Container::new(None, true, None);
        others.owner = Some(proximity_protocol::ids::Owner {
            app: "other-0a1b2c3d".parse().unwrap(),
            generation: Generation(1),
        });
        m.containers.insert(108, others);
    });
    let with = |change: &dyn Fn(&mut AdoptContainer)| {
        let mut body = adopt(105);
        change(&mut body);
        body
    };
    for (body, code, words) in [
        (with(&|b| b.vmid = 7), 422, "vmid"),
        (with(&|b| b.port_to_expose = Some(0)), 422, "port_to_expose"),
        (
            with(&|b| b.suggested_type = Some("No Such".into())),
            422,
            "suggested_type",
        ),
        (with(&|b| b.node_name = "pve9".into()), 404, "no node"),
        (with(&|b| b.host_id = Some(9)), 404, "no host"),
        (with(&|b| b.vmid = 104), 404, "no container 104"),
        (with(&|b| b.vmid = 106), 409, "virtual machine"),
        (with(&|b| b.vmid = 108), 409, "managed already"),
        (adopt(105), 409, "port_to_expose"),
    ] {
        let (found, text) = no_adoption(&apps, &body).await;
        assert!(found == code && text.contains(words), "{body:?}: {found} {text}");
    }
    assert_eq!(status(&apps.adopt(&ada(), &adopt(105)).await.unwrap_err()), 403);
    world.nodes.set_online(world.node(), false);
    assert_eq!(no_adoption(&apps, &adopt(107)).await.0, 409);
    world.nodes.set_online(world.node(), true);
    assert_eq!(world.reservation_count().await, 0);

    // A standing container is adopted with the port that is said, and stays as it stands.
    let answer = adopted(&world, &apps, &with(&|b| b.port_to_expose = Some(9000))).await;
    assert_eq!(answer.port_detection, "manual:9000");
    let view = apps.get(&operator(), &answer.id).await.unwrap();
    assert_eq!((view.status, view.url), (Status::Stopped, None));
    // A second one of the same name gets a name beside it.
    let second = adopted(&world, &apps, &adopt(107)).await;
    assert_eq!(
        (answer.hostname.as_str(), second.hostname.as_str()),
        ("by-hand", "by-hand-107")
    );
    // A number that is reserved for a deployment is not taken from it.
    by_hand(&world, 0, 109, true);
    world.nodes.model(world.node(), |m| m.adopts.insert(109));
    let mut tx = world.store.begin().await.unwrap();
    reservations::take_vmid(&mut tx, 0, 1, 109, "nginx-0a0a0a0a", 1)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let (code, text) = no_adoption(&apps, &adopt(109)).await;
    assert!(code == 409 && text.contains("reserved"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_adoptions_of_one_container_at_once_are_one_app() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    by_hand(&world, 0, 105, true);
    world.nodes.model(world.node(), |m| m.adopts.insert(105));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let apps = apps.clone();
        tasks.spawn(async move { apps.adopt(&operator(), &adopt(105)).await });
    }
    let ended = tasks.join_all().await;
    assert_eq!(ended.iter().filter(|e| e.is_ok()).count(), 1);
    for error in ended.into_iter().filter_map(Result::err) {
        assert_eq!(status(&error), 409, "{error}");
    }
    world.settle(&apps.deps().engine).await;
    world.assert_nothing_stray("twenty adoptions").await;
}

/// Its address was never reserved, and while it stands still no node shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_of_an_adopted_app_that_is_stopped_is_not_given_to_another() {
    let world = World::new(1, true).await;
    let apps = apps(&world);
    let first = Ipv4Addr::new(10, 1, 0, 10);
    let container = Container::new(None, true, Some(first));
    world.nodes.model(world.node(), |m| {
        m.containers.insert(105, container);
        m.adopts.insert(105);
    });
    let answer = adopted(&world, &apps, &adopt(105)).await;
    apps.act(&operator(), &answer.id, Action::Stop, Deletion::default())
        .await
        .unwrap();
    world.settle(&apps.deps().engine).await;
    let mine = apps.get(&operator(), &answer.id).await.unwrap();
    assert_eq!((mine.status, mine.ip_address), (Status::Stopped, Some(first)));

    let other = created(&apps, &ada(), &body(json!({}))).await;
    let other = apps.get(&ada(), &other.id).await.unwrap();
    assert_ne!(other.ip_address, Some(first), "two would have it when it starts again");
}
