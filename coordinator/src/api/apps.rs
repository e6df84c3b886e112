//! `/api/apps`.

use super::{
    Api,
    events::{Resume, Stream, stream},
    extract::{Json, NoParams, Params},
    identity::Known,
    paging::Paging,
    problem::{Answer, Problem},
};
use crate::service::{
    FieldError,
    apps::{Acted, Action, AdoptContainer, ChangeApp, CloneApp, Cloned, CreateApp, Created, Deletion, ListApps},
};
use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/", get(list).post(create))
        .route("/discover", get(discover))
        .route("/adopt", post(adopt))
        .route("/{id}", get(one).patch(change).delete(delete))
        .route("/{id}/action", post(action))
        .route("/{id}/clone", post(clone))
        .route("/{id}/logs", get(logs))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trial {
    #[serde(default)]
    dry_run: bool,
}

/// Of a deletion, also as an action.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    destroy_container: Option<bool>,
}

impl From<Delete> for Deletion {
    fn from(delete: Delete) -> Self {
        Self {
            dry_run: delete.dry_run,
            destroy_container: delete.destroy_container,
        }
    }
}

async fn clone(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    Params(trial): Params<Trial>,
    Json(body): Json<CloneApp>,
) -> Answer<Response> {
    Ok(
        match api.apps.clone_app(known.caller(), &id, &body, trial.dry_run).await? {
            Cloned::Started(started) => (StatusCode::ACCEPTED, axum::Json(started)).into_response(),
            Cloned::Plan(plan) => axum::Json(json!({"plan": plan})).into_response(),
        },
    )
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
    Params(options): Params<Delete>,
    Json(body): Json<Act>,
) -> Answer<Response> {
    let action: Action = body
        .action
        .parse()
        .map_err(|error| Problem::invalid(vec![FieldError::body("action", format!("{error}"))]))?;
    if action != Action::Delete && options.destroy_container.is_some() {
        return Err(Problem::invalid(vec![FieldError {
            loc: vec!["query".into(), "destroy_container".into()],
            msg: "goes with the action delete only".into(),
        }]));
    }
    let answer = api.apps.act(known.caller(), &id, action, options.into()).await?;
    Ok(acted(answer, StatusCode::OK))
}

async fn delete(
    State(api): State<Api>,
    known: Known,
    Path(id): Path<String>,
    Params(options): Params<Delete>,
) -> Answer<Response> {
    let answer = api.apps.delete(known.caller(), &id, options.into()).await?;
    Ok(acted(answer, StatusCode::ACCEPTED))
}

/// Of a deployment log.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfLog {
    #[serde(default)]
    page: Option<i64>,
    #[serde(default)]
    per_page: Option<i64>,
    #[serde(default)]
    follow: bool,
}

/// A page, newest first; or, to follow it, the newest `per_page` lines (or those after `Last-Event-ID`) and what comes, oldest first, until the app is removed.
async fn logs(
    State(api): State<Api>,
    known: Known,
    resume: Resume,
    Path(id): Path<String>,
    Params(of): Params<OfLog>,
) -> Answer<Response> {
    // Subscribed first, asked second: nothing falls between.
    let live = api.bus.subscribe();
    let (page, per_page) = Paging::of(of.page, of.per_page).checked()?;
    if of.follow && of.page.is_some() {
        return Err(Problem::invalid(vec![FieldError {
            loc: vec!["query".into(), "page".into()],
            msg: "is not for following; per_page says how many lines come first".into(),
        }]));
    }
    let found = api.apps.logs(known.caller(), &id, page, per_page).await?;
    if !of.follow {
        return Ok(axum::Json(found).into_response());
    }
    let before = found.logs.last().map_or(0, |oldest| oldest.id - 1);
    let after = resume.after.unwrap_or(before);
    Ok(stream(api, known.0, Stream::Log(id), live, after, false).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfHost {
    #[serde(default)]
    host_id: Option<i64>,
}

/// Names the nodes that could not tell: a bare array has no other place for it.
static X_INCOMPLETE: HeaderName = HeaderName::from_static("x-incomplete");

async fn discover(State(api): State<Api>, known: Known, Params(of): Params<OfHost>) -> Answer<Response> {
    let found = api.apps.discover(known.caller(), of.host_id).await?;
    let mut response = axum::Json(&found.containers).into_response();
    if !found.incomplete.is_empty() {
        let words: Vec<String> = found
            .incomplete
            .iter()
            .map(|(node, why)| format!("{node}: {why}"))
            .collect();
        // A header takes one line of ASCII.
        let line: String = words
            .join("; ")
            .chars()
            .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
            .take(2000)
            .collect();
        if let Ok(value) = HeaderValue::from_str(&line) {
            response.headers_mut().insert(X_INCOMPLETE.clone(), value);
        }
    }
    Ok(response)
}

async fn adopt(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Json(body): Json<AdoptContainer>,
) -> Answer<Response> {
    let answer = api.apps.adopt(known.caller(), &body).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response())
}

async fn change(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Path(id): Path<String>,
    Json(body): Json<ChangeApp>,
) -> Answer<Response> {
    let changed = api.apps.change(known.caller(), &id, &body).await?;
    let status = if changed.started {
        StatusCode::ACCEPTED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(changed.app)).into_response())
}
