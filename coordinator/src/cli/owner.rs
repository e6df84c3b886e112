//! Commands of root on the state of a service that is not root's.

use super::exit::{self, Failure};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// As root, becomes the owner of the state folder for the rest of the program: what root made there, the service could not read. Files that root names on the
/// command line are to be read before. Where nothing is there yet, or it is root's own, root stays root.
pub(super) fn become_owner(state: &Path) -> Result<(), Failure> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = match fs::metadata(state) {
        Ok(found) => (found.uid(), found.gid()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::new(
                exit::CONFIGURATION,
                format!("cannot read the state folder {}: {error}", state.display()),
            ));
        }
    };
    if uid == 0 {
        return Ok(());
    }
    // Groups first: who is not root any more cannot give them up.
    setgroups(&[])
        .and_then(|()| setgid(Gid::from_raw(gid)))
        .and_then(|()| setuid(Uid::from_raw(uid)))
        .map_err(|error| {
            Failure::new(
                exit::FAILED,
                format!(
                    "cannot act as user {uid}, whose the state folder {} is: {error}",
                    state.display()
                ),
            )
        })
}
