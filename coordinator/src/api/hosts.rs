//! `/api/proxmox/hosts`: Proxmox installations and the networks of their apps.

use super::{
    Api,
    extract::{Json, NoParams, typed},
    identity::{Admin, Known},
    problem::{Answer, Problem},
};
use crate::service::{
    FieldError,
    hosts::{HostInput, HostNetworkInput},
};
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use serde_json::{Map, Value};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/hosts", get(list).post(create))
        .route("/hosts/{id}", get(one).put(update).delete(delete))
        .route("/hosts/{id}/test", post(test))
        .route("/hosts/{id}/sync-nodes", post(sync_nodes))
        .route("/hosts/{id}/network", get(network).put(set_network))
}

/// What the original stored and this system never asks for.
const CREDENTIALS: &[&str] = &["password", "user", "ssh_port", "verify_ssl"];

/// A host's body, unless it carries credentials.
fn input(body: Map<String, Value>) -> Answer<HostInput> {
    let refused: Vec<FieldError> = CREDENTIALS
        .iter()
        .filter(|key| body.contains_key(**key))
        .map(|key| {
            FieldError::body(
                key,
                "is not taken: no Proxmox credentials are stored here; make a join token at POST /api/proxmox/join-tokens and run \
                 proximity-agent join on the node",
            )
        })
        .collect();
    if refused.is_empty() {
        typed(body)
    } else {
        Err(Problem::invalid(refused))
    }
}

fn number(id: &str) -> Answer<i64> {
    id.parse().map_err(|_| {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!("there is no host {id:?}; GET /api/proxmox/hosts lists them"),
        )
    })
}

async fn list(State(api): State<Api>, known: Known, _: NoParams) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.hosts.list(known.caller()).await?))
}

async fn create(
    State(api): State<Api>,
    admin: Admin,
    _: NoParams,
    Json(body): Json<Map<String, Value>>,
) -> Answer<impl IntoResponse> {
    let made = api.hosts.create(admin.caller(), input(body)?).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

async fn one(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.hosts.get(known.caller(), number(&id)?).await?))
}

async fn update(
    State(api): State<Api>,
    admin: Admin,
    _: NoParams,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer<impl IntoResponse> {
    let input = input(body)?;
    Ok(axum::Json(api.hosts.update(admin.caller(), number(&id)?, input).await?))
}

async fn delete(State(api): State<Api>, admin: Admin, _: NoParams, Path(id): Path<String>) -> Answer<StatusCode> {
    api.hosts.delete(admin.caller(), number(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn test(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.hosts.test(known.caller(), number(&id)?).await?))
}

async fn sync_nodes(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Path(id): Path<String>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.hosts.sync_nodes(known.caller(), number(&id)?).await?))
}

async fn network(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Path(id): Path<String>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.hosts.network(known.caller(), number(&id)?).await?))
}

async fn set_network(
    State(api): State<Api>,
    admin: Admin,
    _: NoParams,
    Path(id): Path<String>,
    Json(input): Json<HostNetworkInput>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(
        api.hosts.set_network(admin.caller(), number(&id)?, input).await?,
    ))
}
