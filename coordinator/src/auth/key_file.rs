//! Small secret files: made once, mode 0600, written whole or not at all.

use super::AuthError;
use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};
use zeroize::Zeroizing;

fn at<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> AuthError + 'a {
    move |source| AuthError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The content; `None` if there is no such file. Refuses one that others may read.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, AuthError> {
    let mode = match fs::metadata(path) {
        Ok(meta) => meta.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    if mode & 0o077 != 0 {
        return Err(AuthError::BadKeyFile {
            path: path.to_owned(),
            problem: "can be read by others; run chmod 0600 on it",
        });
    }
    match fs::read(path) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        // Removed meanwhile: the setup code was used.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// Writes a new file beside and renames it, so that a crash leaves no half of it.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), AuthError> {
    let unfinished = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(at("write", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, path))
        .map_err(at("write", path))?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(at("write", path))?;
    }
    Ok(())
}

/// Removes it; a file that is not there is removed already.
pub(super) fn remove(path: &Path) -> Result<(), AuthError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}
