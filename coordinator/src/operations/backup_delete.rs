//! `backup_delete`: an archive is removed, with its log and notes; then its row goes. There is no way back from it.

use super::{
    params::BackupDeleteParams,
    step::{Act, BackupChange, Change, Kind, Step, View},
};
use proximity_protocol::{
    backup::{ArchiveRef, ArchivesToDelete},
    command::Verb,
    fault::Fault,
};

/// Deletes a backup.
pub static BACKUP_DELETE: Kind = Kind {
    name: "backup_delete",
    forward_only: true,
    beside_app: true,
    done: |_| vec![Change::Backup(BackupChange::Removed)],
    // Only where it is stuck: the archive is as good as it was.
    undone: |_, why| vec![Change::Backup(BackupChange::NotDeleted(why.to_owned()))],
    advice: |view| match view.params::<BackupDeleteParams>() {
        Ok(params) => format!(
            "On {}, look why {} cannot be removed (`pvesm list {}`, `pvesm free {}`: the storage is away, or the archive is protected in Proxmox); then delete \
             the backup again.",
            view.node,
            params.archive,
            params.archive.storage(),
            params.archive
        ),
        Err(_) => "Delete the backup again.".into(),
    },
    steps: &[Step::plain("delete", "Remove the archive", delete)],
};

fn delete(view: &View<'_>) -> Result<Act, Fault> {
    let params: BackupDeleteParams = view.params()?;
    let says = format!("Removing {} from {}", params.archive, view.node);
    let archive = ArchiveRef {
        archive: params.archive,
        app: view.app.id.clone(),
        vmid: params.vmid,
    };
    Act::send(Verb::EnsureArchivesDeleted(ArchivesToDelete::One(archive)), says)
}
