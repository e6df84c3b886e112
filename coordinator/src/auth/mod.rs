//! Who asks: passwords, sessions, tokens of users.
//!
//! A login opens a *session* (a row). It hands out an access token (60 minutes) and a refresh token (7 days), both signed with a key in a file of its own. Every
//! request looks its session up, so that a logout or a deactivated user counts at once. A refresh token works once; for ten seconds more it is answered with
//! tokens of the same session (two tabs), after that its use means that somebody copied it, and the session ends.
//!
//! What a known user may do is decided in `service`.

mod key_file;
pub mod passwords;
pub mod rate_limit;
pub mod sessions;
pub mod setup_code;
pub mod tokens;

use std::path::PathBuf;

/// What can go wrong with authentication itself, not with what was shown.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The registry.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A key or the setup code.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read`, `write`, `remove`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key file that others may read, or of the wrong length.
    #[error("{path} {problem}")]
    BadKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, what to do.
        problem: &'static str,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// A stored hash cannot be read, or hashing failed.
    #[error("a password cannot be hashed or checked: {0}")]
    Hash(String),
    /// Signing failed.
    #[error("a token cannot be signed: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}
