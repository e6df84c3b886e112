//! Server-Sent Events: what is stored first, then what happens, until the token ends.

use super::{Api, extract::NoParams, identity::Known, problem::Problem};
use crate::{
    events::Event,
    service::{FieldError, ServiceError, auth::Session, operations::Operations},
};
use axum::{
    Router,
    extract::{FromRequestParts, State},
    http::request::Parts,
    response::{IntoResponse, Sse, sse},
    routing::get,
};
use futures_util::StreamExt as _;
use std::{collections::VecDeque, convert::Infallible, time::Duration};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::Instant,
};

/// How many stored events are read at once.
const BATCH: i64 = 500;
/// How often a line goes out when nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/events", get(all))
}

/// `Last-Event-ID`.
pub(super) struct Resume {
    pub(super) after: Option<i64>,
}

impl<S: Send + Sync> FromRequestParts<S> for Resume {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("last-event-id") else {
            return Ok(Self { after: None });
        };
        match value
            .to_str()
            .ok()
            .and_then(|v| v.trim().parse::<i64>().ok())
            .filter(|id| *id >= 0)
        {
            Some(id) => Ok(Self { after: Some(id) }),
            None => Err(Problem::invalid(vec![FieldError {
                loc: vec!["header".into(), "Last-Event-ID".into()],
                msg: "has to be the id of an event, a number".into(),
            }])),
        }
    }
}

/// Everything that the caller may see: from now on, or from after `Last-Event-ID`. If what came after that is no longer kept, an event `gap` says so first: the
/// client reads anew what it shows.
async fn all(State(api): State<Api>, known: Known, _: NoParams, resume: Resume) -> Result<impl IntoResponse, Problem> {
    let live = api.bus.subscribe();
    let after = match resume.after {
        Some(after) => after,
        None => api.system.latest_event().await?,
    };
    let gap = match resume.after {
        Some(after) => api.system.misses_events_after(after).await?,
        None => false,
    };
    Ok(stream(api, known.0, Stream::Everything, live, after, gap))
}

/// Of what.
pub(super) enum Stream {
    /// One operation, until it has ended.
    Operation(String),
    /// Everything that the caller may see.
    Everything,
    /// The deployment log of an app. Its places are those of its lines; what is on the bus only says that there may be another one.
    Log(String),
}

struct Reader {
    api: Api,
    session: Session,
    access_ends: Instant,
    look_up: Instant,
    of: Stream,
    live: Receiver<Event>,
    /// The last one that went out.
    after: i64,
    /// Read, not yet sent.
    pending: VecDeque<Event>,
    /// Whether the registry has to be asked before the bus.
    behind: bool,
    ended: bool,
}

pub(super) fn stream(
    api: Api,
    session: Session,
    of: Stream,
    live: Receiver<Event>,
    after: i64,
    gap: bool,
) -> impl IntoResponse {
    let now = Instant::now();
    let left = Duration::from_millis(api.auth.ms_until(session.expires_at));
    let reader = Reader {
        access_ends: now + left,
        look_up: now + api.stream_check,
        api,
        session,
        of,
        live,
        after,
        pending: VecDeque::new(),
        behind: true,
        ended: false,
    };
    let first = gap.then(|| {
        let event = sse::Event::default().id(after.to_string()).event("gap");
        Ok(event.data(r#"{"message":"events are missing here; read anew what you show"}"#))
    });
    let rest = futures_util::stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    let events = futures_util::stream::iter(first).chain(rest);
    Sse::new(events).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE))
}

impl Reader {
    /// The next event to send; `None` ends the stream.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.after = event.id;
                self.ended |= self.is_last(&event);
                return Some(shown(&event));
            }
            if self.ended {
                return None;
            }
            if self.behind {
                match self.stored().await {
                    Ok(found) => {
                        self.behind = i64::try_from(found.len()).is_ok_and(|n| n == BATCH);
                        self.pending.extend(found);
                        continue;
                    }
                    // The app has been removed, and its log with it.
                    Err(ServiceError::NotFound(_)) => return None,
                    Err(error) => {
                        tracing::warn!(%error, "a stream of events ends: the client comes again with its place");
                        return None;
                    }
                }
            }
            tokio::select! {
                () = self.api.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.access_ends) => return None,
                () = tokio::time::sleep_until(self.look_up) => {
                    self.look_up = Instant::now() + self.api.stream_check;
                    if !self.session_lives().await {
                        return None;
                    }
                }
                received = self.live.recv() => match received {
                    // The bus only says that there is something: two events may be told in another order than they were stored in.
                    Ok(event) => self.behind = self.wants(&event),
                    // Too slow for the bus: the registry has what was missed.
                    Err(RecvError::Lagged(_)) => self.behind = true,
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    async fn stored(&self) -> Result<Vec<Event>, ServiceError> {
        let caller = &self.session.caller;
        match &self.of {
            Stream::Operation(id) => self.api.operations.events(caller, id, self.after, BATCH).await,
            Stream::Everything => self.api.operations.all_events(caller, self.after, BATCH).await,
            Stream::Log(id) => self.api.apps.log_after(caller, id, self.after, BATCH).await,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        match &self.of {
            Stream::Operation(id) => event.id > self.after && event.operation_id.as_deref() == Some(id),
            Stream::Everything => event.id > self.after && Operations::may_see(&self.session.caller, event),
            Stream::Log(id) => event.app_id.as_deref() == Some(id),
        }
    }

    fn is_last(&self, event: &Event) -> bool {
        matches!(self.of, Stream::Operation(_))
            && event.kind == "operation"
            && matches!(event.data["state"].as_str(), Some("done" | "undone" | "stuck"))
    }

    /// Whether the session, which may have been ended, or its user, who may have been deactivated, is still good.
    async fn session_lives(&self) -> bool {
        match self.api.auth.still_good(&self.session).await {
            Ok(good) => good,
            Err(error) => {
                tracing::warn!(%error, "a stream's session cannot be looked up");
                false
            }
        }
    }
}

fn shown(event: &Event) -> sse::Event {
    // serde_json writes no line breaks, which is what a field of an event needs.
    sse::Event::default()
        .id(event.id.to_string())
        .event(&event.kind)
        .data(event.data.to_string())
}
