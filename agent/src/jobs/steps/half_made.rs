//! That a half-made container is ours, noted in the agent's own folder while the cluster has no quorum to take it down in the ownership record: the tool's own
//! run is forgotten while the step waits.

use crate::{
    host::{NodeContext, files},
    ownership::OwnershipRecord,
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::Vmid,
};
use std::path::PathBuf;

fn path(node: &NodeContext, vmid: Vmid) -> PathBuf {
    node.state("half-made").join(vmid.to_string())
}

fn failed(act: &str, vmid: Vmid, error: impl std::fmt::Display) -> Fault {
    Fault::new(
        FaultKind::Internal,
        format!("the agent cannot {act} its note on the half-made container {vmid}: {error}"),
    )
}

/// Notes that our tool left the container of this record half made.
pub(super) fn note(node: &NodeContext, vmid: Vmid, record: &OwnershipRecord) -> Result<(), Fault> {
    let written = (|| {
        files::private_dir(&node.state("half-made"))?;
        files::write_private(&path(node, vmid), &serde_json::to_vec(record)?)
    })();
    written.map_err(|error: std::io::Error| failed("write", vmid, error))
}

/// Whether that was noted of the container of this record.
pub(super) fn is_noted(node: &NodeContext, vmid: Vmid, record: &OwnershipRecord) -> Result<bool, Fault> {
    let text = files::read_if_there(&path(node, vmid)).map_err(|error| failed("read", vmid, error))?;
    // A note that cannot be understood is none: then the container is nobody's of ours.
    let noted = text.and_then(|text| serde_json::from_str::<OwnershipRecord>(&text).ok());
    Ok(noted.is_some_and(|noted| noted == *record))
}

/// Forgets the note; none is fine.
pub(super) fn forget(node: &NodeContext, vmid: Vmid) -> Result<(), Fault> {
    files::remove_if_there(&path(node, vmid)).map_err(|error| failed("remove", vmid, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;
    use proximity_protocol::ids::{Generation, OperationId, Owner};

    #[test]
    fn a_note_is_of_one_record_alone() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let vmid = Vmid::new(100).unwrap();
        let owner = Owner {
            app: "nginx-a1b2c3d4".parse().unwrap(),
            generation: Generation(1),
        };
        let record = OwnershipRecord::begin(owner.clone(), OperationId(uuid::Uuid::from_u128(1)), 5);
        assert!(!is_noted(&node, vmid, &record).unwrap());
        note(&node, vmid, &record).unwrap();
        assert!(is_noted(&node, vmid, &record).unwrap());
        let later = OwnershipRecord::begin(owner, OperationId(uuid::Uuid::from_u128(2)), 6);
        assert!(!is_noted(&node, vmid, &later).unwrap());
        forget(&node, vmid).unwrap();
        forget(&node, vmid).unwrap();
        assert!(!is_noted(&node, vmid, &record).unwrap());
    }
}
