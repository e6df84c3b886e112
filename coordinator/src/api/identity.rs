//! Who asks: an access token in `Authorization` or in the cookie.

use super::{Api, cookies, problem::Problem};
use crate::service::{
    Caller, Role,
    auth::{Origin, Session},
};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
};
use std::sync::{Arc, OnceLock};

/// Filled in when it is known who asks; the envelope reads it for the audit.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker(Arc<OnceLock<String>>);

impl Asker {
    pub(super) fn name(&self) -> Option<String> {
        self.0.get().cloned()
    }
}

/// A request with a good access token.
#[derive(Debug, Clone)]
pub(super) struct Known(pub(super) Session);

/// The same, of an admin.
#[derive(Debug, Clone)]
pub(super) struct Admin(pub(super) Session);

impl Known {
    pub(super) fn caller(&self) -> &Caller {
        &self.0.caller
    }
}
impl Admin {
    pub(super) fn caller(&self) -> &Caller {
        &self.0.caller
    }
}

fn origin_host(headers: &HeaderMap) -> Option<&str> {
    let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
    origin.split_once("://").map(|(_, host)| host)
}

/// A cookie is sent by the browser, whoever wrote the page: an unsafe method has to come from a page of ours.
pub(super) fn same_origin(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let site = headers.get("sec-fetch-site").map(|v| v.as_bytes());
    let same = match site {
        Some(site) => site == b"same-origin" || site == b"none",
        None => {
            let host = headers.get(header::HOST).and_then(|v| v.to_str().ok());
            origin_host(headers).is_some_and(|origin| host.is_some_and(|host| host.eq_ignore_ascii_case(origin)))
        }
    };
    if same {
        Ok(())
    } else {
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a request with the cookie has to come from this site's own pages; from elsewhere use the header Authorization: Bearer",
        ))
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(|v| v.trim().split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the Authorization header has to be: Bearer, a space, an access token",
        )),
    }
}

async fn session(parts: &Parts, api: &Api) -> Result<Option<Session>, Problem> {
    let from_cookie;
    let token = match bearer(&parts.headers)? {
        Some(token) => token,
        None => match cookies::access(&parts.headers) {
            Some(token) => {
                same_origin(&parts.method, &parts.headers)?;
                from_cookie = token;
                &from_cookie
            }
            None => return Ok(None),
        },
    };
    let origin = parts.extensions.get::<Origin>().cloned().unwrap_or_default();
    match api.auth.authenticate(token, &origin).await? {
        Some(session) => {
            if let Some(asker) = parts.extensions.get::<Asker>() {
                // A second extractor of the same request finds the same user.
                let _ = asker.0.set(session.caller.username.clone());
            }
            Ok(Some(session))
        }
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the access token is not valid any more; refresh it or log in again",
        )),
    }
}

impl FromRequestParts<Api> for Known {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        session(parts, api).await?.map(Self).ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "log in at POST /api/auth/login and send the access token",
            )
        })
    }
}

impl OptionalFromRequestParts<Api> for Known {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Option<Self>, Problem> {
        Ok(session(parts, api).await?.map(Self))
    }
}

impl FromRequestParts<Api> for Admin {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let Known(session) = <Known as FromRequestParts<Api>>::from_request_parts(parts, api).await?;
        if session.caller.role == Role::Admin {
            Ok(Self(session))
        } else {
            Err(Problem::new(StatusCode::FORBIDDEN, "this is for admins; ask one"))
        }
    }
}
