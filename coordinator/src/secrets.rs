//! Sealing of app secrets: AES-256-GCM under a key that lives in a file of its own, so that the registry alone opens nothing.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    rand,
};
use proximity_protocol::secret::SecretText;
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 12;

/// What can go wrong with secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key's file.
    #[error("cannot read or write the key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key's file holds something else.
    #[error("{path} is not a key of 32 bytes; restore it from a backup: without it the apps' secrets cannot be read")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// It is gone, and with it what it sealed.
    #[error(
        "{path} is missing, but the registry holds secrets of apps that only this key opens: restore it from a backup"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read the key.
    #[error("{path} can be read by others; run: chmod 0600 {path}")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// Another key sealed it, or it was altered.
    #[error("the secret {name} of {app} cannot be opened with this key")]
    NotOpened {
        /// The app.
        app: String,
        /// The name.
        name: String,
    },
}

/// Seals and opens.
pub struct Sealer {
    key: RandomizedNonceKey,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    /// Reads `<state>/secrets.key`, or makes it (mode 0600) if there is none.
    pub fn open(state_dir: &Path, in_use: bool) -> Result<Self, SecretError> {
        let path = state_dir.join("secrets.key");
        let file = |source| SecretError::File {
            path: path.clone(),
            source,
        };
        match fs::metadata(&path) {
            Ok(meta) if meta.permissions().mode() & 0o077 != 0 => return Err(SecretError::Open { path }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && in_use => {
                return Err(SecretError::Missing { path });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(state_dir, &path)?,
            Err(error) => return Err(file(error)),
        }
        let key = Zeroizing::new(fs::read(&path).map_err(file)?);
        let key =
            RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| SecretError::NotAKey { path: path.clone() })?;
        Ok(Self { key })
    }

    /// Nonce, ciphertext and tag, bound to app and name.
    pub fn seal(&self, app: &str, name: &str, secret: &SecretText) -> Result<Vec<u8>, SecretError> {
        let mut text = secret.expose().as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(bound(app, name)), &mut text)
            .map_err(|_| SecretError::NoRandom)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut text);
        Ok(sealed)
    }

    /// Opens what `seal` made for the same app and name.
    pub fn unseal(&self, app: &str, name: &str, sealed: &[u8]) -> Result<SecretText, SecretError> {
        let failed = || SecretError::NotOpened {
            app: app.into(),
            name: name.into(),
        };
        let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(failed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
        let mut rest = Zeroizing::new(rest.to_vec());
        let text = self
            .key
            .open_in_place(nonce, Aad::from(bound(app, name)), &mut rest)
            .map_err(|_| failed())?;
        std::str::from_utf8(text).map(SecretText::new).map_err(|_| failed())
    }
}

fn bound(app: &str, name: &str) -> Vec<u8> {
    format!("{app}\n{name}").into_bytes()
}

fn make_key(state_dir: &Path, path: &Path) -> Result<(), SecretError> {
    let file = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(file)?;
    let mut key = Zeroizing::new([0_u8; 32]);
    rand::fill(key.as_mut_slice()).map_err(|_| SecretError::NoRandom)?;
    // Whole or not at all: a key that was cut short by a crash would lock out every secret sealed later.
    let unfinished = path.with_extension("key.new");
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(file)?;
    out.write_all(key.as_slice())
        .and_then(|()| out.sync_all())
        .map_err(file)?;
    fs::rename(&unfinished, path).map_err(file)?;
    fs::File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(file)
}

/// A new secret of `length` letters and digits (5.95 bits each).
pub fn generate(length: u8) -> Result<SecretText, SecretError> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = Zeroizing::new(String::with_capacity(length.into()));
    let mut bytes = Zeroizing::new([0_u8; 64]);
    while text.len() < length.into() {
        rand::fill(bytes.as_mut_slice()).map_err(|_| SecretError::NoRandom)?;
        // 248 is the largest multiple of 62 in a byte: what lies above would favour the first letters.
        let drawn = bytes
            .iter()
            .filter(|b| **b < 248)
            .map(|b| char::from(LETTERS[usize::from(b % 62)]));
        let missing = usize::from(length) - text.len();
        text.extend(drawn.take(missing));
    }
    Ok(SecretText::new(text.as_str()))
}

/// 32 random bits for an app's id.
pub fn random_u32() -> Result<u32, SecretError> {
    let mut bytes = [0_u8; 4];
    rand::fill(&mut bytes).map_err(|_| SecretError::NoRandom)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_for_its_app_and_name_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(dir.path(), false).unwrap();
        let secret = SecretText::new("hunter2");
        let sealed = sealer.seal("db-00000001", "PASSWORD", &secret).unwrap();
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_ne!(sealed, sealer.seal("db-00000001", "PASSWORD", &secret).unwrap());
        let again = Sealer::open(dir.path(), false).unwrap();
        assert_eq!(again.unseal("db-00000001", "PASSWORD", &sealed).unwrap(), secret);
        assert!(again.unseal("db-00000002", "PASSWORD", &sealed).is_err());
        assert!(again.unseal("db-00000001", "OTHER", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(again.unseal("db-00000001", "PASSWORD", &altered).is_err(), "byte {at}");
        }
        assert!(again.unseal("db-00000001", "PASSWORD", &sealed[..5]).is_err());
        let other = tempfile::tempdir().unwrap();
        assert!(
            Sealer::open(other.path(), false)
                .unwrap()
                .unseal("db-00000001", "PASSWORD", &sealed)
                .is_err()
        );
    }

    #[test]
    fn a_key_file_is_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        Sealer::open(dir.path(), false).unwrap();
        let path = dir.path().join("secrets.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Sealer::open(dir.path(), false), Err(SecretError::Open { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(
            Sealer::open(dir.path(), false),
            Err(SecretError::NotAKey { .. })
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(
            Sealer::open(dir.path(), true),
            Err(SecretError::Missing { .. })
        ));
        assert!(!path.exists(), "a new key would not open what the old one sealed");
    }

    #[test]
    fn generated_secrets_differ() {
        let (a, b) = (generate(100).unwrap(), generate(100).unwrap());
        assert_eq!(a.expose().len(), 100);
        assert!(a.expose().bytes().all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(a, b);
    }
}
