//! `/api/proxmox/join-tokens`: for admins.

use super::{
    Api,
    extract::{NoParams, OptionalJson, Params},
    identity::Admin,
    paging::Paging,
    problem::Answer,
};
use crate::service::join_tokens::NewJoinToken;
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{delete, get},
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/join-tokens", get(list).post(create))
        .route("/join-tokens/{id}", delete(revoke))
}

async fn list(State(api): State<Api>, admin: Admin, Params(paging): Params<Paging>) -> Answer<impl IntoResponse> {
    let (page, per_page) = paging.checked()?;
    Ok(axum::Json(api.join_tokens.list(admin.caller(), page, per_page).await?))
}

async fn create(
    State(api): State<Api>,
    admin: Admin,
    _: NoParams,
    OptionalJson(new): OptionalJson<NewJoinToken>,
) -> Answer<impl IntoResponse> {
    let made = api.join_tokens.create(admin.caller(), new).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

async fn revoke(State(api): State<Api>, admin: Admin, _: NoParams, Path(id): Path<String>) -> Answer<StatusCode> {
    api.join_tokens.revoke(admin.caller(), &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
