//! Links that hold, are replaced, and end.

use super::*;
use crate::nodes::{CommandError, NodeCommands};
use proximity_protocol::{
    close,
    command::{Outcome, Progress, Verb},
    event::{Event, Notice},
    fault::{Fault, FaultKind},
    hello::OpenJob,
    ids::{OperationId, StepKey, StepName},
    metrics::{MetricsEncoder, NodeFigures, Sample},
    observed::Inventory,
};
use tokio::sync::mpsc;

fn command() -> Command {
    Command {
        operation: OperationId(Uuid::from_u128(3)),
        step: StepKey {
            name: StepName::new("inventory").unwrap(),
            undo: false,
            attempt: 1,
        },
        epoch: Epoch(7),
        verb: Verb::Inventory,
    }
}

fn inventory() -> Inventory {
    Inventory {
        quorate: true,
        unreadable: Vec::new(),
        containers: Vec::new(),
        elsewhere: Vec::new(),
        published: Vec::new(),
    }
}

/// Sends a command in the background.
fn sent(
    world: &World,
    node: NodeId,
) -> (
    tokio::task::JoinHandle<Result<Outcome, CommandError>>,
    mpsc::UnboundedReceiver<Progress>,
) {
    let (progress, told) = mpsc::unbounded_channel();
    let connections = world.listener.connections();
    (
        tokio::spawn(async move { connections.execute(node, command(), progress).await }),
        told,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_goes_and_its_result_comes_back() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let (offline, _) = sent(&world, identity.node);
    assert_eq!(offline.await.unwrap(), Err(CommandError::Offline));
    let mut changes = world.listener.connections().changes();
    let agent = world.connect(&identity, 1, 1).await;
    assert_eq!(next_change(&mut changes).await, NodeChange::Online(identity.node));

    let (done, mut told) = sent(&world, identity.node);
    let (received, mut stream) = agent.command().await;
    assert_eq!(received, command());
    reply(&mut stream, Reply::Accepted).await;
    let line = Progress {
        message: "ä".repeat(600),
        percent: Some(5),
    };
    reply(&mut stream, Reply::Progress(line)).await;
    reply(&mut stream, Reply::Finished(Ok(Outcome::Done))).await;
    assert_eq!(soon("the result", done).await.unwrap(), Ok(Outcome::Done));
    assert_eq!(told.recv().await.unwrap().message.chars().count(), 500);

    let (faulty, _) = sent(&world, identity.node);
    let (_, mut stream) = agent.command().await;
    let fault = Fault::new(FaultKind::Locked, "vzdump holds the lock");
    reply(&mut stream, Reply::Finished(Err(fault.clone()))).await;
    assert_eq!(
        soon("the fault", faulty).await.unwrap(),
        Err(CommandError::Fault(fault))
    );

    // A stream that ends early, then a connection that does.
    let (lost, _) = sent(&world, identity.node);
    let (_, mut stream) = agent.command().await;
    reply(&mut stream, Reply::Accepted).await;
    stream.finish().unwrap();
    assert_eq!(soon("the loss", lost).await.unwrap(), Err(CommandError::Lost));
    let (lost, _) = sent(&world, identity.node);
    let (_, mut stream) = agent.command().await;
    reply(&mut stream, Reply::Accepted).await;
    agent.connection.close(close::BYE.into(), b"");
    assert_eq!(soon("the loss", lost).await.unwrap(), Err(CommandError::Lost));
    assert_eq!(next_change(&mut changes).await, NodeChange::Offline(identity.node));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_machine_takes_its_place_again_at_once() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let connections = world.listener.connections();
    let mut changes = connections.changes();
    let online = NodeChange::Online(identity.node);

    let first = world.connect(&identity, 1, 1).await;
    assert_eq!(next_change(&mut changes).await, online);
    let (lost, _) = sent(&world, identity.node);
    let _held = first.command().await;
    let second = world.connect(&identity, 1, 1).await;
    assert_eq!(first.close_code().await, u64::from(close::REPLACED));
    assert_eq!(soon("the loss", lost).await.unwrap(), Err(CommandError::Lost));
    assert_eq!(next_change(&mut changes).await, online);
    // Another run of the agent.
    let third = world.connect(&identity, 1, 2).await;
    assert_eq!(second.close_code().await, u64::from(close::REPLACED));
    assert_eq!(next_change(&mut changes).await, online);
    assert!(crate::nodes::NodeQueries::is_online(&*connections, identity.node));
    assert!(third.connection.close_reason().is_none());
    assert!(changes.try_recv().is_err(), "Offline was told while the node was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_inventories_and_figures_arrive() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let mut events = world.deps.bus.subscribe();
    let mut agent = world.connect(&identity, 1, 1).await;
    let connections = world.listener.connections();
    let told = soon("an event", events.recv()).await.unwrap();
    assert_eq!(
        (told.kind.as_str(), &told.data["change"]),
        ("node", &serde_json::json!("online"))
    );

    let asking = tokio::spawn({
        let connections = Arc::clone(&connections);
        async move { connections.refresh(identity.node).await }
    });
    let notice = soon("a notice", frames::read::<Notice>(&mut agent.notices))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(notice, Notice::Refresh);
    let mut fresh = facts("pve1", 1);
    fresh.cpu_count = 64;
    frames::write(&mut agent.control, 1, &Event::Facts(Box::new(fresh)))
        .await
        .unwrap();
    frames::write(&mut agent.control, 1, &Event::Inventory(Box::new(inventory())))
        .await
        .unwrap();
    assert_eq!(soon("fresh facts", asking).await.unwrap(), Ok(()));
    assert!(world.deps.inventories.get(identity.node).is_some());

    let mut figures = soon("a stream for figures", agent.connection.open_uni()).await.unwrap();
    let mut encoder = MetricsEncoder::default();
    for at_unix_ms in [1_000, 2_000] {
        let node = NodeFigures {
            cpu_ppm: 250_000,
            uptime_s: u64::try_from(at_unix_ms).unwrap(),
            ..NodeFigures::default()
        };
        let sample = Sample {
            at_unix_ms,
            node,
            ..Sample::default()
        };
        frames::write(&mut figures, 1, &encoder.encode(sample)).await.unwrap();
    }
    soon("figures", async {
        while world.deps.live.node(identity.node).is_none_or(|f| f.uptime_s != 2_000) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let view = world.nodes().get(&admin(), &identity.node.to_string()).await.unwrap();
    assert_eq!(
        (view.status, view.cpu_count, view.cpu_usage),
        ("online", Some(64), Some(0.25))
    );
    assert_eq!(view.agent_version.as_deref(), Some("0.1.0"));

    agent.connection.close(close::BYE.into(), b"");
    let told = soon("an event", events.recv()).await.unwrap();
    assert_eq!(told.data["change"], "offline");
    let view = world.nodes().get(&admin(), &identity.node.to_string()).await.unwrap();
    assert_eq!((view.status, view.cpu_usage), ("offline", None));
    assert!(
        world.deps.inventories.get(identity.node).is_some(),
        "what an offline node told stays known"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn welcome_settles_jobs_that_the_registry_does_not_know() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let operation = OperationId(Uuid::from_u128(77));
    let mut with_jobs = hello("pve1", 1, 1);
    for attempt in 1..=3 {
        with_jobs.open_jobs.push(OpenJob {
            operation,
            step: StepKey {
                attempt,
                ..command().step
            },
            finished: true,
        });
    }
    let agent = world
        .connect_saying(&identity, with_jobs)
        .await
        .unwrap_or_else(|_| panic!("refused"));
    assert_eq!(agent.welcome.notices, [Notice::Committed { operation, step: None }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_says_too_much_is_hung_up_on() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let mut agent = world.connect(&identity, 1, 1).await;
    let flood = async {
        while frames::write(&mut agent.control, 1, &Event::PublishedRepaired { count: 1 })
            .await
            .is_ok()
        {}
    };
    soon("the end of the flood", flood).await;
    assert_eq!(agent.close_code().await, u64::from(close::PROTOCOL));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_notice_at_once_that_the_coordinator_is_another_run() {
    let mut world = World::new().await;
    let identity = world.enrolled("pve1").await;
    // A run of its own, with its own threads: what ends with them says goodbye to nobody, as after kill -9.
    let run = tokio::runtime::Runtime::new().unwrap();
    world.listener = {
        let _inside = run.enter();
        Listener::bind("127.0.0.1:0".parse().unwrap(), world.deps.clone()).unwrap()
    };
    let address = world.address();
    let agent = world.connect(&identity, 1, 1).await;
    let World { folder, deps, listener } = world;
    drop(listener);
    run.shutdown_background();
    let pki = Pki::open(folder.path(), deps.clock.now_ms()).unwrap();
    let deps = Deps {
        pki,
        epoch: Epoch(8),
        ..deps
    };
    let again = soon("the port", async {
        loop {
            match Listener::bind(address, deps.clone()) {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let begun = std::time::Instant::now();
    let ended = soon("the reset", agent.connection.closed()).await;
    assert!(matches!(ended, ConnectionError::Reset), "{ended}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_says_goodbye_and_is_no_loss_of_nodes() {
    let world = World::new().await;
    let identity = world.enrolled("pve1").await;
    let agent = world.connect(&identity, 1, 1).await;
    soon("shutdown", world.listener.shutdown()).await;
    assert_eq!(agent.close_code().await, u64::from(close::BYE));
    let mut read = world.deps.store.read().await.unwrap();
    let row = store::nodes::get(&mut read, identity.node).await.unwrap().unwrap();
    assert!(row.last_seen.is_some());
    let (offline,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM events WHERE data LIKE '%offline%'")
        .fetch_one(&mut *read)
        .await
        .unwrap();
    assert_eq!(offline, 0);
}
