//! `/api/operations`: how far they are, and a stream of what happens to one.

use super::{
    Api,
    events::{Resume, Stream, stream},
    extract::{NoParams, Params},
    identity::Known,
    problem::Answer,
};
use crate::service::operations::ListOperations;
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(list))
        .route("/{id}", get(one))
        .route("/{id}/events", get(events))
        .route("/{id}/retry", post(retry))
        .route("/{id}/abandon", post(abandon))
        .route("/{id}/cancel", post(cancel))
}

async fn list(
    State(api): State<Api>,
    known: Known,
    Params(query): Params<ListOperations>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.operations.list(known.caller(), &query).await?))
}

async fn one(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.operations.get(known.caller(), &id).await?))
}

/// For operators: a stuck one goes on from where it stands.
async fn retry(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<Response> {
    let operation = api.rescue.retry(known.caller(), &id).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(operation)).into_response())
}

/// For operators: it is given up, and what it leaves is named.
async fn abandon(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Path(id): Path<String>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.rescue.abandon(known.caller(), &id).await?))
}

async fn cancel(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<Response> {
    let operation = api.operations.cancel(known.caller(), &id).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(operation)).into_response())
}

/// From the operation's beginning, or from after `Last-Event-ID`, to its end. A client that comes back after the end gets 204, which tells a browser's
/// `EventSource` not to come again.
async fn events(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    resume: Resume,
    Path(id): Path<String>,
) -> Answer<Response> {
    // Subscribed first, asked second: nothing falls between.
    let live = api.bus.subscribe();
    let operation = api.operations.get(known.caller(), &id).await?;
    let after = resume.after.unwrap_or(0);
    if operation.state.ended() {
        let left = api.operations.events(known.caller(), &id, after, 1).await?;
        if left.is_empty() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    Ok(stream(api, known.0, Stream::Operation(operation.id), live, after, false).into_response())
}
