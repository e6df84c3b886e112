//! Files that are there whole or not at all. Keys and certificates are made once and never overwritten; only [`replace`] puts a file in another's place.

use super::{PkiError, random};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Far above any key or certificate here.
const SIZE_MAX: u64 = 64 * 1024;

fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PkiError + 'a {
    move |source| PkiError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// The folder exists; a new one is for its owner alone.
pub(super) fn ensure_folder(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(at("make", path))
}

/// A secret file.
pub(super) struct KeyFile(PathBuf);

impl KeyFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Its content; `None` if it is not there.
    pub(super) fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, PkiError> {
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &self.0)(error)),
        };
        let meta = file.metadata().map_err(at("read", &self.0))?;
        if meta.mode() & 0o077 != 0 {
            return Err(PkiError::Exposed(self.0.clone()));
        }
        let mut content = Zeroizing::new(Vec::new());
        file.take(SIZE_MAX)
            .read_to_end(&mut content)
            .map_err(at("read", &self.0))?;
        Ok(Some(content))
    }

    /// Its content, or what `make` gives, written first. Whoever comes second reads what the first has made.
    pub(super) fn read_or_make(
        &self,
        make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, PkiError>,
    ) -> Result<Zeroizing<Vec<u8>>, PkiError> {
        if let Some(content) = self.read()? {
            return Ok(content);
        }
        place(&self.0, &make()?, 0o600)?;
        self.read()?.ok_or_else(|| PkiError::Damaged {
            path: self.0.clone(),
            detail: "it vanished".into(),
        })
    }

    /// 32 random bytes that stay the same from the first call on.
    pub(super) fn random(&self) -> Result<Zeroizing<[u8; 32]>, PkiError> {
        let content = self.read_or_make(|| Ok(Zeroizing::new(random::<32>()?.to_vec())))?;
        let bytes: [u8; 32] = content.as_slice().try_into().map_err(|_| PkiError::Damaged {
            path: self.0.clone(),
            detail: format!("{} bytes instead of 32", content.len()),
        })?;
        Ok(Zeroizing::new(bytes))
    }
}

/// Whose a new file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Of the user who runs this.
    Ours,
    /// Of the folder's owner, where root writes for the coordinator's user.
    Folders,
}

/// Writes a file beside `path`, synced, and answers where.
fn draft(path: &Path, content: &[u8], mode: u32, owner: Owner) -> Result<PathBuf, PkiError> {
    let nonce = u64::from_be_bytes(random()?);
    let draft = path.with_extension(format!("{nonce:016x}.tmp"));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .map_err(at("write", &draft))?;
    if owner == Owner::Folders {
        give_to_owner_of(folder_of(path), &file, &draft)?;
    }
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(at("write", &draft))?;
    Ok(draft)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

pub(super) fn sync_folder_of(path: &Path) -> Result<(), PkiError> {
    let folder = folder_of(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(at("write", folder))
}

/// What root makes in a folder of the coordinator's user has to be readable for that user.
pub(super) fn give_to_owner_of(folder: &Path, file: &File, path: &Path) -> Result<(), PkiError> {
    let (owner, own) = (
        fs::metadata(folder).map_err(at("read", folder))?,
        file.metadata().map_err(at("read", path))?,
    );
    if own.uid() == 0 && owner.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid())).map_err(at("give away", path))?;
    }
    Ok(())
}

/// The same for a folder that was made just now.
pub(super) fn give_folder_to_owner_of(folder: &Path, made: &Path) -> Result<(), PkiError> {
    let file = File::open(made).map_err(at("read", made))?;
    give_to_owner_of(folder, &file, made)
}

/// Writes a file that is not there yet, whole or not at all. One that is there stays as it is.
pub(super) fn place(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    place_draft(&draft(path, content, mode, Owner::Folders)?, path)
}

/// The same for a file that may lie in anybody's folder, and stays the user's own.
pub(super) fn place_for_us(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    place_draft(&draft(path, content, mode, Owner::Ours)?, path)
}

fn place_draft(draft: &Path, path: &Path) -> Result<(), PkiError> {
    // A link, unlike a rename, never replaces what another process has made in between.
    let placed = match fs::hard_link(draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    let cleared = fs::remove_file(draft);
    placed.map_err(at("write", path))?;
    cleared.map_err(at("write", draft))?;
    sync_folder_of(path)
}

/// Puts a file in the place of the one that may be there, in one step that survives a crash.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let draft = draft(path, content, mode, Owner::Folders)?;
    fs::rename(&draft, path).map_err(at("write", path))?;
    sync_folder_of(path)
}

/// The file is not there any more.
pub(super) fn ensure_gone(path: &Path) -> Result<(), PkiError> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("remove", path)(error)),
    }
}
