//! What surrounds every request: its id, its time limit, its log line, and that whatever goes wrong is a problem document.

use super::{Api, identity::Asker, problem::Problem, remote};
use crate::service::{audit, auth::Origin};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use std::{panic::AssertUnwindSafe, time::Duration};
use tracing::Instrument as _;

/// For a request that is not a stream; a stream's answer begins within it.
const TIME_LIMIT: Duration = Duration::from_secs(30);

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The client's own id if it is a harmless word, else a new one.
fn request_id(request: &Request) -> String {
    request
        .headers()
        .get(&X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        })
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// A request that may change something, on a path that there is.
struct Change {
    method: Method,
    route: String,
    path: String,
}

impl Change {
    fn of(request: &Request) -> Option<Self> {
        let route = request.extensions().get::<MatchedPath>()?;
        (!request.method().is_safe()).then(|| Self {
            method: request.method().clone(),
            route: route.as_str().to_owned(),
            path: request.uri().path().to_owned(),
        })
    }

    fn action(&self) -> String {
        format!("{} {}", self.method, self.route)
    }

    /// Whether the use case writes its own row, in its own transaction and with more to tell.
    fn recorded_elsewhere(&self, status: StatusCode) -> bool {
        let route = self.route.as_str();
        if status.is_success() {
            let rooms = [
                "/api/auth/login",
                "/api/auth/registration",
                "/api/auth/password",
                "/api/core/settings",
                "/api/proxmox",
            ];
            // Tokens that are shown and checked change nothing that is worth a row.
            route.starts_with("/api/auth/token")
                || rooms.iter().any(|r| route.starts_with(r))
                || route == "/api/catalog/reload"
        } else {
            let counted = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS);
            let tries = ["/api/auth/login", "/api/auth/token", "/api/auth/password"];
            (counted && tries.iter().any(|r| route.starts_with(r)))
                || (route == "/api/catalog/reload" && status == StatusCode::UNPROCESSABLE_ENTITY)
        }
    }
}

fn is_json(response: &Response) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

pub(super) async fn envelope(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let remote = remote::client_address(&request, &api.trusted_proxies);
    request.extensions_mut().insert(Origin {
        remote,
        request_id: Some(id.clone()),
    });
    let asker = Asker::default();
    request.extensions_mut().insert(asker.clone());
    let change = Change::of(&request);
    let span = tracing::info_span!("http", request_id = %id, method = %request.method(), path = %request.uri().path());
    let answered = tokio::time::timeout(TIME_LIMIT, AssertUnwindSafe(next.run(request)).catch_unwind());
    let mut response = async {
        match answered.await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => {
                tracing::error!("a handler panicked; the panic's own line stands above");
                Problem::of_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
            }
            Err(_) => Problem::of_status(StatusCode::REQUEST_TIMEOUT).into_response(),
        }
    }
    .instrument(span.clone())
    .await;
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(change) = change.filter(|c| !c.recorded_elsewhere(status)) {
        let record = audit::Request {
            actor: asker.name(),
            action: change.action(),
            target: change.path,
            remote: remote.map(|a| a.to_string()),
            status: status.as_u16(),
            detail: problem.as_ref().map(|p| p.detail().to_owned()),
            request_id: Some(id.clone()),
        };
        if let Err(error) = api.audit.record(record).instrument(span.clone()).await {
            span.in_scope(|| tracing::error!(%error, "the audit could not be written"));
        }
    }
    if let Some(problem) = problem {
        problem.write(&mut response, &id);
    } else if (status.is_client_error() || status.is_server_error()) && !is_json(&response) {
        // The framework's own refusals are plain text; a handler's own JSON (health, degraded) stays.
        Problem::of_status(status).write(&mut response, &id);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID.clone(), value);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    span.in_scope(|| tracing::debug!(status = status.as_u16(), "answered"));
    response
}
