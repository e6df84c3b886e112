//! One connection, from Hello to its end.

use super::{Link, LinkError, command, figures, follow, renewal, report, status::LinkState};
use crate::identity::{dial::Dialled, frames};
use proximity_protocol::{
    VERSION_MIN, close,
    event::{Event, Notice},
    fault::Fault,
    hello::{Hello, HelloReply, VersionRange, Welcome},
    observed::NodeFacts,
    renew,
    roots::{self, Roots},
    session::{AgentSession, Answer, Violation},
};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use std::{fmt, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

const WELCOME_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last words may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);
/// Priority of the control stream; that of commands is below, that of figures lowest.
const CONTROL_PRIORITY: i32 = 2;
const EVENTS_WAITING_MAX: usize = 64;
/// Open jobs that Hello names, so that it fits its frame.
const OPEN_JOBS_MAX: usize = 5_000;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The agent stops.
    Stopped,
    /// There is a new certificate to connect with.
    Renewed,
    /// The coordinator let us not in.
    Refused(Fault),
    /// Anything else.
    Lost(LinkError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Renewed => f.write_str("has a new certificate and connects again with it"),
            Self::Refused(fault) => write!(f, "refused: {fault}"),
            Self::Lost(error) => error.fmt(f),
        }
    }
}

/// Says Hello and, if welcome, serves until the end.
pub(super) async fn converse(link: &Link, dialled: Dialled, address: &str, facts: NodeFacts) -> Ended {
    let greeted = tokio::select! {
        biased;
        () = link.shutdown.cancelled() => Err(Ended::Stopped),
        greeted = greet(link, &dialled.connection, facts) => greeted,
    };
    let ended = match greeted {
        Ok(greeted) => serve(link, &dialled.connection, address, greeted).await,
        Err(ended) => ended,
    };
    let (code, reason) = match &ended {
        Ended::Lost(LinkError::Violation(Violation { code, message })) => (*code, message.as_str()),
        _ => (close::BYE, ""),
    };
    dialled.close(VarInt::from_u32(code), reason.as_bytes()).await;
    ended
}

struct Greeted {
    send: SendStream,
    recv: RecvStream,
    session: AgentSession,
    welcome: Welcome,
}

async fn greet(link: &Link, connection: &Connection, facts: NodeFacts) -> Result<Greeted, Ended> {
    let broken = |error: &dyn fmt::Display| lost(connection, error);
    let mut open_jobs = link.jobs.open_jobs();
    // What is left out is not lost: the coordinator asks for what it has not committed.
    open_jobs.truncate(OPEN_JOBS_MAX);
    let hello = Hello {
        versions: VersionRange::OURS,
        agent_version: env!("CARGO_PKG_VERSION").into(),
        capabilities: vec![renew::CAPABILITY.into(), roots::CAPABILITY.into()],
        boot: link.boot,
        process: link.process,
        epoch: link.jobs.epoch(),
        facts,
        open_jobs,
    };
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|error| Ended::Lost(LinkError::from_connection(error)))?;
    send.set_priority(CONTROL_PRIORITY).map_err(|error| broken(&error))?;
    let mut session = AgentSession::start(hello.versions);
    // The oldest version, which every coordinator that we can talk to understands.
    frames::write(&mut send, VERSION_MIN, &hello)
        .await
        .map_err(|error| broken(&error))?;
    let reply = tokio::time::timeout(WELCOME_TIMEOUT, frames::read::<HelloReply>(&mut recv))
        .await
        .map_err(|_| Ended::Lost(LinkError::Broken("the coordinator did not answer Hello".into())))?
        .map_err(|error| read_error(connection, error))?
        .ok_or_else(|| broken(&"the coordinator closed the control stream without an answer to Hello"))?;
    match session
        .on_reply(reply)
        .map_err(|violation| Ended::Lost(violation.into()))?
    {
        Answer::Refused(fault) => Err(Ended::Refused(fault)),
        Answer::Connected(welcome) if welcome.node != link.keys.node() => {
            Err(Ended::Lost(LinkError::Violation(Violation {
                code: close::PROTOCOL,
                message: format!(
                    "the coordinator takes this agent for node {}, it is {}",
                    welcome.node,
                    link.keys.node()
                ),
            })))
        }
        Answer::Connected(welcome) => {
            // Before any command is taken: whoever had an older run is not obeyed any more.
            link.jobs
                .raise_epoch(welcome.epoch)
                .await
                .map_err(|error| Ended::Lost(LinkError::Own(error.to_string())))?;
            Ok(Greeted {
                send,
                recv,
                session,
                welcome,
            })
        }
    }
}

async fn serve(link: &Link, connection: &Connection, address: &str, greeted: Greeted) -> Ended {
    let Greeted {
        mut send,
        mut recv,
        session,
        welcome,
    } = greeted;
    let version = welcome.version;
    tracing::info!(node_id = %welcome.node, address, epoch = %welcome.epoch, coordinator_version = welcome.coordinator_version, "connected");
    link.status.link(
        LinkState::Connected {
            address: address.into(),
        },
        None,
    );
    if welcome.epoch < link.jobs.epoch() {
        tracing::error!(seen = %link.jobs.epoch(), told = %welcome.epoch, "an older run of the coordinator than the newest seen: its commands will be refused");
    }
    match link.keys.welcomed() {
        Ok(true) => tracing::info!(dates = link.keys.dates(), "the new certificate is in use"),
        Ok(false) => {}
        // The new one stays beside the old, and is tried first the next time too.
        Err(error) => tracing::error!(%error, "the new certificate could not replace the old one on the disk"),
    }
    let (for_renewal, of_renewal) = mpsc::unbounded_channel();
    let (for_roots, of_roots) = mpsc::unbounded_channel();
    let desk = Desk {
        refresh: Notify::new(),
        renewal: for_renewal,
        roots: for_roots,
    };
    let (events, mut outbox) = mpsc::channel::<Event>(EVENTS_WAITING_MAX);
    let ended = tokio::select! {
        biased;
        () = link.shutdown.cancelled() => Ended::Stopped,
        ended = notices(link, connection, &session, &mut recv, welcome.notices, &desk) => ended,
        ended = commands(link, connection, &session, version) => ended,
        error = write_events(&mut send, version, &mut outbox) => lost(connection, &error),
        ended = renewal::run(link, &events, of_renewal) => ended,
        () = follow::run(link, &events, of_roots) => Ended::Lost(LinkError::Broken("the reports ended".into())),
        () = report::run(link, &events, &desk.refresh) => Ended::Lost(LinkError::Broken("the reports ended".into())),
        error = figures::send(link, connection, version, welcome.metrics_interval_ms) => lost(connection, &error),
    };
    if matches!(ended, Ended::Stopped) {
        link.jobs.stop_intake();
        // If the coordinator does not hear it, it notices the close.
        let farewell = async {
            frames::write(&mut send, version, &Event::Stopping).await.is_ok()
                && send.finish().is_ok()
                && send.stopped().await.is_ok()
        };
        let heard = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
        tracing::info!(heard = matches!(heard, Ok(true)), "said goodbye to the coordinator");
    }
    ended
}

/// Where notices go that are not for the jobs.
struct Desk {
    refresh: Notify,
    renewal: mpsc::UnboundedSender<Notice>,
    roots: mpsc::UnboundedSender<Roots>,
}

async fn notices(
    link: &Link,
    connection: &Connection,
    session: &AgentSession,
    recv: &mut RecvStream,
    first: Vec<Notice>,
    desk: &Desk,
) -> Ended {
    for notice in first {
        if let Err(ended) = take(link, session, notice, desk).await {
            return ended;
        }
    }
    loop {
        let notice = match frames::read::<Notice>(recv).await {
            Ok(Some(notice)) => notice,
            Ok(None) => return lost(connection, &"the coordinator closed the control stream"),
            // A later coordinator may know notices that we do not; what they ask for is not worth the link.
            Err(frames::ReadError::Codec(proximity_protocol::codec::CodecError::Malformed(why))) => {
                tracing::warn!(
                    why,
                    "a notice that this agent does not understand; it may have to be updated"
                );
                continue;
            }
            Err(error) => return read_error(connection, error),
        };
        if let Err(ended) = take(link, session, notice, desk).await {
            return ended;
        }
    }
}

async fn take(link: &Link, session: &AgentSession, notice: Notice, desk: &Desk) -> Result<(), Ended> {
    let notice = session
        .on_notice(notice)
        .map_err(|violation| Ended::Lost(violation.into()))?;
    match notice {
        Notice::Refresh => {
            desk.refresh.notify_one();
            return Ok(());
        }
        Notice::MayRenew | Notice::Renewed(_) | Notice::NotRenewed(_) => {
            // An error means that the connection is about to end.
            let _ = desk.renewal.send(notice);
            return Ok(());
        }
        Notice::Roots(told) => {
            let _ = desk.roots.send(*told);
            return Ok(());
        }
        Notice::RenewNow => {
            tracing::warn!(
                "the coordinator wants another key for this node: the one in use is known to another machine"
            );
            link.keys.rekey();
            return Ok(());
        }
        _ => {}
    }
    // What cannot be dropped now is told as open at the next Hello, and dropped then.
    if let Err(error) = link.jobs.on_notice(&notice).await {
        tracing::warn!(%error, "could not record that a result is committed");
    }
    Ok(())
}

/// Takes command streams; all of them end with the connection, the jobs do not.
async fn commands(link: &Link, connection: &Connection, session: &AgentSession, version: u16) -> Ended {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((send, recv)) => {
                    if let Err(violation) = session.on_command() {
                        return Ended::Lost(violation.into());
                    }
                    streams.spawn(command::serve(link.jobs.clone(), version, send, recv));
                }
                Err(error) => return Ended::Lost(LinkError::from_connection(error)),
            },
            Some(ended) = streams.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "serving a command broke off");
            },
        }
    }
}

async fn write_events(send: &mut SendStream, version: u16, outbox: &mut mpsc::Receiver<Event>) -> String {
    while let Some(event) = outbox.recv().await {
        match frames::write(send, version, &event).await {
            Ok(()) => {}
            Err(frames::WriteError::Codec(error)) => tracing::error!(%error, "an event is too large to send"),
            Err(error) => return error.to_string(),
        }
    }
    "the reports ended".into()
}

/// The connection's own word on why it ended, which says more than a stream's.
pub(super) fn lost(connection: &Connection, fallback: &dyn fmt::Display) -> Ended {
    Ended::Lost(match connection.close_reason() {
        Some(error) => LinkError::from_connection(error),
        None => LinkError::Broken(fallback.to_string()),
    })
}

fn read_error(connection: &Connection, error: frames::ReadError) -> Ended {
    match error {
        frames::ReadError::Codec(error) => Ended::Lost(LinkError::Violation(error.into())),
        error => lost(connection, &error),
    }
}
