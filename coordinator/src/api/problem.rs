//! Refusals and failures as RFC 9457 problem documents.

use crate::service::{FieldError, ServiceError};
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// What is wrong. It becomes a response without a body; the envelope adds the request's id and writes the document.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_s: Option<u64>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

/// What a handler answers.
pub(super) type Answer<T> = Result<T, Problem>;

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_s: None,
        }
    }

    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        ServiceError::Invalid(errors).into()
    }

    /// In words, for the audit.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// What is said of a response that the framework made.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let detail = match status {
            StatusCode::NOT_FOUND => "there is nothing at this path; see the API's reference for what there is",
            StatusCode::METHOD_NOT_ALLOWED => {
                "this path does not take this method; the Allow header says which it takes"
            }
            StatusCode::PAYLOAD_TOO_LARGE => "the body is larger than 1 MiB; send less",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "send the body as application/json",
            StatusCode::REQUEST_TIMEOUT => "the request took longer than 30 seconds; try again",
            StatusCode::BAD_REQUEST => "the request is malformed; check its path and query",
            _ if status.is_server_error() => "the coordinator failed; its log tells more under this request's id",
            _ => "the request was refused",
        };
        Self::new(status, detail)
    }

    /// Writes the document over what the response had as a body; its headers (such as Allow) stay.
    pub(super) fn write(&self, response: &mut Response, request_id: &str) {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            request_id,
            errors: &self.errors,
        };
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        *response.status_mut() = self.status;
        *response.body_mut() = Body::from(body);
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let detail = error.to_string();
        let status = match &error {
            ServiceError::Refused(_) => StatusCode::BAD_REQUEST,
            ServiceError::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            ServiceError::Forbidden(_) => StatusCode::FORBIDDEN,
            ServiceError::NotFound(_) => StatusCode::NOT_FOUND,
            ServiceError::Conflict(_) => StatusCode::CONFLICT,
            ServiceError::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ServiceError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            ServiceError::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            ServiceError::Store(error) => {
                tracing::error!(%error, "a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
            ServiceError::Internal(error) => {
                tracing::error!(%error, "a request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let mut problem = Self::new(status, detail);
        match error {
            ServiceError::Invalid(errors) => problem.errors = errors,
            ServiceError::TooMany { retry_after_s, .. } | ServiceError::Unavailable { retry_after_s, .. } => {
                problem.retry_after_s = Some(retry_after_s);
            }
            _ => {}
        }
        problem
    }
}
