//! Backups of hollow containers: a tar of the files inside, as `vzdump` would make it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::archive::tar::{self, Entry};
use crate::archive::{CONFIG, Squeezer};
use crate::body::{BodyError, Packing, io_at};

/// Says that the recipe was installed; no part of the tree.
const INSTALLED: &str = "./.pve-sim-installed";
/// What an empty Debian system adds to a backup, for the words that count bytes.
const BASE_BYTES: u64 = 175_616_000;

/// Writes what `container` (a `lxc_dir`, or a snapshot of one) holds, without what lies below `left_out`; answers the bytes that went in.
pub(crate) fn pack(
    container: &Path,
    left_out: &[String],
    target: &Path,
    packing: &Packing<'_>,
) -> Result<u64, BodyError> {
    let file = |path: &str, content: &[u8]| Entry {
        path: path.to_owned(),
        mode: 0o644,
        content: Some(content.to_vec()),
    };
    let mut entries = vec![file(CONFIG, packing.config.as_bytes())];
    if container.join("installed").exists() {
        entries.push(file(INSTALLED, b""));
    }
    collect(&container.join("files"), ".", left_out, &mut entries)?;
    let tar = tar::write(&entries);
    fs::write(target, packing.squeezer.squeeze(&tar)).map_err(io_at(target))?;
    Ok(BASE_BYTES + tar.len() as u64)
}

fn collect(folder: &Path, prefix: &str, left_out: &[String], entries: &mut Vec<Entry>) -> Result<(), BodyError> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(io_at(folder))? {
        let entry = entry.map_err(io_at(folder))?;
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        let mode = entry.metadata().map_err(io_at(folder))?.permissions().mode() & 0o7777;
        if entry.path().is_dir() {
            entries.push(Entry {
                path: path.clone(),
                mode,
                content: None,
            });
            // The folder on which it is mounted stays.
            if !left_out.iter().any(|point| path == format!(".{point}")) {
                collect(&entry.path(), &path, left_out, entries)?;
            }
        } else {
            entries.push(Entry {
                path,
                mode,
                content: Some(fs::read(entry.path()).map_err(io_at(folder))?),
            });
        }
    }
    Ok(())
}

/// What a backup holds; `None`: it is a placeholder of a template.
fn read(archive: &Path) -> Result<Option<(Vec<Entry>, u64)>, BodyError> {
    let bytes = fs::read(archive).map_err(io_at(archive))?;
    let squeezer = Squeezer::of_bytes(&bytes);
    let is_tar = bytes.get(257..262) == Some(b"ustar");
    let is_template = archive
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|folder| folder == "cache");
    if is_template && squeezer == Squeezer::None && !is_tar {
        return Ok(None);
    }
    let tar = squeezer.unsqueeze(&bytes).map_err(BodyError::Failed)?;
    let entries = tar::read(&tar).map_err(BodyError::Failed)?;
    Ok(Some((entries, BASE_BYTES + tar.len() as u64)))
}

/// The configuration that it holds.
pub(crate) fn config(archive: &Path) -> Result<String, BodyError> {
    let found = read(archive)?
        .into_iter()
        .flat_map(|(entries, _)| entries)
        .find(|entry| entry.path == CONFIG)
        .and_then(|entry| String::from_utf8(entry.content?).ok());
    found.ok_or_else(|| {
        BodyError::Failed(
            "unable to extract configuration: tar: ./etc/vzdump/pct.conf: Not found in archive".to_owned(),
        )
    })
}

/// Unpacks a backup and answers its size; `None`: it is a placeholder of a template.
pub(crate) fn unpack(archive: &Path, container: &Path) -> Result<Option<u64>, BodyError> {
    let Some((entries, size)) = read(archive)? else {
        return Ok(None);
    };
    let files = container.join("files");
    for entry in entries.into_iter().filter(|entry| entry.path != CONFIG) {
        if entry.path == INSTALLED {
            let mark = container.join("installed");
            fs::write(&mark, "").map_err(io_at(&mark))?;
            continue;
        }
        let path = files.join(entry.path.trim_start_matches("./"));
        match entry.content {
            None => fs::create_dir_all(&path).map_err(io_at(&path))?,
            Some(bytes) => fs::write(&path, bytes).map_err(io_at(&path))?,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).map_err(io_at(&path))?;
    }
    Ok(Some(size))
}
