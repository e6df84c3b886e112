//! `proximity-agent leave`.

use super::{
    exit::{FAILED, HAS_APPS, NODE, STATE, TOOLS_RUNNING, USAGE},
    failure::Failure,
};
use crate::{
    assemble::RunError,
    config::Config,
    host::NodeContext,
    identity::{self, Identity, IdentityError},
    leave::{self, Holdings, LeaveError},
};
use clap::Args;
use std::io::{self, IsTerminal, Write};

#[derive(Debug, Args)]
pub(super) struct Leave {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Leave although apps are on this node: they stay as they are, and nobody looks after them or their published ports
    #[arg(long)]
    keep_apps: bool,
    /// Remove the nftables table `inet proximity` too: published ports lead nowhere from then on
    #[arg(long)]
    unpublish: bool,
}

impl From<LeaveError> for Failure {
    fn from(error: LeaveError) -> Self {
        let code = match error {
            LeaveError::Host(error) => return error.into(),
            LeaveError::Unknown(_) => NODE,
            LeaveError::Io { .. } => STATE,
            LeaveError::Table(_) => FAILED,
        };
        Self::new(code, error.to_string())
    }
}

impl Leave {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        let state = &config.paths.state;
        let identity = Identity::load(state)?.ok_or(RunError::NotJoined)?;
        let _alone = identity::lock_state_dir(state).map_err(|error| match error {
            IdentityError::InUse(_) => {
                let todo = "stop it first: systemctl disable --now proximity-agent";
                Failure::new(super::exit::IN_USE, format!("{error}; {todo}"))
            }
            other => other.into(),
        })?;
        let node = NodeContext::open_to_look(config)?;
        let holdings = leave::holdings(&node)?;
        self.check(&holdings)?;
        self.say(&holdings, &identity, config);
        if !self.yes && !asked()? {
            return Err(Failure::new(FAILED, "nothing was changed"));
        }
        leave::leave(&node, self.unpublish).await?;
        println!("left: node {} has no identity any more", identity.node);
        // No message says goodbye: the coordinator would have to believe that the operator, and not a thief of the key, sent it.
        eprintln!(
            "The coordinator still counts this node. An admin revokes it there:\n  curl -X POST -H \"Authorization: Bearer $TOKEN\" http://<coordinator>/api/proxmox/nodes/{}/revoke",
            identity.node
        );
        Ok(())
    }

    fn check(&self, holdings: &Holdings) -> Result<(), Failure> {
        if !holdings.tools.is_empty() {
            return Err(Failure::new(
                TOOLS_RUNNING,
                format!(
                    "tools that the agent started still run: {}; wait for their end, so that no container is left half made",
                    holdings.tools.join(", ")
                ),
            ));
        }
        if holdings.containers.is_empty() || self.keep_apps {
            return Ok(());
        }
        let apps: Vec<String> = holdings
            .containers
            .iter()
            .map(|(vmid, app)| format!("{app} (container {vmid})"))
            .collect();
        Err(Failure::new(
            HAS_APPS,
            format!(
                "apps are on this node: {}. Delete them at the coordinator first, or leave with --keep-apps: then they stay as they are, \
                 and nobody looks after them or their published ports any more",
                apps.join(", ")
            ),
        ))
    }

    fn say(&self, holdings: &Holdings, identity: &Identity, config: &Config) {
        let state = config.paths.state.display();
        eprintln!(
            "This machine leaves {} as node {}.",
            identity.addresses.join(", "),
            identity.node
        );
        eprintln!("  goes   identity, journal and results of tools below {state}");
        if self.unpublish {
            eprintln!(
                "  goes   the nftables table `inet proximity` with {} published ports",
                holdings.ports.len()
            );
        } else if !holdings.ports.is_empty() {
            eprintln!(
                "  stays  {} published ports, until something flushes the ruleset or the machine reboots (--unpublish removes them now)",
                holdings.ports.len()
            );
        }
        if !holdings.containers.is_empty() {
            eprintln!(
                "  stays  {} containers of apps, with the records below /etc/pve/priv/proximity",
                holdings.containers.len()
            );
        }
        eprintln!(
            "  stays  every other container, {} and the agent's configuration",
            config.paths.policy.display()
        );
    }
}

fn asked() -> Result<bool, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new(USAGE, "nobody is there to be asked: repeat it with --yes"));
    }
    eprint!("Leave? [y/N] ");
    let mut line = String::new();
    io::stderr()
        .flush()
        .and_then(|()| stdin.read_line(&mut line))
        .map_err(|error| Failure::new(FAILED, format!("cannot read the answer: {error}")))?;
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
