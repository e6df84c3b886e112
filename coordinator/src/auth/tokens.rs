//! Signed tokens of sessions: HS256 under a key in a file of its own.

use super::{AuthError, key_file};
use crate::clock::UnixMs;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::Zeroizing;

/// How long an access token lasts.
pub const ACCESS_LIFETIME_MS: UnixMs = 60 * 60 * 1000;
/// How long a refresh token lasts.
pub const REFRESH_LIFETIME_MS: UnixMs = 7 * 24 * 60 * 60 * 1000;

const KEY_BYTES: usize = 32;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenType {
    /// Shown with each request.
    Access,
    /// Shown once, for new tokens.
    Refresh,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whose.
    pub user_id: i64,
    /// What for.
    pub token_type: TokenType,
    /// Of which session.
    pub sid: String,
    /// Which token.
    pub jti: String,
    /// When it was made, seconds since 1970.
    pub iat: i64,
    /// When it ends, seconds since 1970.
    pub exp: i64,
}

/// Signs and reads tokens.
#[derive(Clone)]
pub struct Signer {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

impl Signer {
    /// Reads `<state>/session.key`, or makes it (mode 0600) if there is none. Without it every session ends, nothing worse.
    pub fn open(state: &Path) -> Result<Self, AuthError> {
        let path = state.join("session.key");
        let key = match key_file::read(&path)? {
            Some(key) if key.len() == KEY_BYTES => key,
            Some(_) => {
                return Err(AuthError::BadKeyFile {
                    path,
                    problem: "is not a key of 32 bytes; remove it, then every user logs in again",
                });
            }
            None => {
                let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
                aws_lc_rs::rand::fill(&mut key).map_err(|_| AuthError::NoRandom)?;
                key_file::write(&path, &key)?;
                key
            }
        };
        // The end is checked against our clock, which tests can turn, and without the minute of leeway that the crate gives.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        Ok(Self {
            encoding: EncodingKey::from_secret(&key),
            decoding: DecodingKey::from_secret(&key),
            validation,
        })
    }

    /// Signs.
    pub fn sign(&self, claims: &Claims) -> Result<String, AuthError> {
        Ok(encode(&Header::new(Algorithm::HS256), claims, &self.encoding)?)
    }

    /// The claims, if the token is ours, of this type, and has not ended.
    pub fn read(&self, token: &str, wanted: TokenType, now: UnixMs) -> Option<Claims> {
        let claims = decode::<Claims>(token, &self.decoding, &self.validation).ok()?.claims;
        (claims.token_type == wanted && claims.exp.saturating_mul(1000) > now).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use data_encoding::BASE64URL_NOPAD;

    fn claims() -> Claims {
        Claims {
            user_id: 1,
            token_type: TokenType::Access,
            sid: "s".into(),
            jti: "j".into(),
            iat: 100,
            exp: 200,
        }
    }

    #[test]
    fn only_our_signature_type_and_time_count() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(dir.path()).unwrap();
        let token = signer.sign(&claims()).unwrap();
        assert_eq!(signer.read(&token, TokenType::Access, 199_999), Some(claims()));
        assert_eq!(signer.read(&token, TokenType::Access, 200_000), None);
        assert_eq!(signer.read(&token, TokenType::Refresh, 0), None);
        let again = Signer::open(dir.path()).unwrap();
        assert!(again.read(&token, TokenType::Access, 0).is_some());
        let other = tempfile::tempdir().unwrap();
        assert!(
            Signer::open(other.path())
                .unwrap()
                .read(&token, TokenType::Access, 0)
                .is_none()
        );
    }

    #[test]
    fn an_unsigned_token_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(dir.path()).unwrap();
        let payload = BASE64URL_NOPAD.encode(&serde_json::to_vec(&claims()).unwrap());
        for algorithm in ["none", "None", "HS384", "RS256"] {
            let header = BASE64URL_NOPAD.encode(format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#).as_bytes());
            assert!(
                signer
                    .read(&format!("{header}.{payload}."), TokenType::Access, 0)
                    .is_none()
            );
        }
        for text in ["", ".", "..", "a.b.c", "pxt_x"] {
            assert!(signer.read(text, TokenType::Access, 0).is_none());
        }
    }

    #[test]
    fn the_key_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        Signer::open(dir.path()).unwrap();
        let path = dir.path().join("session.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Signer::open(dir.path()), Err(AuthError::BadKeyFile { .. })));
    }
}
