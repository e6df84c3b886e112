//! Bodies and queries, parsed into types; whatever is wrong with them is a 400, 413, 415 or 422 that names the field.

use super::problem::Problem;
use crate::service::FieldError;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

/// A query string. Unknown parameters are refused if `T` denies unknown fields.
pub(super) struct Params<T>(pub(super) T);

/// No query parameters at all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// For paths that take no query parameters.
pub(super) type NoParams = Params<Nothing>;

fn is_json(request: &Request) -> bool {
    request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .map(|v| v.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .is_some_and(|kind| kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")))
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    // Told before it is sent: nothing is read of what would be too much.
    let told = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|length| length > super::BODY_MAX_BYTES as u64) {
        return Err(Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE));
    }
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE),
            _ => Problem::new(StatusCode::BAD_REQUEST, "the body broke off; send the request again"),
        })
}

/// The name between the first pair of backticks, as serde's messages carry it.
fn named(message: &str) -> Option<&str> {
    message.split('`').nth(1)
}

/// Where a value is wrong. serde names the parent of a field that is missing or unknown, and the field in the message.
fn location(root: &str, path: &str, message: &str) -> Vec<String> {
    let mut loc = vec![root.to_owned()];
    loc.extend(
        path.split('.')
            .filter(|p| !p.is_empty() && *p != ".")
            .map(str::to_owned),
    );
    let about_field = ["missing field", "unknown field", "duplicate field"];
    if about_field.iter().any(|m| message.starts_with(m))
        && let Some(name) = named(message)
        && loc.last().map(String::as_str) != Some(name)
    {
        loc.push(name.to_owned());
    }
    loc
}

/// serde's messages without the place in the text, which `loc` says better.
fn without_place(message: &str) -> &str {
    message.rfind(" at line ").map_or(message, |at| &message[..at])
}

/// serde's words about unknown and missing fields, as a user of the API would say it.
fn plain(message: &str) -> String {
    let quoted = |text: &str| {
        text.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    if message.starts_with("unknown field") {
        let names = quoted(message);
        return match names.split_first() {
            Some((_, known)) if !known.is_empty() => format!("is not known here; known: {}", known.join(", ")),
            _ => "is not known here; nothing is taken".into(),
        };
    }
    if message.starts_with("missing field") {
        return "is required".into();
    }
    message.to_owned()
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        format!("the body is not JSON ({error}); send a JSON object"),
    )
}

/// serde would take a list for a struct, field by field; nobody means that.
fn only_objects(bytes: &[u8]) -> Result<(), Problem> {
    if bytes.trim_ascii_start().starts_with(b"{") {
        return Ok(());
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        Err(error) => Err(malformed(&error)),
        Ok(_) => Err(Problem::invalid(vec![FieldError {
            loc: vec!["body".into()],
            msg: "has to be a JSON object".into(),
        }])),
    }
}

/// A body that is JSON but not what it has to be.
fn mistaken(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let message = error.inner().to_string();
    let message = without_place(&message);
    Problem::invalid(vec![FieldError {
        loc: location("body", &error.path().to_string(), message),
        msg: plain(message),
    }])
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    only_objects(bytes)?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed: Result<T, _> = serde_path_to_error::deserialize(&mut deserializer);
    match parsed {
        Ok(value) => match deserializer.end() {
            Ok(()) => Ok(value),
            Err(error) => Err(malformed(&error)),
        },
        Err(error) if error.inner().is_data() => Err(mistaken(&error)),
        Err(error) => Err(malformed(error.inner())),
    }
}

/// A body that was looked at as a whole before, as its type.
pub(super) fn typed<T: DeserializeOwned>(body: serde_json::Map<String, serde_json::Value>) -> Result<T, Problem> {
    serde_path_to_error::deserialize(serde_json::Value::Object(body)).map_err(|error| mistaken(&error))
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = is_json(&request);
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "the body is empty; send a JSON object",
            ));
        }
        if !json {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let json = is_json(&request);
        let bytes = bytes(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !json {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        parse(&bytes).map(Self)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text
                    .strip_prefix("Failed to deserialize query string: ")
                    .unwrap_or(&text);
                let (path, message) = match text.split_once(": ") {
                    Some((path, message)) if !path.contains(' ') => (path, message),
                    _ => ("", text),
                };
                Err(Problem::invalid(vec![FieldError {
                    loc: location("query", path, message),
                    msg: plain(message),
                }]))
            }
        }
    }
}
