//! One agent's link, from its certificate to its end.
//!
//! 1. The registry is asked about the certificate before a stream is opened or read.
//! 2. Hello, the common version, whether another machine with the same identity has the place (`clones`), the machine's own name and installation against the
//!    registry.
//! 3. A place among the [`Connections`](super::Connections); then the registry once more: a revocation either finds the link in its place and closes it, or is found here.
//! 4. Welcome, and from then on events, notices, figures until one of them ends.

use super::{
    accept::{Door, Turn},
    admission::{self, Refusal},
    clones::{self, Seen},
    config,
    connections::{self, Greeting, Inquiry, Link, Look, NOTICES_WAITING, Received, Seat},
    conversation,
    frames::{self, FrameError},
    presence,
    seating::Claim,
};
use crate::store::{node_trust, nodes};
use proximity_protocol::{
    VERSION_MIN, close,
    event::Notice,
    fault::Fault,
    hello::{Hello, HelloReply, OpenJob, Welcome},
    ids::{NodeId, OperationId},
    renew, roots,
    session::CoordinatorSession,
};
use quinn::{Connection, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout, timeout_at},
};

/// How long a refusal may take to reach the agent before we hang up.
const FAREWELL: Duration = Duration::from_secs(2);
/// Above figures and commands.
const CONTROL_PRIORITY: i32 = 2;

/// Who came, by its certificate.
struct Own {
    node: NodeId,
    certificate: CertificateDer<'static>,
    serial: String,
    /// Of the node's place.
    known: Inquiry,
}

struct Greeted {
    send: SendStream,
    recv: RecvStream,
    hello: Hello,
    session: CoordinatorSession,
    version: u16,
}

pub(super) async fn serve(
    door: &Door,
    connection: Connection,
    certificate: CertificateDer<'static>,
    deadline: Instant,
    turn: Turn,
) {
    let remote = connection.remote_address();
    let node = match admission::of_certificate(&door.deps.store, &certificate).await {
        Ok(node) => node,
        Err(refusal) => {
            tracing::info!(%remote, reason = %refusal, "a certificate is not let in");
            connection.close(refusal.code().into(), refusal.to_string().as_bytes());
            return;
        }
    };
    let mut greeted = match timeout_at(deadline, greet(&connection)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(ended)) => {
            tracing::warn!(%remote, node_id = %node, reason = %ended.1, "the agent was not let in");
            connection.close(ended.0.into(), ended.1.as_bytes());
            return;
        }
        Err(_) => {
            tracing::debug!(%remote, node_id = %node, "no Hello in time");
            connection.close(close::PROTOCOL.into(), b"Hello did not come in time");
            return;
        }
    };
    // Before anything of it is written down: what a copy says of itself is not what the node is.
    let Some(known) = known(door, node, &connection, &greeted.hello, deadline).await else {
        return;
    };
    let serial = match admission::register(&door.deps, node, &certificate, &greeted.hello).await {
        Ok(serial) => serial,
        Err(Refusal::Machine(fault)) => {
            tracing::warn!(%remote, node_id = %node, %fault, "the agent was not let in");
            refuse(&connection, &mut greeted.send, VERSION_MIN, fault, close::PROTOCOL).await;
            return;
        }
        Err(refusal) => {
            connection.close(refusal.code().into(), refusal.to_string().as_bytes());
            return;
        }
    };
    let own = Own {
        node,
        certificate,
        serial,
        known,
    };
    occupy(door, connection, own, greeted, deadline, turn).await;
}

fn claim(hello: &Hello) -> Claim {
    Claim {
        boot: hello.boot,
        process: hello.process,
    }
}

/// What is known of the node's place; `None`: somebody else has it, and this one was sent away.
async fn known(
    door: &Door,
    node: NodeId,
    connection: &Connection,
    hello: &Hello,
    deadline: Instant,
) -> Option<Inquiry> {
    let remote = connection.remote_address();
    match timeout_at(deadline, clones::look(door, node, claim(hello))).await {
        Ok(Ok((Look::Free, known))) => Some(known),
        Ok(Ok((Look::Held(holder), known))) => {
            let seen = Seen {
                serves: holder.map(|link| link.connection.remote_address()),
                held: remote,
            };
            told(clones::hold(door, node, hello.boot, &known.trust, &seen).await, node);
            connection.close(close::CLONED.into(), clones::words(&seen).as_bytes());
            None
        }
        Ok(Ok((Look::Ask(_), _))) | Err(_) => {
            connection.close(close::BYE.into(), b"the node's place changes hands; try again");
            None
        }
        Ok(Err(error)) => {
            tracing::error!(%error, node_id = %node, "it could not be judged whether the node was cloned; it is not let in");
            connection.close(close::BYE.into(), Refusal::Store(error).to_string().as_bytes());
            None
        }
    }
}

/// Waits for Hello and agrees on a version. On an error: the code and words to hang up with.
async fn greet(connection: &Connection) -> Result<Greeted, (u32, String)> {
    let (mut send, mut recv) = connection
        .accept_bi()
        .await
        .map_err(|error| (close::BYE, error.to_string()))?;
    let hello = match frames::read::<Hello>(&mut recv).await {
        Ok(Some(hello)) => hello,
        Ok(None) => return Err((close::PROTOCOL, "the control stream ended before Hello".into())),
        Err(FrameError::Codec(error)) => {
            let violation = proximity_protocol::session::Violation::from(error);
            return Err((violation.code, violation.message));
        }
        Err(error) => return Err((close::BYE, error.to_string())),
    };
    let mut session = CoordinatorSession::default();
    match session.on_hello(&hello) {
        Ok(version) => {
            // An error means that the stream is gone, which the next write finds too.
            let _ = send.set_priority(CONTROL_PRIORITY);
            Ok(Greeted {
                send,
                recv,
                hello,
                session,
                version,
            })
        }
        Err(fault) => {
            let words = fault.message.clone();
            refuse(connection, &mut send, VERSION_MIN, fault, close::VERSION).await;
            Err((close::VERSION, words))
        }
    }
}

/// Says why, and hangs up when that has arrived.
async fn refuse(connection: &Connection, send: &mut SendStream, version: u16, fault: Fault, code: u32) {
    let words = fault.message.clone();
    let told = async {
        frames::write(send, version, &HelloReply::Refused(fault)).await?;
        let _ = send.finish();
        // Ends when the peer has all of it, or is gone.
        let _ = send.stopped().await;
        Ok::<_, FrameError>(())
    };
    if !matches!(timeout(FAREWELL, told).await, Ok(Ok(()))) {
        tracing::debug!("the refusal did not arrive");
    }
    connection.close(code.into(), words.as_bytes());
}

/// Takes the node's place and keeps it until the end.
async fn occupy(door: &Door, connection: Connection, own: Own, greeted: Greeted, deadline: Instant, turn: Turn) {
    let Greeted {
        mut send,
        recv,
        hello,
        mut session,
        version,
    } = greeted;
    let Own {
        node,
        certificate,
        serial,
        known,
    } = own;
    let (notices, waiting) = mpsc::channel(NOTICES_WAITING);
    let (received, receiver) = watch::channel(Received::default());
    let greeting = Greeting {
        claim: claim(&hello),
        version,
        serial,
        follows: names(&hello, roots::CAPABILITY),
    };
    let link = Arc::new(Link::new(connection, greeting, notices, receiver));
    match door.connections.seat(node, &link, &known) {
        Seat::Taken { replaced: None } => {}
        Seat::Taken { replaced: Some(old) } => {
            tracing::info!(node_id = %node, same_process = old.greeting.claim == link.greeting.claim, "a newer connection of the agent takes over");
            connections::replaced(&old);
        }
        Seat::Swapped { held } => {
            let seen = Seen {
                serves: Some(link.connection.remote_address()),
                held: held.connection.remote_address(),
            };
            told(
                clones::hold(door, node, held.greeting.claim.boot, &known.trust, &seen).await,
                node,
            );
            held.close(close::CLONED, &clones::words(&seen));
        }
        Seat::Lost => {
            link.close(close::BYE, "the node's place has changed hands; try again");
            return;
        }
    }
    if known.trust.boot != Some(hello.boot) {
        told(clones::seated(door, node, hello.boot).await, node);
    }
    let welcomed = async {
        admission::of_certificate(&door.deps.store, &certificate).await?;
        session
            .admit()
            .map_err(|violation| Refusal::Broken(violation.message))?;
        let welcome = Welcome {
            version,
            node,
            epoch: door.deps.epoch,
            coordinator_version: env!("CARGO_PKG_VERSION").into(),
            metrics_interval_ms: u32::try_from(door.limits.metrics_interval.as_millis()).unwrap_or(60_000),
            notices: first_notices(door, node, &link, &hello).await?,
        };
        config::widen(&link.connection);
        frames::write(&mut send, version, &HelloReply::Welcome(welcome))
            .await
            .map_err(|error| Refusal::Broken(error.to_string()))
    };
    let welcomed = timeout_at(deadline, welcomed)
        .await
        .unwrap_or_else(|_| Err(Refusal::Broken("Welcome could not be sent in time".into())));
    drop(turn);
    if let Err(refusal) = welcomed {
        tracing::info!(node_id = %node, reason = %refusal, "the agent was not let in");
        link.close(refusal.code(), &refusal.to_string());
        door.connections.leave(node, &link);
        return;
    }
    if hello.epoch > door.deps.epoch {
        told(presence::is_older(&door.deps, node, hello.epoch).await, node);
    }
    tracing::info!(node_id = %node, name = %hello.facts.node_name, version, agent = hello.agent_version, "the agent is connected");
    door.connections.open(node, &link);
    told(
        presence::changed(&door.deps, &door.connections, node, presence::Change::Online).await,
        node,
    );
    let ended = conversation::hold(door, node, &link, session, (send, recv), waiting, received).await;
    tracing::info!(node_id = %node, reason = ended.1, "the link has ended");
    link.close(ended.0, &ended.1);
    if door.connections.leave(node, &link) {
        door.deps.live.forget(node);
        // When the coordinator itself stops, it is not the nodes that go.
        if !door.stop.is_cancelled() {
            told(
                presence::changed(&door.deps, &door.connections, node, presence::Change::Offline).await,
                node,
            );
        }
    }
}

fn told(written: Result<(), crate::store::StoreError>, node: NodeId) {
    if let Err(error) = written {
        tracing::error!(%error, node_id = %node, "it was not written down what became of the node");
    }
}

async fn first_notices(door: &Door, node: NodeId, link: &Link, hello: &Hello) -> Result<Vec<Notice>, Refusal> {
    let mut notices = settled(door, node, &hello.open_jobs).await?;
    // An agent that does not name it could not read the notice, and with it its Welcome.
    if names(hello, renew::CAPABILITY) {
        notices.push(Notice::MayRenew);
    }
    if names(hello, roots::CAPABILITY) {
        notices.push(Notice::Roots(Box::new(door.deps.pki.told())));
        let trust = node_trust::get(&mut *door.deps.store.read().await?, node).await?;
        if trust.rekey_from.as_ref() == Some(&link.greeting.serial) {
            notices.push(Notice::RenewNow);
        }
    }
    Ok(notices)
}

fn names(hello: &Hello, capability: &str) -> bool {
    hello.capabilities.iter().any(|name| name == capability)
}

/// Jobs that the registry has settled, or never heard of, or whose operation has left the node: the agent may forget them.
async fn settled(door: &Door, node: NodeId, jobs: &[OpenJob]) -> Result<Vec<Notice>, Refusal> {
    let open: BTreeSet<OperationId> = jobs.iter().map(|job| job.operation).collect();
    if open.is_empty() {
        return Ok(Vec::new());
    }
    let open: Vec<OperationId> = open.into_iter().collect();
    let mut read = door.deps.store.read().await?;
    let settled = nodes::settled(&mut read, node, &open).await?;
    Ok(settled
        .into_iter()
        .map(|operation| Notice::Committed { operation, step: None })
        .collect())
}
