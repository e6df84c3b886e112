//! The two cookies of a session.

use crate::{
    auth::tokens::{ACCESS_LIFETIME_MS, REFRESH_LIFETIME_MS},
    service::auth::LoggedIn,
};
use axum::http::HeaderMap;
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};

const ACCESS: &str = "proximity-auth-cookie";
const REFRESH: &str = "proximity-refresh-cookie";

fn value(headers: &HeaderMap, name: &str) -> Option<String> {
    CookieJar::from_headers(headers)
        .get(name)
        .map(|c| c.value().to_owned())
        .filter(|v| !v.is_empty())
}

/// The access token in the cookie.
pub(super) fn access(headers: &HeaderMap) -> Option<String> {
    value(headers, ACCESS)
}

/// The refresh token in the cookie.
pub(super) fn refresh(headers: &HeaderMap) -> Option<String> {
    value(headers, REFRESH)
}

fn cookie(name: &'static str, value: String, lifetime_ms: i64, tls: bool) -> Cookie<'static> {
    Cookie::build((name, value))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(tls)
        .max_age(time::Duration::milliseconds(lifetime_ms))
        .build()
}

/// Sets both.
pub(super) fn set(answer: &LoggedIn, tls: bool) -> CookieJar {
    CookieJar::new()
        .add(cookie(ACCESS, answer.access_token.clone(), ACCESS_LIFETIME_MS, tls))
        .add(cookie(REFRESH, answer.refresh_token.clone(), REFRESH_LIFETIME_MS, tls))
}

/// Clears both.
pub(super) fn clear(tls: bool) -> CookieJar {
    CookieJar::new()
        .add(cookie(ACCESS, String::new(), 0, tls))
        .add(cookie(REFRESH, String::new(), 0, tls))
}
