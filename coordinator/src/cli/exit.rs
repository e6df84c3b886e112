//! Exit codes.

use crate::{config::ConfigError, service::ServiceError};

/// Something failed.
pub const FAILED: u8 = 1;
/// The request was refused: what was given is wrong, or the registry says no.
pub const REFUSED: u8 = 3;
/// The configuration is wrong.
pub const CONFIGURATION: u8 = 4;
/// The catalog is wrong.
pub const CATALOG: u8 = 5;
/// An address is taken, or another coordinator runs on this state.
pub const TAKEN: u8 = 6;

/// For `--help`.
pub const TABLE: &str = "Exit codes:
  0  done
  1  it failed
  2  wrong use of the command line
  3  refused: what was given is wrong, or it exists already
  4  the configuration is wrong
  5  the catalog is wrong
  6  an address is taken, or another coordinator runs on this state folder";

/// A failure as the user sees it: one line that says what was attempted and what to do.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The line.
    pub message: String,
}

impl Failure {
    /// With this code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(CONFIGURATION, error.to_string())
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        Self::new(FAILED, error.to_string())
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Store(error) => error.into(),
            ServiceError::Internal(text) => Self::new(FAILED, text),
            refused => Self::new(REFUSED, refused.to_string()),
        }
    }
}
