//! The file locks of the real tools: `flock`, with their words and their patience.

use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;

use crate::call::{Call, Stop};

/// How long the tools wait for a container's configuration lock.
pub(crate) const CONFIG_LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// `pct create` is less patient.
pub(crate) const CREATE_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a held lock is tried again.
const POLL: Duration = Duration::from_millis(50);

/// Opens a lock file, and takes nothing yet.
pub(crate) fn open_lock(path: &std::path::Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Opens a lock file and tries once; `Ok(None)`: another holds it.
pub(crate) fn try_lock(path: &std::path::Path) -> std::io::Result<Option<File>> {
    let file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Takes the lock of a container's configuration; the file is unlocked when it is dropped.
pub(crate) fn config_lock(call: &mut Call<'_>, vmid: u32, timeout: Duration) -> Result<File, Stop> {
    let path = call.node.layout.config_lock(vmid);
    let shown = call.node.layout.node_path(&path);
    let attempt =
        |_: &Call<'_>| try_lock(&path).map_err(|error| Stop::die(format!("can't open file '{shown}' - {error}")));
    if let Some(file) = attempt(call)? {
        return Ok(file);
    }
    call.complain("trying to acquire lock...");
    let until = call.node.clock.now_ms() + u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    while call.node.clock.now_ms() < until {
        call.check_signals()?;
        call.node.clock.sleep(POLL);
        if let Some(file) = attempt(call)? {
            call.complain(" OK");
            return Ok(file);
        }
    }
    Err(Stop::die(format!("can't lock file '{shown}' - got timeout")))
}
