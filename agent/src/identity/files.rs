//! The files of `<state>/identity/`: folder 0700, files 0600, each replaced whole (write beside, sync, rename, sync the folder).

use super::IdentityError;
use data_encoding::{BASE64, HEXLOWER};
use proximity_protocol::{
    ids::{JoinTokenId, NodeId},
    secret::SecretText,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

const FORMAT: u32 = 1;
/// Of the state folder as a whole, in its file `format`: raised when an older agent could not use what a newer one has left there. Each file that
/// outlives a run says its own format besides (journal, identity, published ports).
const STATE_FORMAT: u32 = 1;

/// What the identity file holds, decoded.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) node: NodeId,
    pub(super) addresses: Vec<String>,
    pub(super) certificate: Vec<u8>,
    /// The root that has issued the certificate.
    pub(super) ca: Vec<u8>,
    /// Every root that is trusted; never none.
    pub(super) roots: Vec<Vec<u8>>,
    /// Which coordinator it is: the fingerprint of the root that the join token pinned, hexadecimal. It stays when the root does not.
    pub(super) coordinator: String,
    pub(super) key: Zeroizing<Vec<u8>>,
}

/// The key of a request whose answer has not come: the same token is to be asked with the same key again.
pub(super) struct Pending {
    pub(super) token: JoinTokenId,
    pub(super) key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// A key that follows the one in use, and its certificate once it has come.
pub(super) struct Renewal {
    pub(super) node: NodeId,
    pub(super) key: Zeroizing<Vec<u8>>,
    pub(super) certificate: Option<Vec<u8>>,
    /// The root that has issued that certificate; `None`: the same as of the one before.
    pub(super) ca: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct RenewalFile {
    format: u32,
    node: NodeId,
    key_pkcs8: SecretText,
    certificate_der: Option<String>,
    #[serde(default)]
    ca_der: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    node: NodeId,
    addresses: Vec<String>,
    certificate_der: String,
    ca_der: String,
    /// Not there before a second root was heard of.
    #[serde(default)]
    roots_der: Vec<String>,
    #[serde(default)]
    coordinator: Option<String>,
    key_pkcs8: SecretText,
}

#[derive(Serialize, Deserialize)]
struct PendingFile {
    format: u32,
    token: JoinTokenId,
    key_pkcs8: SecretText,
}

pub(super) fn identity_path(state_dir: &Path) -> PathBuf {
    state_dir.join("identity/identity.json")
}

fn pending_path(state_dir: &Path) -> PathBuf {
    state_dir.join("identity/pending.json")
}

fn renewal_path(state_dir: &Path) -> PathBuf {
    state_dir.join("identity/renewal.json")
}

fn io_error<'a>(attempt: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + use<'a> {
    move |source| IdentityError::Io {
        attempt,
        path: path.into(),
        source,
    }
}

/// Makes the state folder, for root alone.
pub(crate) fn prepare_state_dir(state_dir: &Path) -> Result<(), IdentityError> {
    for folder in [state_dir.to_path_buf(), state_dir.join("identity")] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(io_error("make", &folder))?;
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700)).map_err(io_error("protect", &folder))?;
    }
    check_state_format(state_dir)
}

/// A folder without a mark is of the first format, or new: it gets one.
fn check_state_format(state_dir: &Path) -> Result<(), IdentityError> {
    let path = state_dir.join("format");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mark = format!("{STATE_FORMAT}\n");
            return replace_private(&path, mark.as_bytes()).map_err(io_error("write", &path));
        }
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    match text.trim().parse() {
        Ok(STATE_FORMAT) => Ok(()),
        Ok(format) => Err(IdentityError::Newer {
            path: state_dir.into(),
            format,
        }),
        Err(_) => Err(damaged(&path, format!("{:?} is no number", text.trim()))),
    }
}

/// Takes the state folder for one process; it is free again when the file is dropped or the process ends.
pub(crate) fn lock_state_dir(state_dir: &Path) -> Result<File, IdentityError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(IdentityError::InUse(state_dir.into())),
        Err(std::fs::TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

/// Replaces a file that only its owner may read, in one step that survives a crash.
pub(crate) fn replace_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, IdentityError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("read", path)(error)),
    };
    // First the format: a newer one may hold other fields.
    let Format { format } = serde_json::from_slice(&bytes).map_err(|error| damaged(path, error.to_string()))?;
    if format != FORMAT {
        return Err(IdentityError::Newer {
            path: path.into(),
            format,
        });
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| damaged(path, error.to_string()))
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), IdentityError> {
    let json = Zeroizing::new(serde_json::to_vec_pretty(value).map_err(|error| damaged(path, error.to_string()))?);
    replace_private(path, &json).map_err(io_error("write", path))
}

fn damaged(path: &Path, message: String) -> IdentityError {
    IdentityError::Damaged {
        path: path.into(),
        message,
    }
}

fn decode(path: &Path, text: &str) -> Result<Vec<u8>, IdentityError> {
    BASE64
        .decode(text.as_bytes())
        .map_err(|error| damaged(path, error.to_string()))
}

pub(super) fn load(state_dir: &Path) -> Result<Option<Stored>, IdentityError> {
    let path = identity_path(state_dir);
    let Some(file) = read::<IdentityFile>(&path)? else {
        return Ok(None);
    };
    let ca = decode(&path, &file.ca_der)?;
    let mut roots: Vec<Vec<u8>> = file
        .roots_der
        .iter()
        .map(|text| decode(&path, text))
        .collect::<Result<_, _>>()?;
    if roots.is_empty() {
        roots.push(ca.clone());
    }
    let coordinator = match file.coordinator {
        Some(coordinator) => coordinator,
        None => coordinator_of(&ca).ok_or_else(|| damaged(&path, "the CA's certificate cannot be read".into()))?,
    };
    Ok(Some(Stored {
        node: file.node,
        addresses: file.addresses,
        certificate: decode(&path, &file.certificate_der)?,
        ca,
        roots,
        coordinator,
        key: Zeroizing::new(decode(&path, file.key_pkcs8.expose())?),
    }))
}

/// Which coordinator has that root, as long as it has had no other.
pub(super) fn coordinator_of(ca: &[u8]) -> Option<String> {
    super::public_key_fingerprint(ca).map(|pin| HEXLOWER.encode(&pin))
}

pub(super) fn store(state_dir: &Path, stored: &Stored) -> Result<(), IdentityError> {
    let file = IdentityFile {
        format: FORMAT,
        node: stored.node,
        addresses: stored.addresses.clone(),
        certificate_der: BASE64.encode(&stored.certificate),
        ca_der: BASE64.encode(&stored.ca),
        roots_der: stored.roots.iter().map(|der| BASE64.encode(der)).collect(),
        coordinator: Some(stored.coordinator.clone()),
        key_pkcs8: SecretText::new(BASE64.encode(&stored.key)),
    };
    write(&identity_path(state_dir), &file)
}

pub(super) fn load_pending(state_dir: &Path) -> Result<Option<Pending>, IdentityError> {
    let path = pending_path(state_dir);
    let Some(file) = read::<PendingFile>(&path)? else {
        return Ok(None);
    };
    Ok(Some(Pending {
        token: file.token,
        key: Zeroizing::new(decode(&path, file.key_pkcs8.expose())?),
    }))
}

pub(super) fn store_pending(state_dir: &Path, pending: &Pending) -> Result<(), IdentityError> {
    let key_pkcs8 = SecretText::new(BASE64.encode(&pending.key));
    write(
        &pending_path(state_dir),
        &PendingFile {
            format: FORMAT,
            token: pending.token,
            key_pkcs8,
        },
    )
}

pub(super) fn load_renewal(state_dir: &Path) -> Result<Option<Renewal>, IdentityError> {
    let path = renewal_path(state_dir);
    let Some(file) = read::<RenewalFile>(&path)? else {
        return Ok(None);
    };
    Ok(Some(Renewal {
        node: file.node,
        key: Zeroizing::new(decode(&path, file.key_pkcs8.expose())?),
        certificate: file.certificate_der.map(|text| decode(&path, &text)).transpose()?,
        ca: file.ca_der.map(|text| decode(&path, &text)).transpose()?,
    }))
}

pub(super) fn store_renewal(state_dir: &Path, renewal: &Renewal) -> Result<(), IdentityError> {
    let file = RenewalFile {
        format: FORMAT,
        node: renewal.node,
        key_pkcs8: SecretText::new(BASE64.encode(&renewal.key)),
        certificate_der: renewal.certificate.as_ref().map(|der| BASE64.encode(der)),
        ca_der: renewal.ca.as_ref().map(|der| BASE64.encode(der)),
    };
    write(&renewal_path(state_dir), &file)
}

pub(super) fn remove_renewal(state_dir: &Path) -> Result<(), IdentityError> {
    remove(renewal_path(state_dir))
}

pub(super) fn remove_pending(state_dir: &Path) -> Result<(), IdentityError> {
    remove(pending_path(state_dir))
}

fn remove(path: PathBuf) -> Result<(), IdentityError> {
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
        _ => Ok(()),
    }
}
