//! Leaving a coordinator: what goes, what stays, and in which order.
//!
//! The identity goes last, so that an interrupted run can be repeated. Containers are never touched, nor are the records of whose they are: those lie
//! in the cluster's file system, and whoever joins again finds its containers by them.

use crate::{
    host::{self, HostError, NodeContext, files, short},
    ownership, publish,
};
use proximity_protocol::fault::Fault;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

const BOUND: Duration = Duration::from_secs(20);
/// Of the state folder, in the order in which they go. `lock` stays: it is held meanwhile, and says nothing.
const GOES: [&str; 7] = [
    "journal",
    "tools",
    "tmp",
    "address",
    "status.json",
    "format",
    "identity",
];

/// Why nothing, or not all, was removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaveError {
    /// The node.
    #[error(transparent)]
    Host(#[from] HostError),
    /// What is there cannot be told.
    #[error("{0}")]
    Unknown(Fault),
    /// A folder or file.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was attempted.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The tool for the table of published ports is not there.
    #[error(
        "the table of published ports cannot be removed, because {0} is not there: install the package nftables, or leave with --keep-ports"
    )]
    NoNft(PathBuf),
    /// The table of published ports.
    #[error("the table of published ports cannot be removed: {0}")]
    Table(String),
}

/// What this node holds for its coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Containers of apps on this node: VMID and app.
    pub(crate) containers: Vec<(u32, String)>,
    /// Published ports.
    pub(crate) ports: Vec<u16>,
    /// Tools that still run.
    pub(crate) tools: Vec<String>,
}

/// Looks. What cannot be read is an error, never "nothing".
pub(crate) fn holdings(node: &NodeContext) -> Result<Holdings, LeaveError> {
    let mut containers = Vec::new();
    for (vmid, record) in ownership::all(node).map_err(LeaveError::Unknown)? {
        if node.conf_path(vmid).exists() {
            containers.push((vmid.get(), record.owner.app.to_string()));
        }
    }
    let ports = publish::observed(node).map_err(LeaveError::Unknown)?;
    let tools = host::running(node).map_err(|source| LeaveError::Io {
        act: "look through",
        path: node.state("tools"),
        source,
    })?;
    Ok(Holdings {
        containers,
        ports: ports.iter().map(|port| port.public_port).collect(),
        tools,
    })
}

/// Removes what the agent keeps: published ports too, unless they are to stay in force, and in their file for an agent that joins again.
pub(crate) async fn leave(node: &NodeContext, ports: &[u16], keep_ports: bool) -> Result<(), LeaveError> {
    if !keep_ports {
        match remove_table(&node.host().nft).await {
            // Without the tool and without a port there is no table of ours.
            Err(LeaveError::NoNft(_)) if ports.is_empty() => {}
            removed => removed?,
        }
        remove(&node.state("published.json"))?;
    }
    for name in GOES {
        remove(&node.state(name))?;
    }
    let state = &node.config().paths.state;
    files::sync_dir(state).map_err(|source| LeaveError::Io {
        act: "sync",
        path: state.clone(),
        source,
    })
}

fn remove(path: &Path) -> Result<(), LeaveError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LeaveError::Io {
            act: "remove",
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

async fn remove_table(nft: &Path) -> Result<(), LeaveError> {
    // Added first, so that deleting never fails for want of it.
    let commands = b"add table inet proximity\ndelete table inet proximity\n";
    let words = ["-f", "-"].map(Into::into);
    let end = short::run(nft, &words, Some(commands), BOUND)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => LeaveError::NoNft(nft.into()),
            _ => LeaveError::Table(error.to_string()),
        })?;
    if end.success {
        Ok(())
    } else {
        Err(LeaveError::Table(end.stderr.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{facts::testing, ownership::OwnershipRecord};
    use proximity_protocol::ids::{Generation, OperationId, Owner, Vmid};
    use std::os::unix::fs::PermissionsExt;

    fn own(node: &NodeContext, vmid: u32) {
        let owner = Owner {
            app: "nginx-a1b2c3d4".parse().unwrap(),
            generation: Generation(1),
        };
        let record = OwnershipRecord::begin(owner, OperationId(uuid::Uuid::from_u128(1)), 5);
        ownership::write(node, Vmid::new(vmid).unwrap(), &record).unwrap();
    }

    #[test]
    fn only_containers_of_this_node_count_and_a_broken_record_is_no_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert!(holdings(&node).unwrap().containers.is_empty());
        own(&node, 100);
        own(&node, 101);
        testing::put(dir.path(), "etc/pve/nodes/pve1/lxc/101.conf", "arch: amd64\n");
        assert_eq!(
            holdings(&node).unwrap().containers,
            [(101, "nginx-a1b2c3d4".to_owned())]
        );
        testing::put(dir.path(), "etc/pve/priv/proximity/102", "{");
        assert!(matches!(holdings(&node), Err(LeaveError::Unknown(_))));
    }

    #[tokio::test]
    async fn all_goes_but_published_ports_and_records() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        own(&node, 100);
        for name in [
            "identity/identity.json",
            "journal",
            "status.json",
            "published.json",
            "tools/x/request.json",
        ] {
            testing::put(&node.config().paths.state, name, "{}");
        }
        leave(&node, &[8000], true).await.unwrap();
        let left = |node: &NodeContext| {
            let entries = fs::read_dir(&node.config().paths.state).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert_eq!(left(&node), ["published.json"]);
        let record = dir.path().join("etc/pve/priv/proximity/100");
        assert!(record.exists());
        // An nft that says no keeps the file, so that a repeated run tries again.
        testing::put(
            dir.path(),
            "usr/bin/nft",
            "#!/bin/sh\ncat > /dev/null\necho no >&2\nexit 1\n",
        );
        let nft = dir.path().join("usr/bin/nft");
        fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(leave(&node, &[8000], false).await, Err(LeaveError::Table(_))));
        assert_eq!(left(&node), ["published.json"]);
        // Without nft the table stays, and so does what speaks of it; where nothing was published there is no table.
        fs::remove_file(&nft).unwrap();
        assert!(matches!(leave(&node, &[8000], false).await, Err(LeaveError::NoNft(_))));
        assert_eq!(left(&node), ["published.json"]);
        leave(&node, &[], false).await.unwrap();
        assert!(left(&node).is_empty());
    }
}
