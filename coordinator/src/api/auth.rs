//! `/api/auth`: login, registration, sessions, one's own account.

use super::{
    Api, cookies,
    extract::{Json, NoParams, OptionalJson},
    identity::{Known, same_origin},
    problem::{Answer, Problem},
    remote,
};
use crate::service::auth::{LoggedIn, Origin, Registration};
use axum::{
    Router,
    extract::{FromRequestParts, State},
    http::{Extensions, HeaderMap, Method, StatusCode, request::Parts},
    response::IntoResponse,
    routing::{get, post},
};
use proximity_protocol::secret::SecretText;
use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/login", post(login))
        .route("/registration", post(register))
        .route("/logout", post(logout))
        .route("/token/refresh", post(refresh))
        .route("/token/verify", post(verify))
        .route("/user", get(user).patch(change_user))
        .route("/password/change", post(change_password))
}

/// From where, with what headers: what the handlers here need besides a body.
pub(super) struct Sender {
    origin: Origin,
    tls: bool,
    method: Method,
    headers: HeaderMap,
}

impl FromRequestParts<Api> for Sender {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Ok(Self {
            origin: parts.extensions.get::<Origin>().cloned().unwrap_or_default(),
            tls: tls(&parts.extensions, &parts.headers, api),
            method: parts.method.clone(),
            headers: parts.headers.clone(),
        })
    }
}

fn tls(extensions: &Extensions, headers: &HeaderMap, api: &Api) -> bool {
    remote::over_tls(extensions, headers, &api.trusted_proxies)
}

fn with_cookies(status: StatusCode, answer: LoggedIn, sender: &Sender) -> impl IntoResponse + use<> {
    (status, cookies::set(&answer, sender.tls), axum::Json(answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    #[serde(alias = "email")]
    username: String,
    password: SecretText,
}

async fn login(
    State(api): State<Api>,
    sender: Sender,
    _: NoParams,
    Json(body): Json<Login>,
) -> Answer<impl IntoResponse> {
    let answer = api
        .auth
        .login(body.username.trim(), body.password, &sender.origin)
        .await?;
    Ok(with_cookies(StatusCode::OK, answer, &sender))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    username: String,
    #[serde(default)]
    email: Option<String>,
    password: SecretText,
    #[serde(default)]
    setup_code: Option<String>,
}

/// Whether registration is open is judged before the body.
struct Open;

impl FromRequestParts<Api> for Open {
    type Rejection = Problem;
    async fn from_request_parts(_: &mut Parts, api: &Api) -> Result<Self, Problem> {
        api.auth.registration_allowed().await?;
        Ok(Self)
    }
}

async fn register(
    State(api): State<Api>,
    _: Open,
    sender: Sender,
    _: NoParams,
    Json(body): Json<Register>,
) -> Answer<impl IntoResponse> {
    let new = Registration {
        username: body.username,
        email: body.email,
        password: body.password,
        setup_code: body.setup_code,
    };
    let answer = api.auth.register(new, &sender.origin).await?;
    Ok(with_cookies(StatusCode::CREATED, answer, &sender))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshToken {
    #[serde(default, alias = "refresh")]
    refresh_token: Option<String>,
}

impl RefreshToken {
    /// The token of the body, or of the cookie if the request comes from our own pages.
    fn or_cookie(self, sender: &Sender) -> Answer<Option<String>> {
        match self.refresh_token.filter(|t| !t.is_empty()) {
            Some(token) => Ok(Some(token)),
            None => match cookies::refresh(&sender.headers) {
                Some(token) => same_origin(&sender.method, &sender.headers).map(|()| Some(token)),
                None => Ok(None),
            },
        }
    }
}

async fn refresh(
    State(api): State<Api>,
    sender: Sender,
    _: NoParams,
    OptionalJson(body): OptionalJson<RefreshToken>,
) -> Answer<impl IntoResponse> {
    let Some(token) = body.or_cookie(&sender)? else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "send the refresh token in the body as refresh_token, or in its cookie",
        ));
    };
    let answer = api.auth.refresh(&token, &sender.origin).await?;
    Ok(with_cookies(StatusCode::OK, answer, &sender))
}

async fn logout(
    State(api): State<Api>,
    known: Result<Option<Known>, Problem>,
    sender: Sender,
    _: NoParams,
    OptionalJson(body): OptionalJson<RefreshToken>,
) -> Answer<impl IntoResponse> {
    // An access token that has ended is no reason to refuse: its session is to end anyway. A page of somebody else's is one.
    let session = match known {
        Ok(known) => known.map(|k| k.0),
        Err(problem) if problem.status == StatusCode::UNAUTHORIZED => None,
        Err(problem) => return Err(problem),
    };
    let token = body.or_cookie(&sender)?;
    if session.is_none() && token.is_none() {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "there is no session to end: no valid token was sent",
        ));
    }
    api.auth.logout(session.as_ref(), token.as_deref()).await?;
    Ok((
        cookies::clear(sender.tls),
        axum::Json(json!({"success": true, "detail": "logged out"})),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verify {
    token: String,
}

async fn verify(
    State(api): State<Api>,
    sender: Sender,
    _: NoParams,
    Json(body): Json<Verify>,
) -> Answer<axum::Json<Value>> {
    match api.auth.authenticate(&body.token, &sender.origin).await? {
        Some(session) => Ok(axum::Json(json!({"valid": true, "user_id": session.caller.user_id}))),
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "this is no valid access token; refresh it or log in again",
        )),
    }
}

async fn user(State(api): State<Api>, known: Known, _: NoParams) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.auth.user(known.caller()).await?))
}

async fn change_user(
    State(api): State<Api>,
    known: Known,
    _: NoParams,
    Json(change): Json<Map<String, Value>>,
) -> Answer<impl IntoResponse> {
    Ok(axum::Json(api.auth.change_user(known.caller(), &change).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangePassword {
    old_password: SecretText,
    new_password: SecretText,
}

async fn change_password(
    State(api): State<Api>,
    known: Known,
    sender: Sender,
    _: NoParams,
    Json(body): Json<ChangePassword>,
) -> Answer<axum::Json<Value>> {
    api.auth
        .change_password(&known.0, body.old_password, body.new_password, &sender.origin)
        .await?;
    Ok(axum::Json(
        json!({"success": true, "detail": "the password is changed; every other session has ended"}),
    ))
}
