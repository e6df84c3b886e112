//! `/api/apps/{id}/backups`, and `/api/apps/{id}/previous`: what a restore has replaced.

use super::{
    Api,
    extract::{NoParams, OptionalJson, Params},
    identity::Known,
    paging::Paging,
    problem::{Answer, Problem},
};
use crate::service::{
    ServiceError,
    backups::{BackupDeleted, BackupRestored, CreateBackup, RestoreBackup},
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
        .route("/{id}/backups", get(list).post(create))
        .route("/{id}/backups/stats", get(stats))
        .route("/{id}/backups/{backup_id}", get(one).delete(delete))
        .route("/{id}/backups/{backup_id}/restore", post(restore))
        .route("/{id}/backups/{backup_id}/verify", post(verify))
        .route("/{id}/previous", get(previous))
        .route("/{id}/previous/{lxc_id}", axum::routing::delete(discard))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trial {
    #[serde(default)]
    dry_run: bool,
}

/// What is no number names no backup.
fn number(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| {
        let text: String = text.chars().take(40).collect();
        ServiceError::NotFound(format!("there is no backup {text:?}; the ids of backups are numbers")).into()
    })
}

async fn list(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    Params(paging): Params<Paging>,
) -> Answer<impl IntoResponse> {
    let (page, per_page) = paging.checked()?;
    Ok(axum::Json(
        api.apps.backups().list(known.caller(), &id, page, per_page).await?,
    ))
}

async fn create(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    _: NoParams,
    OptionalJson(body): OptionalJson<CreateBackup>,
) -> Answer<Response> {
    let started = api.apps.backups().create(known.caller(), &id, &body).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response())
}

async fn stats(State(api): State<Api>, known: Known, Path(id): Path<String>, _: NoParams) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.apps.backups().stats(known.caller(), &id).await?))
}

async fn one(
    State(api): State<Api>,
    known: Known,
    Path((id, backup)): Path<(String, String)>,
    _: NoParams,
) -> Answer<impl IntoResponse> {
    let backup = number(&backup)?;
    Ok(axum::Json(api.apps.backups().get(known.caller(), &id, backup).await?))
}

async fn restore(
    State(api): State<Api>,
    known: Known,
    Path((id, backup)): Path<(String, String)>,
    Params(trial): Params<Trial>,
    OptionalJson(body): OptionalJson<RestoreBackup>,
) -> Answer<Response> {
    let backup = number(&backup)?;
    let backups = api.apps.backups();
    Ok(
        match backups
            .restore(known.caller(), &id, backup, &body, trial.dry_run)
            .await?
        {
            BackupRestored::Started(started) => (StatusCode::ACCEPTED, axum::Json(started)).into_response(),
            BackupRestored::Plan(plan) => axum::Json(json!({"plan": plan})).into_response(),
        },
    )
}

async fn verify(
    State(api): State<Api>,
    known: Known,
    Path((id, backup)): Path<(String, String)>,
    _: NoParams,
) -> Answer<Response> {
    let backup = number(&backup)?;
    let started = api.apps.backups().verify(known.caller(), &id, backup).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response())
}

async fn previous(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    _: NoParams,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.apps.backups().previous(known.caller(), &id).await?))
}

async fn discard(
    State(api): State<Api>,
    known: Known,
    Path((id, lxc_id)): Path<(String, String)>,
    _: NoParams,
) -> Answer<Response> {
    let vmid = lxc_id.parse().map_err(|_| {
        Problem::from(ServiceError::NotFound(format!(
            "no container of that number is kept; GET /api/apps/{id}/previous lists them"
        )))
    })?;
    let started = api.apps.backups().discard(known.caller(), &id, vmid).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(started)).into_response())
}

async fn delete(
    State(api): State<Api>,
    known: Known,
    Path((id, backup)): Path<(String, String)>,
    Params(trial): Params<Trial>,
) -> Answer<Response> {
    let backup = number(&backup)?;
    Ok(
        match api
            .apps
            .backups()
            .delete(known.caller(), &id, backup, trial.dry_run)
            .await?
        {
            BackupDeleted::Started(started) => (StatusCode::ACCEPTED, axum::Json(started)).into_response(),
            BackupDeleted::Gone => StatusCode::NO_CONTENT.into_response(),
            BackupDeleted::Plan(plan) => axum::Json(json!({"plan": plan})).into_response(),
        },
    )
}
