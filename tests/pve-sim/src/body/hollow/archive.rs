//! Backups of hollow containers: a JSON list of the files inside, under the name that the real archive would have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::body::{BodyError, io_at};

/// First bytes of an archive of ours; anything else is a placeholder of a template.
const MAGIC: &str = "pve-sim archive\n";
/// What an empty Debian system adds to a backup, for the words that count bytes.
const BASE_BYTES: u64 = 175_616_000;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    path: String,
    mode: u32,
    /// `None`: a folder.
    content: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Archive {
    entries: Vec<Entry>,
    installed: bool,
}

/// Writes what `container` (a `lxc_dir`) holds; answers the bytes that went in.
pub(crate) fn pack(container: &Path, target: &Path) -> Result<u64, BodyError> {
    let mut archive = Archive {
        installed: container.join("installed").exists(),
        ..Archive::default()
    };
    collect(&container.join("files"), "", &mut archive.entries)?;
    let json = serde_json::to_string(&archive).map_err(|error| BodyError::Failed(error.to_string()))?;
    fs::write(target, format!("{MAGIC}{json}")).map_err(io_at(target))?;
    Ok(BASE_BYTES + json.len() as u64)
}

fn collect(folder: &Path, prefix: &str, entries: &mut Vec<Entry>) -> Result<(), BodyError> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let entry = entry.map_err(io_at(folder))?;
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let mode = entry.metadata().map_err(io_at(folder))?.permissions().mode() & 0o7777;
        if entry.path().is_dir() {
            entries.push(Entry {
                path: path.clone(),
                mode,
                content: None,
            });
            collect(&entry.path(), &format!("{path}/"), entries)?;
        } else {
            let bytes = fs::read(entry.path()).map_err(io_at(folder))?;
            entries.push(Entry {
                path,
                mode,
                content: Some(data_encoding::BASE64.encode(&bytes)),
            });
        }
    }
    Ok(())
}

/// Unpacks a backup of ours and answers its size; `None`: it is a placeholder of a template.
pub(crate) fn unpack(archive: &Path, container: &Path) -> Result<Option<u64>, BodyError> {
    let bytes = fs::read(archive).map_err(io_at(archive))?;
    let Some(json) = bytes.strip_prefix(MAGIC.as_bytes()) else {
        return Ok(None);
    };
    let size = BASE_BYTES + json.len() as u64;
    let archive: Archive =
        serde_json::from_slice(json).map_err(|error| BodyError::Failed(format!("tar: broken archive: {error}")))?;
    let files = container.join("files");
    for entry in archive.entries {
        let path = files.join(&entry.path);
        match entry.content {
            None => fs::create_dir_all(&path).map_err(io_at(&path))?,
            Some(text) => {
                let bytes = data_encoding::BASE64
                    .decode(text.as_bytes())
                    .map_err(|error| BodyError::Failed(format!("tar: broken archive: {error}")))?;
                fs::write(&path, bytes).map_err(io_at(&path))?;
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).map_err(io_at(&path))?;
    }
    if archive.installed {
        let mark = container.join("installed");
        fs::write(&mark, "").map_err(io_at(&mark))?;
    }
    Ok(Some(size))
}
