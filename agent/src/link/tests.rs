//! The link, against a coordinator that does what a test tells it.
#![allow(clippy::unwrap_used)]

mod renewal;
mod roots;

use super::{Link, NodeView, Repairs, status::StatusFile};
use crate::{
    facts::Pulse,
    identity::{
        self, JoinRequest,
        clock::{SharedClock, SystemClock},
        frames,
        keyring::Keyring,
    },
    jobs::{BoxFuture, JobResult, Steps, journal::Journal, machine::Jobs},
    tests::{self as rehearsal, Ca, accept, listen, read, server_config, within},
};
use proximity_protocol::{
    VERSION_MIN, close,
    command::{Command, Outcome, Progress, Reply, Verb},
    enroll::{EnrollReply, EnrollRequest},
    event::{Event, Notice},
    fault::{Fault, FaultKind},
    hello::{Hello, HelloReply, Welcome},
    ids::{BootId, Epoch, NodeId, OperationId, ProcessId, StepKey, StepName},
    metrics::{MetricsDecoder, MetricsFrame, NodeFigures, Sample},
    observed::{Inventory, NodeFacts},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use std::{path::Path, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

struct Node;

impl Steps for Node {
    fn execute<'a>(
        &'a self,
        _: &'a Command,
        progress: &'a mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'a, JobResult> {
        Box::pin(async {
            progress
                .send(Progress {
                    message: "works".into(),
                    percent: None,
                })
                .unwrap();
            Ok(Outcome::Done)
        })
    }
    fn forget(&self, _: OperationId) {}
}

impl NodeView for Node {
    fn facts(&self) -> BoxFuture<'_, Result<NodeFacts, Fault>> {
        Box::pin(async { Ok(rehearsal::facts()) })
    }
    fn inventory(&self) -> BoxFuture<'_, Inventory> {
        Box::pin(async {
            Inventory {
                quorate: true,
                unreadable: vec![],
                containers: vec![],
                elsewhere: vec![],
                published: vec![],
            }
        })
    }
    fn pulse(&self) -> BoxFuture<'_, Pulse> {
        Box::pin(async { Pulse::default() })
    }
    fn sampler(&self) -> Box<dyn FnMut() -> Sample + Send> {
        let mut figures = NodeFigures::default();
        Box::new(move || {
            figures.uptime_s += 1;
            Sample {
                node: figures.clone(),
                ..Default::default()
            }
        })
    }
}

/// An enrolled agent that runs, and the coordinator that it dials.
struct World {
    endpoint: Endpoint,
    node: NodeId,
    jobs: Jobs,
    repairs: Arc<Repairs>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    folder: tempfile::TempDir,
    ca: Ca,
}

async fn world() -> World {
    world_at(Arc::new(SystemClock)).await
}

async fn world_at(clock: SharedClock) -> World {
    let folder = tempfile::tempdir().unwrap();
    let (ca, node) = (Ca::new(), NodeId(Uuid::new_v4()));
    let endpoint = listen(&ca);
    enrol(folder.path(), &ca, node, &endpoint).await;
    let (repairs, shutdown) = (Arc::new(Repairs::default()), CancellationToken::new());
    let jobs = Jobs::resume(Journal::open(folder.path()).unwrap(), "ca".into(), Arc::new(Node)).unwrap();
    let link = Link {
        keys: Arc::new(Keyring::open(folder.path(), clock).unwrap().unwrap()),
        node: Arc::new(Node),
        jobs: jobs.clone(),
        boot: BootId(Uuid::from_u128(1)),
        process: ProcessId(Uuid::from_u128(2)),
        repairs: repairs.clone(),
        status: Arc::new(StatusFile::new(folder.path())),
        shutdown: shutdown.clone(),
    };
    let running = tokio::spawn(async move { link.run().await.unwrap() });
    World {
        endpoint,
        node,
        jobs,
        repairs,
        shutdown,
        running,
        folder,
        ca,
    }
}

async fn enrol(state_dir: &Path, ca: &Ca, node: NodeId, endpoint: &Endpoint) {
    let token = rehearsal::token(endpoint.local_addr().unwrap(), ca.pin());
    let request = JoinRequest {
        state_dir,
        token: &token,
        facts: rehearsal::facts(),
        take_over: false,
        replace: false,
    };
    let (joined, ()) = tokio::join!(identity::join(request), async {
        let connection = accept(endpoint).await;
        let (mut send, mut recv) = within(connection.accept_bi()).await.unwrap();
        let request: EnrollRequest = read(&mut recv).await;
        frames::write(&mut send, VERSION_MIN, &EnrollReply::Granted(ca.grant(node, &request)))
            .await
            .unwrap();
        send.finish().unwrap();
        within(connection.closed()).await;
    });
    joined.unwrap();
}

impl World {
    async fn hello(&self) -> (Connection, SendStream, RecvStream, Hello) {
        let connection = accept(&self.endpoint).await;
        assert!(connection.peer_identity().is_some(), "the agent shows its certificate");
        let (send, mut recv) = within(connection.accept_bi()).await.unwrap();
        let hello = read(&mut recv).await;
        (connection, send, recv, hello)
    }

    async fn welcome(&self, epoch: u64) -> (Connection, SendStream, RecvStream) {
        self.welcome_with(epoch, vec![]).await
    }

    async fn welcome_with(&self, epoch: u64, notices: Vec<Notice>) -> (Connection, SendStream, RecvStream) {
        let (connection, mut send, recv, _) = self.hello().await;
        let welcome = Welcome {
            version: 1,
            node: self.node,
            epoch: Epoch(epoch),
            coordinator_version: "0".into(),
            metrics_interval_ms: 100,
            notices,
        };
        frames::write(&mut send, 1, &HelloReply::Welcome(welcome))
            .await
            .unwrap();
        (connection, send, recv)
    }
}

fn look(epoch: u64, verb: Verb) -> Command {
    Command {
        operation: OperationId(Uuid::from_u128(7)),
        step: StepKey {
            name: StepName::new("act").unwrap(),
            undo: false,
            attempt: 1,
        },
        epoch: Epoch(epoch),
        verb,
    }
}

fn act(epoch: u64) -> Command {
    look(
        epoch,
        Verb::EnsureTemplate {
            storage: "local".parse().unwrap(),
            prefix: "debian-12".parse().unwrap(),
        },
    )
}

async fn ask(connection: &Connection, bytes: &[u8]) -> Vec<Reply> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let mut replies = vec![];
    while let Some(reply) = within(frames::read::<Reply>(&mut recv)).await.unwrap() {
        replies.push(reply);
    }
    replies
}

fn encoded(command: &Command) -> Vec<u8> {
    proximity_protocol::codec::encode(1, command).unwrap()
}

fn fault(replies: &[Reply]) -> FaultKind {
    match replies {
        [Reply::Finished(Err(fault))] => fault.kind,
        other => panic!("no refusal: {other:?}"),
    }
}

#[tokio::test]
async fn commands_events_and_figures_flow_after_welcome() {
    let world = world().await;
    let (connection, mut control, mut events) = world.welcome(3).await;

    let replies = ask(&connection, &encoded(&act(3))).await;
    let done = Reply::Finished(Ok(Outcome::Done));
    assert_eq!(replies.first(), Some(&Reply::Accepted));
    assert_eq!(replies.last(), Some(&done));
    assert!(
        matches!(&replies[1], Reply::Progress(progress) if progress.message == "works"),
        "{replies:?}"
    );
    assert_eq!(ask(&connection, &encoded(&act(3))).await, [done], "the recorded result");
    assert_eq!(fault(&ask(&connection, &encoded(&act(2))).await), FaultKind::OldEpoch);

    assert!(matches!(read(&mut events).await, Event::Inventory(_)));
    frames::write(&mut control, 1, &Notice::Refresh).await.unwrap();
    assert!(matches!(read(&mut events).await, Event::Facts(_)));
    assert!(matches!(read(&mut events).await, Event::Inventory(_)));
    world.repairs.add(2);
    assert_eq!(read::<Event>(&mut events).await, Event::PublishedRepaired { count: 2 });

    let mut figures = within(connection.accept_uni()).await.unwrap();
    let mut decoder = MetricsDecoder::default();
    for number in 1..=3 {
        let frame: MetricsFrame = read(&mut figures).await;
        assert_eq!(decoder.decode(frame).unwrap().node.uptime_s, number);
    }

    world.shutdown.cancel();
    assert_eq!(read::<Event>(&mut events).await, Event::Stopping);
    within(world.running).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_decoded_is_answered_and_the_link_stays() {
    let world = world().await;
    let (connection, _control, _events) = world.welcome(3).await;
    let good = encoded(&act(3));
    let mut unknown_verb = good.clone();
    // The verb's number is the first of the four bytes behind operation (8 + 16), step (8 + 3 + 1 + 4) and epoch (8).
    let at = good.len() - (8 + 5) - (8 + 9) - 4;
    assert_eq!(good[at..at + 4], 2u32.to_le_bytes(), "EnsureTemplate");
    unknown_verb[at] = 0xEE;
    let mut other_version = good.clone();
    other_version[1] = 99;
    let mut too_large = good.clone();
    too_large[4] = 0xFF;
    for bytes in [
        &unknown_verb[..],
        &other_version,
        &too_large,
        &good[..good.len() - 1],
        &good[..5],
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(fault(&ask(&connection, bytes).await), FaultKind::Malformed);
    }
    assert_eq!(ask(&connection, b"").await, []);
    assert_eq!(
        ask(&connection, &good).await.last(),
        Some(&Reply::Finished(Ok(Outcome::Done)))
    );
}

#[tokio::test]
async fn it_comes_back_with_its_open_jobs_and_drops_the_committed() {
    let world = world().await;
    let (connection, control, events) = world.welcome(3).await;
    ask(&connection, &encoded(&act(3))).await;
    connection.close(close::BYE.into(), b"restart");
    drop((control, events));

    let (connection, mut control, _events, hello) = world.hello().await;
    assert_eq!(hello.epoch, Epoch(3));
    assert_eq!(hello.process, ProcessId(Uuid::from_u128(2)));
    assert_eq!(hello.open_jobs.len(), 1);
    assert!(hello.open_jobs[0].finished);
    let notices = vec![Notice::Committed {
        operation: act(3).operation,
        step: Some(act(3).step),
    }];
    let welcome = Welcome {
        version: 1,
        node: world.node,
        epoch: Epoch(4),
        coordinator_version: "0".into(),
        metrics_interval_ms: 60_000,
        notices,
    };
    frames::write(&mut control, 1, &HelloReply::Welcome(welcome))
        .await
        .unwrap();
    ask(&connection, &encoded(&look(5, Verb::Inventory))).await;
    // The journal may have both on the disk before the notice has been carried out to its end.
    within(async {
        while !world.jobs.open_jobs().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    connection.close(close::BYE.into(), b"restart");
    let (_, _, _, hello) = world.hello().await;
    assert_eq!((hello.open_jobs, hello.epoch), (vec![], Epoch(5)));
}

#[tokio::test]
async fn a_refused_agent_says_why_in_its_status() {
    let world = world().await;
    let (_connection, mut control, mut events, _) = world.hello().await;
    let refused = HelloReply::Refused(Fault::new(FaultKind::PolicyDenied, "this node was removed"));
    frames::write(&mut control, 1, &refused).await.unwrap();
    assert!(within(frames::read::<Event>(&mut events)).await.is_err(), "it hangs up");
    within(async {
        loop {
            let status = super::status::Status::read(world.folder.path()).unwrap();
            if status
                .problem
                .is_some_and(|problem| problem.contains("this node was removed"))
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_coordinator_of_another_ca_gets_no_hello() {
    let world = world().await;
    let (connection, ..) = world.hello().await;
    world.endpoint.set_server_config(Some(server_config(&Ca::new())));
    connection.close(close::BYE.into(), b"");
    let refused = within(async { world.endpoint.accept().await.unwrap().await }).await;
    assert!(
        refused.is_err(),
        "the agent judges the certificate within the handshake"
    );
}
