//! `ca/` in one file, and back.
//!
//! The file is JSON: a head that says what it is and of which roots, and the files, sealed by a passphrase (argon2id, then AES-256-GCM over the whole, the head
//! bound to it) or, if the operator wants it so, open. Either way it is written for its owner alone, read back and compared before it counts.
//!
//! It holds the authority and nothing else: the registry, which knows the certificates, and the key of the apps' secrets are saved with the state folder.

use super::{
    PkiError, file,
    folder::{Authorities, Folder},
    random,
};
use crate::clock::{UnixMs, rfc3339};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use data_encoding::{BASE64, HEXLOWER};
use proximity_protocol::secret::SecretText;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use zeroize::{Zeroize, Zeroizing};

const FORMAT: &str = "proximity-ca-backup/1";
const NONCE_BYTES: usize = 12;
/// Far above any folder of keys.
const SIZE_MAX: u64 = 4 * 1024 * 1024;
/// What opening costs: 64 MiB and some tenths of a second for each guess.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
/// A file may ask for no more than this when it is opened.
const MEMORY_MAX_KIB: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 100;

/// Why there is no backup, or nothing could be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Keys, certificates, files.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Nothing is overwritten.
    #[error("{0} is there already; a backup overwrites nothing: name another file, or remove that one")]
    There(PathBuf),
    /// Another kind of file, or a damaged one.
    #[error("{path} is not a whole backup of an authority: {detail}")]
    NotABackup {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Another passphrase, or the file was altered.
    #[error("{0} does not open with this passphrase, or it was altered")]
    NotOpened(PathBuf),
    /// The file is sealed.
    #[error("{0} is sealed: give the passphrase with --passphrase-file or on standard input")]
    Sealed(PathBuf),
    /// The passphrase's key.
    #[error("the passphrase cannot be made a key: {0}")]
    Passphrase(String),
    /// What was read back is not what was written.
    #[error("{0} does not read back as it was written: do not rely on it, look at the disk, and make another")]
    Differs(PathBuf),
    /// There is an authority.
    #[error("there is an authority in {0} already: move that folder away first, if it is to be replaced")]
    Occupied(PathBuf),
}

/// How the file is locked.
#[derive(Clone)]
pub enum Lock {
    /// By a passphrase.
    Passphrase(SecretText),
    /// Not at all: whoever reads the file has the authority.
    Open,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(…)",
            Self::Open => "Open",
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    made_at: String,
    /// Of the roots, oldest first, hexadecimal.
    pins: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Body {
    Sealed {
        memory_kib: u32,
        passes: u32,
        salt: String,
        content: String,
    },
    Open {
        sha256: String,
        content: String,
    },
}

#[derive(Serialize, Deserialize)]
struct BackupFile {
    head: Head,
    body: Body,
}

/// A file of the folder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    name: String,
    mode: u32,
    content: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.content.zeroize();
    }
}

/// What a backup was made of, or restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The roots' pins, oldest first, hexadecimal.
    pub pins: Vec<String>,
    /// When the backup was made, RFC 3339.
    pub made_at: String,
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    use std::io::Read as _;
    let failed = |source| PkiError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut content = Zeroizing::new(Vec::new());
    let file = fs::File::open(path).map_err(failed)?;
    file.take(SIZE_MAX).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

fn plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
}

/// Every file of the folder that is no draft and no lock.
fn collect(folder: &Path) -> Result<Vec<Kept>, PkiError> {
    let failed = |source| PkiError::File {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !plain_name(&name) || name == "lock" || name.ends_with(".tmp") {
            continue;
        }
        let meta = entry.metadata().map_err(failed)?;
        if meta.is_file() {
            kept.push(Kept {
                content: BASE64.encode(&read_file(&entry.path())?),
                mode: meta.mode() & 0o777,
                name,
            });
        }
    }
    kept.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(kept)
}

fn key_of(
    passphrase: &SecretText,
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
) -> Result<RandomizedNonceKey, BackupError> {
    let failed = |error: &dyn std::fmt::Display| BackupError::Passphrase(error.to_string());
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(|error| failed(&error))?;
    let mut key = Zeroizing::new([0_u8; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.expose().as_bytes(), salt, key.as_mut_slice())
        .map_err(|error| failed(&error))?;
    RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|error| failed(&error))
}

fn bound(head: &Head) -> Vec<u8> {
    format!("{}\n{}\n{}", head.format, head.made_at, head.pins.join(" ")).into_bytes()
}

fn lock(head: &Head, text: &[u8], with: &Lock) -> Result<Body, BackupError> {
    let passphrase = match with {
        Lock::Open => {
            return Ok(Body::Open {
                sha256: HEXLOWER.encode(&Sha256::digest(text)),
                content: BASE64.encode(text),
            });
        }
        Lock::Passphrase(passphrase) => passphrase,
    };
    let salt: [u8; 16] = random()?;
    let key = key_of(passphrase, &salt, MEMORY_KIB, PASSES)?;
    let mut content = text.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(bound(head)), &mut content)
        .map_err(|_| PkiError::Random)?;
    let mut sealed = nonce.as_ref().to_vec();
    sealed.append(&mut content);
    Ok(Body::Sealed {
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        salt: BASE64.encode(&salt),
        content: BASE64.encode(&sealed),
    })
}

/// Reads a backup and opens it.
fn open(path: &Path, with: &Lock) -> Result<(Head, Vec<Kept>), BackupError> {
    let bad = |detail: String| BackupError::NotABackup {
        path: path.to_owned(),
        detail,
    };
    let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|error| bad(error.to_string()));
    let file: BackupFile = serde_json::from_slice(&read_file(path)?).map_err(|error| bad(error.to_string()))?;
    if file.head.format != FORMAT {
        return Err(bad(format!(
            "its format is {:?}, this version knows {FORMAT:?}",
            file.head.format
        )));
    }
    let text = match (&file.body, with) {
        (Body::Open { sha256, content }, _) => {
            let text = Zeroizing::new(decode(content)?);
            if HEXLOWER.encode(&Sha256::digest(&text)) != *sha256 {
                return Err(bad("its checksum is wrong".into()));
            }
            text
        }
        (Body::Sealed { .. }, Lock::Open) => return Err(BackupError::Sealed(path.to_owned())),
        (
            Body::Sealed {
                memory_kib,
                passes,
                salt,
                content,
            },
            Lock::Passphrase(passphrase),
        ) => {
            if *memory_kib > MEMORY_MAX_KIB || *passes > PASSES_MAX {
                return Err(bad("it asks for more work than any backup of ours".into()));
            }
            let not_opened = || BackupError::NotOpened(path.to_owned());
            let key = key_of(passphrase, &decode(salt)?, *memory_kib, *passes)?;
            let sealed = Zeroizing::new(decode(content)?);
            let (nonce, rest) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(not_opened)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| not_opened())?;
            let mut rest = Zeroizing::new(rest.to_vec());
            let text = key
                .open_in_place(nonce, Aad::from(bound(&file.head)), &mut rest)
                .map_err(|_| not_opened())?;
            Zeroizing::new(text.to_vec())
        }
    };
    let kept: Vec<Kept> = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if let Some(odd) = kept.iter().find(|kept| !plain_name(&kept.name)) {
        return Err(bad(format!("it holds a file named {:?}", odd.name)));
    }
    Ok((file.head, kept))
}

fn pins(authorities: &Authorities) -> Vec<String> {
    authorities
        .held
        .iter()
        .map(|held| HEXLOWER.encode(&held.root.pin))
        .collect()
}

impl super::Pki {
    /// Saves the authority in the new file `path`, reads it back, and remembers that it is saved as it is now.
    pub fn back_up(&self, path: &Path, with: &Lock, now: UnixMs) -> Result<Saved, BackupError> {
        if path.exists() {
            return Err(BackupError::There(path.to_owned()));
        }
        let folder = &self.0.folder;
        let (head, kept, plan) = folder.at_rest(|| {
            let plan = folder.plan_text()?;
            // Everything that is needed is there and fits, or it is no backup.
            let authorities = folder.read(plan.as_deref())?;
            let head = Head {
                format: FORMAT.into(),
                made_at: rfc3339(now),
                pins: pins(&authorities),
            };
            Ok((head, collect(folder.path())?, plan))
        })?;
        let text = Zeroizing::new(serde_json::to_vec(&kept).map_err(|error| BackupError::NotABackup {
            path: path.to_owned(),
            detail: error.to_string(),
        })?);
        let body = lock(&head, &text, with)?;
        let written =
            serde_json::to_vec_pretty(&BackupFile { head, body }).map_err(|error| BackupError::NotABackup {
                path: path.to_owned(),
                detail: error.to_string(),
            })?;
        file::place_for_us(path, &Zeroizing::new(written), 0o600)?;
        let (head, read_back) = open(path, with)?;
        if read_back != kept {
            return Err(BackupError::Differs(path.to_owned()));
        }
        folder.backed_up(plan.as_deref(), now)?;
        self.look_again()?;
        Ok(Saved {
            pins: head.pins,
            made_at: head.made_at,
        })
    }
}

/// Puts the authority of a backup into a state folder that has none. Nothing is there before all of it is.
pub fn restore(state: &Path, from: &Path, with: &Lock, now: UnixMs) -> Result<Saved, BackupError> {
    let (head, kept) = open(from, with)?;
    let target = state.join("ca");
    let occupied = match fs::read_dir(&target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => false,
    };
    if occupied {
        return Err(BackupError::Occupied(target));
    }
    let beside = state.join(format!("ca.restored-{:016x}", u64::from_be_bytes(random()?)));
    file::ensure_folder(&beside)?;
    file::give_folder_to_owner_of(state, &beside)?;
    let done = fill(&beside, &kept, &head).and_then(|()| {
        fs::rename(&beside, &target).map_err(|source| {
            BackupError::Pki(PkiError::File {
                action: "write",
                path: target.clone(),
                source,
            })
        })
    });
    if let Err(error) = done {
        // What is half there must not be taken for an authority; that it cannot be removed is the lesser evil.
        if let Err(left) = fs::remove_dir_all(&beside) {
            tracing::warn!(error = %left, path = %beside.display(), "what was begun could not be removed");
        }
        return Err(error);
    }
    file::sync_folder_of(&target)?;
    let folder = Folder::new(target);
    folder.backed_up(folder.plan_text()?.as_deref(), now)?;
    Ok(Saved {
        pins: head.pins,
        made_at: head.made_at,
    })
}

fn fill(folder: &Path, kept: &[Kept], head: &Head) -> Result<(), BackupError> {
    for kept in kept {
        let path = folder.join(&kept.name);
        let content = BASE64
            .decode(kept.content.as_bytes())
            .map_err(|error| BackupError::NotABackup {
                path: path.clone(),
                detail: error.to_string(),
            })?;
        file::place(&path, &Zeroizing::new(content), kept.mode & 0o644)?;
    }
    let folder = Folder::new(folder.to_owned());
    let authorities = folder.read(folder.plan_text()?.as_deref())?;
    if pins(&authorities) != head.pins {
        return Err(BackupError::NotABackup {
            path: folder.path().to_owned(),
            detail: "its roots are not those that its head names".into(),
        });
    }
    Ok(())
}
