//! What surrounds every request: its id, its time limit, its log line, and that whatever goes wrong is a problem document.

use super::{Api, problem::Problem, remote};
use crate::service::auth::Origin;
use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
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
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
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
