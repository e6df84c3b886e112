//! Cleaning up behind tools.

use super::{
    NodeContext, ProcessStamp,
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
            let dir = ToolDir(path.clone());
            let goes = match dir.phase(node.tools())? {
                Phase::Ended(_) | Phase::Lost => true,
                // The machine or the agent went down before its shim came. One that still comes finds it claimed, and runs nothing that nobody wants any more.
                Phase::Unclaimed => dir.claim(&ProcessStamp::own()?)?,
                Phase::Running => false,
            };
            if goes {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "old results of tools could not be removed; the next commit tries again");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    /// The machine lost its power between the agent's request and the shim's claim, and the step found done what it wanted when it was taken up again.
    #[test]
    fn a_run_that_no_shim_came_for_goes_with_its_operation() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let operation = OperationId(uuid::Uuid::from_u128(1));
        let folder = format!("var/lib/proximity-agent/tools/proximity-op-{operation}-start-1-start");
        let request =
            r#"{"program":"/bin/true","arguments":["start","100"],"vmid":100,"asked_unix_ms":5000,"boot":"before"}"#;
        testing::put(dir.path(), &format!("{folder}/request.json"), request);
        sweep(&node);
        assert!(dir.path().join(&folder).exists(), "its operation is under way");
        forget(&node, operation);
        assert!(!dir.path().join(&folder).exists());
    }
}
