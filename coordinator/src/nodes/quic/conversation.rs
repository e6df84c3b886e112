//! What is said on a link after Welcome: events and figures come in, notices go out. The first of them that ends ends the link.

use super::{
    accept::Door,
    admission,
    budget::Budget,
    connections::{Link, Received},
    frames::{self, FrameError},
};
use crate::service::enrolment::Asking;
use proximity_protocol::{
    close,
    codec::CodecError,
    event::{Event, Notice},
    ids::NodeId,
    metrics::{MetricsDecoder, MetricsFrame},
    session::CoordinatorSession,
};
use quinn::{RecvStream, SendStream};
use std::time::Duration;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// Events in a burst, and the time in which so many may come again.
const EVENTS_BURST: u32 = 500;
const EVENTS_REFILL: Duration = Duration::from_secs(60);
/// The same for figures: ten times the shortest interval that a Welcome may ask for.
const FIGURES_BURST: u32 = 1000;
const FIGURES_REFILL: Duration = Duration::from_secs(10);
/// Containers in one sample; Proxmox itself is far below.
const CONTAINERS_MAX: usize = 4096;
/// An agent that takes no notice for so long hangs.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);

/// How a link ended: code and words to hang up with.
pub(super) type Ended = (u32, String);

fn broke(error: FrameError) -> Ended {
    match error {
        FrameError::Codec(error) => (close::PROTOCOL, error.to_string()),
        FrameError::Stream(error) => (close::BYE, error),
    }
}

/// Runs until the end.
pub(super) async fn hold(
    door: &Door,
    node: NodeId,
    link: &Link,
    session: CoordinatorSession,
    (send, recv): (SendStream, RecvStream),
    waiting: mpsc::Receiver<Notice>,
    received: watch::Sender<Received>,
) -> Ended {
    tokio::select! {
        reason = link.connection.closed() => (close::BYE, reason.to_string()),
        ended = events(door, node, link, &session, recv, received) => ended,
        ended = figures(door, node, link, &session) => ended,
        ended = notices(link.greeting.version, send, waiting) => ended,
    }
}

async fn events(
    door: &Door,
    node: NodeId,
    link: &Link,
    session: &CoordinatorSession,
    mut recv: RecvStream,
    received: watch::Sender<Received>,
) -> Ended {
    let mut budget = Budget::new(EVENTS_BURST, EVENTS_REFILL);
    loop {
        let event = match frames::read::<Event>(&mut recv).await {
            Ok(Some(event)) => event,
            Ok(None) => return (close::BYE, "the agent ended the control stream".into()),
            // A later agent's event: the frame is whole, so the next one can be read.
            Err(FrameError::Codec(CodecError::Malformed(error))) if budget.take() => {
                tracing::warn!(node_id = %node, error, "an event of the agent's is not understood; if the agent is newer, update the coordinator");
                continue;
            }
            Err(error) => return broke(error),
        };
        if !budget.take() {
            return (close::PROTOCOL, format!("more than {EVENTS_BURST} events a minute"));
        }
        let event = match session.on_event(event) {
            Ok(event) => event,
            Err(violation) => return (violation.code, violation.message),
        };
        match event {
            Event::Facts(facts) => {
                if let Err(refusal) = admission::refresh(&door.deps, node, &facts).await {
                    return (refusal.code(), refusal.to_string());
                }
                received.send_modify(|count| count.facts += 1);
            }
            Event::Inventory(inventory) => {
                door.deps.inventories.put(node, door.deps.clock.now_ms(), *inventory);
                received.send_modify(|count| count.inventories += 1);
            }
            Event::PublishedRepaired { count } => {
                tracing::warn!(node_id = %node, count, "another tool had removed published ports; the agent has set them again");
            }
            Event::ContainerChanged { vmid } => {
                tracing::info!(node_id = %node, %vmid, "a container changed its state without us");
            }
            Event::Renew { csr_der } => {
                let asking = Asking {
                    remote: link.connection.remote_address().ip(),
                    follows: link.has_stored(&door.deps.pki.ca_pin()),
                };
                let answer = match door
                    .enrolment
                    .renew(node, &link.greeting.serial, &csr_der, asking)
                    .await
                {
                    Ok(grant) => {
                        tracing::info!(node_id = %node, not_after_unix_s = grant.not_after_unix_s, "the node's certificate is renewed");
                        Notice::Renewed(Box::new(grant))
                    }
                    Err(refusal) => {
                        tracing::warn!(node_id = %node, reason = ?refusal.reason, %refusal, "the node's certificate is not renewed");
                        Notice::NotRenewed(refusal)
                    }
                };
                if link.notices.send(answer).await.is_err() {
                    return (close::BYE, "the control stream has ended".into());
                }
            }
            Event::RootsStored { pins } => {
                if let Err(refusal) = admission::roots_stored(&door.deps, node, link, pins).await {
                    return (refusal.code(), refusal.to_string());
                }
            }
            Event::Stopping => tracing::info!(node_id = %node, "the agent stops"),
        }
    }
}

/// One stream of figures after the other; a new one starts with a whole sample.
async fn figures(door: &Door, node: NodeId, link: &Link, session: &CoordinatorSession) -> Ended {
    let mut budget = Budget::new(FIGURES_BURST, FIGURES_REFILL);
    loop {
        let mut stream = match link.connection.accept_uni().await {
            Ok(stream) => stream,
            Err(error) => return (close::BYE, error.to_string()),
        };
        if let Err(violation) = session.on_metrics() {
            return (violation.code, violation.message);
        }
        let mut decoder = MetricsDecoder::default();
        loop {
            match frames::read::<MetricsFrame>(&mut stream).await {
                Ok(Some(frame)) => {
                    if !budget.take() {
                        return (close::PROTOCOL, "figures come too often".into());
                    }
                    match decoder.decode(frame) {
                        Ok(sample) if sample.containers.len() <= CONTAINERS_MAX => {
                            door.deps.live.put(node, door.deps.clock.now_ms(), sample.clone());
                        }
                        Ok(_) => {
                            return (
                                close::PROTOCOL,
                                format!("figures of more than {CONTAINERS_MAX} containers"),
                            );
                        }
                        Err(error) => return (close::PROTOCOL, error.to_string()),
                    }
                }
                Ok(None) => break,
                // A later agent's figures.
                Err(FrameError::Codec(CodecError::Malformed(error))) if budget.take() => {
                    tracing::debug!(node_id = %node, error, "figures of the agent's are not understood; left out");
                }
                Err(error) => return broke(error),
            }
        }
    }
}

async fn notices(version: u16, mut send: SendStream, mut waiting: mpsc::Receiver<Notice>) -> Ended {
    while let Some(notice) = waiting.recv().await {
        match timeout(NOTICE_TIMEOUT, frames::write(&mut send, version, &notice)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return broke(error),
            Err(_) => return (close::PROTOCOL, "the agent does not read its control stream".into()),
        }
    }
    (close::BYE, "the coordinator stops".into())
}
