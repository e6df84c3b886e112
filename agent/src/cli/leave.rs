//! `proximity-agent leave`.

use super::{
    ask,
    exit::{FAILED, HAS_APPS, NODE, NOT_TOLD, STATE, TOOLS_RUNNING, USAGE},
    failure::Failure,
    join::{fit, make_way, service_of, turn},
};
use crate::{
    assemble::RunError,
    config::Config,
    host::{NodeContext, service},
    identity::{
        Identity,
        dial::DialError,
        goodbye::{self, GoodbyeError},
    },
    leave::{self, Holdings, LeaveError},
};
use clap::Args;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct Leave {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Leave although apps are on this node: their containers stay as they are, and nobody looks after them
    #[arg(long)]
    keep_apps: bool,
    /// Leave published ports in force: until something flushes the ruleset, or the machine reboots
    #[arg(long)]
    keep_ports: bool,
    /// Do not tell the coordinator, because it is gone or cannot be reached: an admin revokes the node there
    #[arg(long)]
    offline: bool,
}

impl From<LeaveError> for Failure {
    fn from(error: LeaveError) -> Self {
        let code = match error {
            LeaveError::Host(error) => return error.into(),
            LeaveError::Unknown(_) => NODE,
            LeaveError::Io { .. } => STATE,
            LeaveError::Table(_) | LeaveError::NoNft(_) => FAILED,
        };
        Self::new(code, error.to_string())
    }
}

impl Leave {
    pub(super) async fn execute(self, config: &Config, config_path: Option<&Path>) -> Result<(), Failure> {
        fit::root(config, "leaving")?;
        let state = &config.paths.state;
        let identity = Identity::load(state)?.ok_or(RunError::NotJoined)?;
        let held = turn(state, service_of(config_path).await)?;
        let node = NodeContext::open_to_look(config)?;
        let holdings = leave::holdings(&node)?;
        self.check(&holdings)?;
        self.say(&holdings, &identity, config);
        if !self.yes {
            match ask("Leave?")? {
                Some(true) => {}
                Some(false) => return Err(Failure::new(FAILED, "nothing was changed")),
                None => return Err(Failure::new(USAGE, "nobody is there to be asked: repeat it with --yes")),
            }
        }
        let stopped = held.is_none();
        let held = match held {
            Some(held) => held,
            None => make_way(state).await?,
        };
        if !self.offline {
            match goodbye::say(state).await {
                Ok(left) => told(left),
                Err(error) => {
                    drop(held);
                    if stopped && let Err(why) = service::start().await {
                        tracing::error!(why, "the agent that was stopped for this could not be started again");
                    }
                    return Err(not_told(&error));
                }
            }
        }
        leave::leave(&node, &holdings.ports, self.keep_ports).await?;
        drop(held);
        println!("left: node {} has no identity any more", identity.node);
        if self.offline {
            eprintln!(
                "The coordinator still counts this node. An admin revokes it there:\n  curl -X POST -H \"Authorization: Bearer $TOKEN\" http://<coordinator>/api/proxmox/nodes/{}/revoke",
                identity.node
            );
        }
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
                "apps are on this node: {}. Delete them at the coordinator first, or leave with --keep-apps: then their containers stay as they are, \
                 and nobody looks after them any more",
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
        match (holdings.ports.len(), self.keep_ports) {
            (0, _) => {}
            (count, true) => eprintln!(
                "  stays  {count} published ports, until something flushes the ruleset or the machine reboots"
            ),
            (count, false) => eprintln!("  goes   the nftables table `inet proximity` with {count} published ports"),
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

fn told(left: goodbye::Left) {
    eprintln!("The coordinator knows: node {} is revoked there.", left.node);
    if left.apps > 0 {
        eprintln!(
            "It counts {} app(s) on this node still: delete them there, or join again with --take-over.",
            left.apps
        );
    }
}

fn not_told(error: &GoodbyeError) -> Failure {
    let advice = match error {
        GoodbyeError::Dial(DialError::Unseen { socket, sight }) => format!("{}. ", sight.advice(socket)),
        _ => String::new(),
    };
    Failure::new(
        NOT_TOLD,
        format!(
            "the coordinator could not be told: {error}. {advice}Nothing was removed. If it is gone for good, or is to be told by an admin there, \
             leave with --offline"
        ),
    )
}
