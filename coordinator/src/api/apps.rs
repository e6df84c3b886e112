//! `/api/apps`.

use super::{
    Api,
    extract::{Json, NoParams, Params},
    identity::Known,
    paging::Paging,
    problem::{Answer, Problem},
};
use crate::service::{
    FieldError,
    apps::{Acted, CreateApp, Created, ListApps},
};
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(list).post(create))
        .route("/{id}", get(one).delete(delete))
        .route("/{id}/action", post(action))
        .route("/{id}/logs", get(logs))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trial {
    #[serde(default)]
    dry_run: bool,
}

async fn list(State(api): State<Api>, known: Known, Params(query): Params<ListApps>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.apps.list(known.caller(), &query).await?))
}

async fn create(
    State(api): State<Api>,
    known: Known,
    Params(trial): Params<Trial>,
    Json(body): Json<CreateApp>,
) -> Answer<Response> {
    Ok(match api.apps.create(known.caller(), &body, trial.dry_run).await? {
        Created::Accepted(app) => (StatusCode::CREATED, axum::Json(app)).into_response(),
        Created::Plan(plan) => axum::Json(json!({"plan": plan})).into_response(),
    })
}

async fn one(State(api): State<Api>, known: Known, _: NoParams, Path(id): Path<String>) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.apps.get(known.caller(), &id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    action: String,
}

fn acted(acted: Acted, accepted: StatusCode) -> Response {
    match acted {
        Acted::Accepted(answer) => (accepted, axum::Json(answer)).into_response(),
        Acted::Plan(plan) => axum::Json(json!({"plan": plan})).into_response(),
    }
}

async fn action(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    Params(trial): Params<Trial>,
    Json(body): Json<Act>,
) -> Answer<Response> {
    let action = body
        .action
        .parse()
        .map_err(|error| Problem::invalid(vec![FieldError::body("action", format!("{error}"))]))?;
    let answer = api.apps.act(known.caller(), &id, action, trial.dry_run).await?;
    Ok(acted(answer, StatusCode::OK))
}

async fn delete(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    Params(trial): Params<Trial>,
) -> Answer<Response> {
    let answer = api.apps.delete(known.caller(), &id, trial.dry_run).await?;
    Ok(acted(answer, StatusCode::ACCEPTED))
}

async fn logs(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    Params(paging): Params<Paging>,
) -> Answer<impl IntoResponse> {
    let (page, per_page) = paging.checked()?;
    Ok(axum::Json(api.apps.logs(known.caller(), &id, page, per_page).await?))
}
