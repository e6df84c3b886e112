//! That an operation of ours began to move a container, noted in the agent's own folder before the tool is called: a lock that the tool leaves when it is killed
//! is known as ours by it, also to a later try and to the way back, when the tool's run is forgotten.

use crate::host::{NodeContext, files};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{OperationId, Vmid},
};
use std::path::PathBuf;

fn path(node: &NodeContext, vmid: Vmid) -> PathBuf {
    node.state("moving").join(vmid.to_string())
}

fn failed(act: &str, vmid: Vmid, error: impl std::fmt::Display) -> Fault {
    Fault::new(
        FaultKind::Internal,
        format!("the agent cannot {act} its note on the move of container {vmid}: {error}"),
    )
}

/// Notes that this operation moves the container, which nobody had locked.
pub(super) fn note(node: &NodeContext, vmid: Vmid, operation: OperationId) -> Result<(), Fault> {
    let written = files::private_dir(&node.state("moving"))
        .and_then(|()| files::write_private(&path(node, vmid), operation.to_string().as_bytes()));
    written.map_err(|error| failed("write", vmid, error))
}

/// Whether that was noted of this operation.
pub(super) fn is_noted(node: &NodeContext, vmid: Vmid, operation: OperationId) -> Result<bool, Fault> {
    let text = files::read_if_there(&path(node, vmid)).map_err(|error| failed("read", vmid, error))?;
    Ok(text.is_some_and(|text| text == operation.to_string()))
}

/// Forgets the note; none is fine.
pub(super) fn forget(node: &NodeContext, vmid: Vmid) -> Result<(), Fault> {
    files::remove_if_there(&path(node, vmid)).map_err(|error| failed("remove", vmid, error))
}
