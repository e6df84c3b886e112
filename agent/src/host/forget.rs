//! Cleaning up behind tools.

use super::{
    NodeContext,
    tool_dir::{Phase, ToolDir},
};
use proximity_protocol::ids::OperationId;
use std::{fs, io, path::PathBuf};

fn folders(node: &NodeContext) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(node.state("tools"))?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// Removes what the tools of a committed operation left. A tool that still runs keeps its folder until it has ended and the next call comes by.
pub fn forget(node: &NodeContext, operation: OperationId) {
    let prefix = format!("proximity-op-{operation}-");
    let marked = folders(node).and_then(|folders| {
        folders
            .iter()
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .try_for_each(|path| fs::write(path.join("forgotten"), b""))
    });
    if let Err(error) = marked {
        tracing::warn!(%error, operation_id = %operation, "results of tools could not be marked for removal; the next commit tries again");
    }
    sweep(node);
}

/// Names of the tools that run.
pub(crate) fn running(node: &NodeContext) -> io::Result<Vec<String>> {
    let folders = match folders(node) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut running = Vec::new();
    for path in folders {
        if ToolDir(path.clone()).phase(node.tools())? == Phase::Running
            && let Some(name) = path.file_name()
        {
            running.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(running)
}

/// Removes what is marked and has ended.
pub(super) fn sweep(node: &NodeContext) {
    let swept = folders(node).and_then(|folders| {
        for path in folders.into_iter().filter(|path| path.join("forgotten").exists()) {
            // Unclaimed is kept out: a shim may be about to claim it.
            if matches!(
                ToolDir(path.clone()).phase(node.tools())?,
                Phase::Ended(_) | Phase::Lost
            ) {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "old results of tools could not be removed; the next commit tries again");
    }
}
