//! What has to be so on this machine before a token is asked for: each thing that is not has words and a code of its own.

use crate::{
    cli::{
        exit::{NO_PROXMOX, NO_QUORUM, NO_TOOLS, NODE, NOT_ROOT},
        failure::Failure,
    },
    config::Config,
    doctor,
    facts::cluster,
    host::NodeContext,
};
use nix::unistd::{AccessFlags, access, geteuid};
use std::path::Path;

/// Whether this user may do what the command does: keep a key where only root reads, and read the cluster's files.
pub(in crate::cli) fn root(config: &Config, act: &str) -> Result<(), Failure> {
    let state = &config.paths.state;
    if geteuid().is_root() || (may_write(state) && may_look(&config.host.etc_pve)) {
        return Ok(());
    }
    Err(Failure::new(
        NOT_ROOT,
        format!(
            "{act} needs root, which alone reads {} and keeps the key in {}: repeat it as root (`sudo -i`, or `su -`)",
            config.host.etc_pve.display(),
            state.display()
        ),
    ))
}

fn may_write(folder: &Path) -> bool {
    let there = folder.ancestors().find(|path| path.exists());
    there.is_some_and(|path| access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok())
}

/// What is not there is another trouble.
fn may_look(etc_pve: &Path) -> bool {
    !etc_pve.exists() || access(&etc_pve.join(".members"), AccessFlags::R_OK) != Err(nix::errno::Errno::EACCES)
}

/// Whether this is a node of Proxmox VE on which something could be done.
pub(super) fn proxmox(config: &Config) -> Result<NodeContext, Failure> {
    let etc_pve = &config.host.etc_pve;
    if !etc_pve.is_dir() {
        return Err(Failure::new(
            NO_PROXMOX,
            format!(
                "there is no {}: this is no Proxmox VE node, and the agent is for nothing else. Join on each node itself; \
                 where the files of one lie elsewhere, set `etc_pve` in [host] of the agent's configuration",
                etc_pve.display()
            ),
        ));
    }
    let node = NodeContext::open_to_look(config)?;
    let missing = doctor::missing_tools(&config.host);
    if !missing.is_empty() {
        let says: Vec<String> = missing.iter().map(|(says, todo)| format!("{says}: {todo}")).collect();
        return Err(Failure::new(NO_TOOLS, says.join("\n  ")));
    }
    let members = cluster::members(&node).map_err(|fault| Failure::new(NODE, fault.message))?;
    if let Some(name) = members.cluster.filter(|_| !members.quorate) {
        return Err(Failure::new(
            NO_QUORUM,
            format!(
                "the cluster {name} has no quorum, so nothing could be done on this node: bring the other nodes back \
                 (`pvecm status` names them), then join. The token was not used"
            ),
        ));
    }
    Ok(node)
}
