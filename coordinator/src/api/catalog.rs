//! `/api/catalog`.

use super::{
    Api,
    extract::{NoParams, Params},
    identity::{Admin, Known},
    problem::{Answer, Problem},
};
use axum::{
    Router,
    extract::{FromRequestParts, OptionalFromRequestParts, Path, State},
    http::request::Parts,
    response::IntoResponse,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(all))
        .route("/categories", get(categories))
        .route("/search", get(search))
        .route("/category/{category}", get(category))
        .route("/stats", get(stats))
        .route("/reload", post(reload))
        .route("/{id}", get(one))
}

/// Whoever may see the catalog: users, or everybody if it is public.
struct Reader;

impl FromRequestParts<Api> for Reader {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let known = <Known as OptionalFromRequestParts<Api>>::from_request_parts(parts, api).await?;
        api.catalog.allow(known.as_ref().map(Known::caller)).await?;
        Ok(Self)
    }
}

async fn all(State(api): State<Api>, _: Reader, _: NoParams) -> impl IntoResponse {
    axum::Json(api.catalog.all())
}

async fn categories(State(api): State<Api>, _: Reader, _: NoParams) -> axum::Json<Value> {
    let categories = api.catalog.categories();
    axum::Json(json!({"total": categories.len(), "categories": categories}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    q: String,
}

async fn search(State(api): State<Api>, _: Reader, Params(search): Params<Search>) -> impl IntoResponse {
    axum::Json(api.catalog.search(&search.q))
}

async fn category(State(api): State<Api>, _: Reader, Path(category): Path<String>, _: NoParams) -> impl IntoResponse {
    axum::Json(api.catalog.in_category(&category))
}

async fn stats(State(api): State<Api>, _: Reader, _: NoParams) -> impl IntoResponse {
    axum::Json(api.catalog.stats())
}

async fn one(State(api): State<Api>, _: Reader, Path(id): Path<String>, _: NoParams) -> Answer<axum::Json<Value>> {
    Ok(axum::Json(api.catalog.get(&id)?))
}

async fn reload(State(api): State<Api>, admin: Admin, _: NoParams) -> Answer<axum::Json<Value>> {
    let count = api.catalog.reload(admin.caller()).await?;
    Ok(axum::Json(
        json!({"success": true, "message": format!("the catalog has {count} entries"), "total": count}),
    ))
}
