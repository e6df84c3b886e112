//! Where a backup goes: a folder, or a Proxmox Backup Server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::archive::Squeezer;
use crate::call::{Call, Stop};
use crate::clock::{in_file_name, utc};
use crate::layout::Layout;
use crate::storage::{self, pbs};

/// Where archives go.
pub(super) enum Target {
    /// A folder; of a storage unless `--dumpdir` was given.
    Folder { storage: Option<String>, folder: PathBuf },
    /// A Proxmox Backup Server.
    Server { storage: String },
}

/// One backup on its way.
#[derive(Clone)]
pub(super) struct Place {
    /// What the log calls it: a path, or `ct/100/2026-11-22T20:11:12Z`.
    pub(super) shown: String,
    /// `vzdump` or `Proxmox Backup Server`.
    pub(super) kind: &'static str,
    pub(super) squeezer: Squeezer,
    /// What is being written.
    pub(super) temporary: PathBuf,
    /// The folder beside it, while it is.
    pub(super) work: PathBuf,
    pub(super) archive: PathBuf,
    notes: PathBuf,
    log: Option<PathBuf>,
}

impl Target {
    /// As the options say.
    pub(super) fn of(call: &Call<'_>) -> Result<Self, Stop> {
        if let Some(folder) = call.args.get("dumpdir") {
            let path = PathBuf::from(folder);
            return if path.is_dir() {
                Ok(Self::Folder {
                    storage: None,
                    folder: path,
                })
            } else {
                Err(Stop::die(format!("dumpdir '{folder}' does not exist")))
            };
        }
        let id = call.args.get("storage").unwrap_or("local").to_owned();
        let unknown = |why: String| Stop::die(format!("could not get storage information for '{id}': {why}"));
        let found = storage::find(call.layout(), &id).map_err(|stop| unknown(stop.text()))?;
        if !found.content.iter().any(|content| content == "backup") {
            return Err(unknown(format!("storage '{id}' does not support backups")));
        }
        found
            .activate(call.layout())
            .map_err(|stop| Stop::die(format!("could not activate storage '{id}': {}", stop.text())))?;
        if found.kind == "pbs" {
            return Ok(Self::Server { storage: id });
        }
        let folder = found.dump_folder(call.layout());
        fs::create_dir_all(&folder).map_err(|error| Stop::die(error.to_string()))?;
        Ok(Self::Folder {
            storage: Some(id),
            folder,
        })
    }

    pub(super) fn storage(&self) -> Option<&str> {
        match self {
            Self::Folder { storage, .. } => storage.as_deref(),
            Self::Server { storage } => Some(storage),
        }
    }

    /// The place of a backup that begins now.
    pub(super) fn place(&self, call: &Call<'_>, vmid: u32, begin_s: u64) -> Place {
        let layout = call.layout();
        let stem = format!("vzdump-lxc-{vmid}-{}", in_file_name(begin_s));
        match self {
            Self::Folder { folder, .. } => {
                let squeezer = Squeezer::of_option(call.args.get("compress").unwrap_or("0"));
                let archive = folder.join(format!("{stem}.{}", squeezer.extension()));
                Place {
                    shown: layout.node_path(&archive),
                    kind: "vzdump",
                    squeezer,
                    temporary: folder.join(format!("{stem}.tar.dat")),
                    work: folder.join(format!("{stem}.tmp")),
                    notes: with_end(&archive, "notes"),
                    log: Some(folder.join(format!("{stem}.log"))),
                    archive,
                }
            }
            Self::Server { storage } => {
                let time = utc(begin_s);
                let folder = pbs::folder(layout, storage).join(format!("ct/{vmid}/{time}"));
                Place {
                    shown: format!("ct/{vmid}/{time}"),
                    kind: "Proxmox Backup Server",
                    squeezer: Squeezer::None,
                    temporary: folder.join(format!(".{}", pbs::DATA)),
                    work: temporary_folder(layout, vmid),
                    archive: folder.join(pbs::DATA),
                    notes: folder.join(pbs::NOTES),
                    log: None,
                }
            }
        }
    }
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{end}"));
    name.into()
}

/// Of a backup that has no folder of its own.
fn temporary_folder(layout: &Layout, vmid: u32) -> PathBuf {
    layout.host_path(&format!("/var/tmp/vzdumptmp{}_{vmid}", std::process::id()))
}

impl Place {
    pub(super) fn begin(&self) -> io::Result<()> {
        if let Some(folder) = self.temporary.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::create_dir_all(&self.work)
    }

    /// What is written becomes the archive.
    pub(super) fn complete(&self, notes: Option<String>, log: &str) -> io::Result<()> {
        fs::rename(&self.temporary, &self.archive)?;
        fs::remove_dir_all(&self.work)?;
        if let Some(log_file) = &self.log {
            fs::write(log_file, log)?;
        }
        match notes {
            Some(notes) => fs::write(&self.notes, notes),
            None => Ok(()),
        }
    }

    /// It failed: what is half written goes.
    pub(super) fn give_up(&self) {
        // Nothing of it may be there yet.
        let _ = fs::remove_file(&self.temporary);
        let _ = fs::remove_dir_all(&self.work);
        if self.kind != "vzdump"
            && let Some(folder) = self.temporary.parent()
        {
            let _ = fs::remove_dir(folder);
        }
    }
}
