//! `/api/proxmox/nodes`: the machines, one agent each.

use super::{
    Api,
    extract::{NoParams, Params},
    identity::{Admin, Known},
    problem::Answer,
};
use crate::service::drain;
use axum::{
    Router,
    extract::{Path, State},
    response::IntoResponse,
    routing::{get, post},
};
use serde::Deserialize;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{id}", get(one))
        .route("/nodes/{id}/revoke", post(revoke))
        .route("/nodes/{id}/rekey", post(rekey))
        .route("/nodes/{id}/drain", post(drain_node))
        .route("/nodes/{id}/undrain", post(undrain))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfHost {
    #[serde(default)]
    host_id: Option<i64>,
}

async fn list(State(api): State<Api>, known: Known, Params(of): Params<OfHost>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.nodes.list(known.caller(), of.host_id).await?))
}

async fn one(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.nodes.get(known.caller(), &id).await?))
}

async fn revoke(
    State(api): State<Api>,
    admin: Admin,
    _: NoParams,
    Path(id): Path<String>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.nodes.revoke(admin.caller(), &id).await?))
}

async fn rekey(State(api): State<Api>, admin: Admin, _: NoParams, Path(id): Path<String>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.nodes.rekey(admin.caller(), &id).await?))
}

async fn drain_node(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Path(id): Path<String>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(
        drain::drain(&api.nodes, &api.apps, known.caller(), &id).await?,
    ))
}

async fn undrain(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Path(id): Path<String>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.nodes.undrain(known.caller(), &id).await?))
}
