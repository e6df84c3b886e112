//! `/api/core`: health, system, settings. `/livez` and `/readyz`.

use super::{
    Api,
    extract::{Json, NoParams},
    identity::{Admin, Known},
    problem::Answer,
    upkeep,
};
use crate::service::settings::{FeatureSettings, NetworkSettings, OperationSettings, ResourceSettings, SettingsGroup};
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::IntoResponse,
    routing::{MethodRouter, get},
};
use serde_json::{Map, Value, json};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/health", get(health))
        .route("/system/info", get(info))
        .route("/settings/resources", group::<ResourceSettings>())
        .route("/settings/network", group::<NetworkSettings>())
        .route("/settings/features", group::<FeatureSettings>())
        .route("/settings/operations", group::<OperationSettings>())
        .merge(upkeep::routes())
}

/// For process supervisors: alive is whoever answers; ready is whoever can read the registry.
pub(super) fn probes() -> Router<Api> {
    Router::new()
        .route("/livez", get(async || axum::Json(json!({"status": "ok"}))))
        .route("/readyz", get(health))
}

async fn health(State(api): State<Api>, _: NoParams) -> impl IntoResponse {
    let health = api.system.health().await;
    let status = if health.status == "healthy" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(health))
}

async fn info(State(api): State<Api>, _: Known, _: NoParams) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.system.info().await?))
}

fn group<G: SettingsGroup>() -> MethodRouter<Api> {
    get(settings::<G>).post(change_settings::<G>)
}

async fn settings<G: SettingsGroup>(State(api): State<Api>, _: Known, _: NoParams) -> Answer<axum::Json<G>> {
    Ok(axum::Json(api.settings.get().await?))
}

async fn change_settings<G: SettingsGroup>(
    State(api): State<Api>,
    admin: Admin,
    _: NoParams,
    Json(change): Json<Map<String, Value>>,
) -> Answer<axum::Json<G>> {
    Ok(axum::Json(api.settings.change(admin.caller(), &change).await?))
}
