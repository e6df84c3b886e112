//! Use cases: authorise, validate, one transaction, wake the engine. A handler calls one of these and turns the answer into JSON; nothing here knows HTTP.

pub mod apps;
pub mod backups;
pub mod operations;

pub mod audit;
pub mod auth;
pub mod authority;
pub mod catalog;
pub mod clock_alarm;
pub mod drain;
pub mod enrolment;
pub mod hosts;
pub mod join_tokens;
pub mod nodes;
pub mod rescue;
pub mod schedules;
pub mod settings;
pub mod system;
pub mod upkeep;
pub mod users;

pub use crate::domain::role::Role;

use serde::Serialize;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user's id.
    pub user_id: i64,
    /// The user's name, for the audit.
    pub username: String,
    /// What the user may do.
    pub role: Role,
    /// From where, for the audit.
    pub remote: Option<String>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where, e.g. `["body", "hostname"]`.
    pub loc: Vec<String>,
    /// What is allowed.
    pub msg: String,
}

impl FieldError {
    /// An error in a field of the body.
    pub fn body(field: &str, msg: impl Into<String>) -> Self {
        Self {
            loc: vec!["body".into(), field.into()],
            msg: msg.into(),
        }
    }
}

/// Why a use case refused. The text is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// 400.
    #[error("{0}")]
    Refused(String),
    /// 401.
    #[error("{0}")]
    Unauthenticated(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 404, also for what belongs to someone else.
    #[error("{0}")]
    NotFound(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 422.
    #[error("{}", summary(.0))]
    Invalid(Vec<FieldError>),
    /// 429.
    #[error("{message}")]
    TooMany {
        /// What to do.
        message: String,
        /// Seconds.
        retry_after_s: u64,
    },
    /// 503.
    #[error("{message}")]
    Unavailable {
        /// What to do.
        message: String,
        /// Seconds.
        retry_after_s: u64,
    },
    /// 500: a bug or a broken disk; the detail goes to the log only.
    #[error("the coordinator could not read or write its registry; its log says why")]
    Store(#[from] crate::store::StoreError),
    /// 500: the same for everything that is not the registry.
    #[error("the coordinator failed; its log says why")]
    Internal(String),
}

fn summary(errors: &[FieldError]) -> String {
    errors
        .iter()
        .map(|e| format!("{}: {}", e.loc.last().map_or("", String::as_str), e.msg))
        .collect::<Vec<_>>()
        .join("; ")
}
