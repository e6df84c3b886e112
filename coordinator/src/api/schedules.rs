//! `/api/backups`: schedules, what their retention would remove, and how well the apps are covered; and the protection of a single backup.

use super::{
    Api,
    extract::{Json, NoParams, Params},
    identity::Known,
    paging::Paging,
    problem::{Answer, Problem},
};
use crate::service::{ServiceError, backups::ChangeBackup, schedules::ScheduleBody};
use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, patch, post},
};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/coverage", get(coverage))
        .route("/schedules", get(list).post(create))
        .route("/schedules/{id}", get(one).patch(change).delete(delete))
        .route("/schedules/{id}/run", post(run))
        .route("/schedules/{id}/retention", get(retention))
}

/// Below `/api/apps`.
pub(super) fn of_backups() -> Router<Api> {
    Router::new().route("/{id}/backups/{backup_id}", patch(protect))
}

/// What is no number names no schedule.
fn number(text: &str, what: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| {
        let text: String = text.chars().take(40).collect();
        ServiceError::NotFound(format!("there is no {what} {text:?}; the ids of {what}s are numbers")).into()
    })
}

async fn coverage(State(api): State<Api>, known: Known, Params(paging): Params<Paging>) -> Answer<impl IntoResponse> {
    let (page, per_page) = paging.checked()?;
    Ok(axum::Json(
        api.schedules.coverage(known.caller(), page, per_page).await?,
    ))
}

async fn list(State(api): State<Api>, known: Known, Params(paging): Params<Paging>) -> Answer<impl IntoResponse> {
    let (page, per_page) = paging.checked()?;
    Ok(axum::Json(api.schedules.list(known.caller(), page, per_page).await?))
}

async fn create(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Json(body): Json<ScheduleBody>,
) -> Answer<impl IntoResponse> {
    let made = api.schedules.create(known.caller(), &body).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

async fn one(State(api): State<Api>, known: Known, Path(id): Path<String>, _: NoParams) -> Answer<impl IntoResponse> {
    let id = number(&id, "schedule")?;
    Ok(axum::Json(api.schedules.get(known.caller(), id).await?))
}

async fn change(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    _: NoParams,
    Json(body): Json<ScheduleBody>,
) -> Answer<impl IntoResponse> {
    let id = number(&id, "schedule")?;
    Ok(axum::Json(api.schedules.change(known.caller(), id, &body).await?))
}

async fn delete(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    _: NoParams,
) -> Answer<impl IntoResponse> {
    api.schedules.delete(known.caller(), number(&id, "schedule")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn run(State(api): State<Api>, known: Known, Path(id): Path<String>, _: NoParams) -> Answer<impl IntoResponse> {
    let asked = api.schedules.run(known.caller(), number(&id, "schedule")?).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(asked)))
}

async fn retention(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    _: NoParams,
) -> Answer<impl IntoResponse> {
    let id = number(&id, "schedule")?;
    Ok(axum::Json(api.schedules.retention(known.caller(), id).await?))
}

async fn protect(
    State(api): State<Api>,
    known: Known,
    Path((id, backup)): Path<(String, String)>,
    _: NoParams,
    Json(body): Json<ChangeBackup>,
) -> Answer<impl IntoResponse> {
    let backup = number(&backup, "backup")?;
    Ok(axum::Json(
        api.apps.backups().change(known.caller(), &id, backup, body).await?,
    ))
}
