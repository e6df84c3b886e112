//! `/api/core/reconcile` and `/api/core/janitor`: a run now, and what the last ones did.

use super::{
    Api,
    extract::{NoParams, Params},
    identity::{Admin, Known},
    paging::Paging,
    problem::Answer,
};
use crate::service::upkeep::Round;
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};

pub(super) fn routes() -> Router<Api> {
    let of = |round: Round| {
        let ask = move |State(api): State<Api>, admin: Admin, _: NoParams| ask(api, admin, round);
        let list =
            move |State(api): State<Api>, known: Known, Params(paging): Params<Paging>| list(api, known, paging, round);
        let one =
            move |State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>| one(api, known, id, round);
        Router::new()
            .route("/", post(ask))
            .route("/reports", get(list))
            .route("/reports/{id}", get(one))
    };
    Router::new()
        .nest("/reconcile", of(Round::Reconcile))
        .nest("/janitor", of(Round::Janitor))
}

async fn ask(api: Api, admin: Admin, round: Round) -> Answer<Response> {
    let asked = api.upkeep.ask(admin.caller(), round).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(asked)).into_response())
}

async fn list(api: Api, known: Known, paging: Paging, round: Round) -> Answer<Response> {
    let (page, per_page) = paging.checked()?;
    let found = api.upkeep.reports(known.caller(), round, page, per_page).await?;
    Ok(axum::Json(found).into_response())
}

async fn one(api: Api, known: Known, id: String, round: Round) -> Answer<Response> {
    Ok(axum::Json(api.upkeep.report(known.caller(), round, &id).await?).into_response())
}
