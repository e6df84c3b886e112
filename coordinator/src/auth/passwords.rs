//! Passwords: argon2id, off the async threads, never more at once than there are cores.

use super::AuthError;
use argon2::{
    Argon2,
    password_hash::{Error, PasswordHasher as _, PasswordVerifier as _},
};
use proximity_protocol::secret::SecretText;
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Least characters of a password.
pub const LENGTH_MIN: usize = 8;
/// Most characters of a password.
pub const LENGTH_MAX: usize = 1024;

/// What is wrong with a new password.
pub fn check_new(password: &str) -> Result<(), String> {
    match password.chars().count() {
        n if n < LENGTH_MIN => Err(format!("a password has at least {LENGTH_MIN} characters")),
        n if n > LENGTH_MAX => Err(format!("a password has at most {LENGTH_MAX} characters")),
        _ => Ok(()),
    }
}

/// Hashes and checks.
#[derive(Debug, Clone)]
pub struct Passwords {
    at_once: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            // One hash takes 19 MiB and a core for tens of milliseconds.
            at_once: Arc::new(Semaphore::new(cores)),
        }
    }
}

fn hash_now(password: &SecretText) -> Result<String, AuthError> {
    Argon2::default()
        .hash_password(password.expose().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| AuthError::Hash(error.to_string()))
}

/// A hash of a password that nobody has: checking against it takes the time that a real check takes.
fn nobodys_hash() -> Result<&'static str, AuthError> {
    static HASH: OnceLock<String> = OnceLock::new();
    match HASH.get() {
        Some(hash) => Ok(hash),
        None => {
            let hash = hash_now(&SecretText::new(uuid::Uuid::new_v4().to_string()))?;
            Ok(HASH.get_or_init(|| hash))
        }
    }
}

/// One of the few places in which a password is hashed. Whoever limits tries counts them while it holds one, so that a thousand at once are not let through
/// before the first has failed.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthError> + Send + 'static,
) -> Result<T, AuthError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| AuthError::Hash(error.to_string()))?
}

impl Turn {
    /// Whether the password is that of `hash`. Without a hash (unknown user) it takes the same time and the answer is no.
    pub async fn verify(&self, password: SecretText, hash: Option<String>) -> Result<bool, AuthError> {
        off_thread(move || {
            let known = hash.is_some();
            let hash = match hash {
                Some(hash) => hash,
                None => nobodys_hash()?.to_owned(),
            };
            match Argon2::default().verify_password(password.expose().as_bytes(), hash.as_str()) {
                Ok(()) => Ok(known),
                Err(Error::PasswordInvalid) => Ok(false),
                Err(error) => Err(AuthError::Hash(error.to_string())),
            }
        })
        .await
    }
}

impl Passwords {
    /// Waits for a place.
    pub async fn turn(&self) -> Result<Turn, AuthError> {
        let permit = Arc::clone(&self.at_once).acquire_owned().await;
        permit
            .map(|permit| Turn { _permit: permit })
            .map_err(|error| AuthError::Hash(error.to_string()))
    }

    /// Hashes a new password.
    pub async fn hash(&self, password: SecretText) -> Result<String, AuthError> {
        let _turn = self.turn().await?;
        off_thread(move || hash_now(&password)).await
    }

    /// Draws the hash that stands in for unknown users, so that the first unknown login does not take twice as long.
    pub async fn warm_up(&self) -> Result<(), AuthError> {
        off_thread(|| nobodys_hash().map(|_| ())).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_password_is_checked_against_its_hash() {
        let passwords = Passwords::default();
        let hash = passwords.hash(SecretText::new("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        let turn = passwords.turn().await.unwrap();
        let check =
            async |password: &str, hash: Option<String>| turn.verify(SecretText::new(password), hash).await.unwrap();
        assert!(check("correct horse", Some(hash.clone())).await);
        assert!(!check("correct hors", Some(hash)).await);
        assert!(!check("correct horse", None).await);
        assert!(turn.verify(SecretText::new("x"), Some("md5".into())).await.is_err());
    }

    #[test]
    fn lengths_count_characters() {
        assert!(check_new("ÄÖÜäöüßé").is_ok());
        assert!(check_new("1234567").is_err());
        assert!(check_new(&"x".repeat(1024)).is_ok());
        assert!(check_new(&"x".repeat(1025)).is_err());
    }
}
