//! That a half-made container is ours, noted in the agent's own folder where the ownership record does not say so: the cluster has no quorum to take it down
//! there, or nobody has looked at what our tool left. The tool's own run, which proves it, is forgotten when its step waits and when its result is committed.

use super::making::CREATE;
use crate::{
    host::{NodeContext, files, tool},
    ownership::{self, OwnershipRecord},
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{OperationId, Vmid},
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

/// Notes what the runs of an operation prove, before they are dropped: of every container that a tool of ours began to make and whose record does not know
/// more.
pub(super) fn keep(node: &NodeContext, operation: OperationId) -> Result<(), Fault> {
    let ran = tool::have_run(node, operation, CREATE).map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("the agent's folder of tools cannot be read: {error}"),
        )
    })?;
    for vmid in ran {
        if let Some(record) = ownership::read(node, vmid)?
            && record.operation == operation
            && !record.is_complete()
            && !record.interrupted
        {
            note(node, vmid, &record)?;
        }
    }
    Ok(())
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

    /// An agent that starts without quorum answers the step that it takes up again before it has looked, and the tool's run goes with that answer.
    #[test]
    fn what_a_dropped_run_proves_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let (vmid, operation) = (Vmid::new(100).unwrap(), OperationId(uuid::Uuid::from_u128(1)));
        let owner = Owner {
            app: "nginx-a1b2c3d4".parse().unwrap(),
            generation: Generation(1),
        };
        let record = OwnershipRecord::begin(owner, operation, 5);
        ownership::write(&node, vmid, &record).unwrap();
        let folder = format!("var/lib/proximity-agent/tools/proximity-op-{operation}-create-1-create");
        let request = r#"{"program":"/bin/true","arguments":["create","100"],"vmid":100,"asked_unix_ms":5000}"#;
        testing::put(dir.path(), &format!("{folder}/request.json"), request);
        super::super::forget(&node, operation);
        assert!(!is_noted(&node, vmid, &record).unwrap(), "it has not run");
        testing::put(dir.path(), &format!("{folder}/request.json"), request);
        testing::put(
            dir.path(),
            &format!("{folder}/claim"),
            r#"{"pid":1,"started_ticks":1,"boot":"before"}"#,
        );
        super::super::forget(&node, operation);
        assert!(!dir.path().join(folder).exists(), "the run is dropped");
        assert!(is_noted(&node, vmid, &record).unwrap());
    }

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
