//! `proximity-agent join`: what has to be so first ([`fit`]), what the operator is told ([`introduce`]), the token ([`token`]), the coordinator, and then the
//! service.

pub(super) mod fit;
mod introduce;
pub(super) mod token;

use super::{
    ask,
    exit::{ALREADY_JOINED, IN_USE, NODE, NOT_STARTED, USAGE},
    failure::Failure,
};
use crate::{
    config::{Config, DEFAULT_PATH},
    host::{
        NodeContext,
        service::{self, Service},
    },
    identity::{self, Identity, IdentityError, JoinError, JoinRequest, dial},
};
use clap::Args;
use proximity_protocol::token::JoinToken;
use std::{
    fs::File,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

#[derive(Debug, Args)]
pub(super) struct Join {
    /// File that holds the join token; `-` reads stdin. Without it stdin is read, or asked if it is a terminal
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// `-` reads the token from stdin. A token itself is not accepted here: every user of the machine could read it
    #[arg(value_name = "-", conflicts_with = "token_file")]
    stdin: Option<String>,
    /// This machine takes the record of the enrolled node of the same name over (reinstalled, replaced); also replaces an identity that is stored here
    #[arg(long)]
    take_over: bool,
    /// Replace the identity that is stored here, without asking
    #[arg(long, alias = "yes")]
    replace: bool,
    /// Do not enable and start the service
    #[arg(long)]
    no_start: bool,
}

impl Join {
    /// `config_path` is the file that was named, if one was.
    pub(super) async fn execute(self, config: &Config, config_path: Option<&Path>) -> Result<(), Failure> {
        if self.stdin.as_deref().is_some_and(|word| word != "-") {
            let message = "a join token is not accepted on the command line, where every user of the machine can read it: give it by --token-file, by `-` (stdin), or at the prompt";
            return Err(Failure::new(USAGE, message));
        }
        fit::root(config, "joining")?;
        let look = fit::proxmox(config)?;
        self.may_replace(config)?;
        let state = &config.paths.state;
        identity::prepare_state_dir(state)?;
        let service = service_of(config_path).await;
        let held = turn(state, service)?;
        let facts = look.facts().await.map_err(|fault| Failure::new(NODE, fault.message))?;
        introduce::say(config, &facts);

        let token: JoinToken = token::read(self.token_file.as_deref())?.parse()?;
        eprintln!("Joins the coordinator at {}.", token.addresses.join(", "));
        identity::reach(&token).await?;
        let node = NodeContext::open(config, dial::address_towards(&token.addresses).await)?;
        let facts = node.facts().await.map_err(|fault| Failure::new(NODE, fault.message))?;
        let name = facts.node_name.clone();
        let granted = identity::enrol(JoinRequest {
            state_dir: state,
            token: &token,
            facts,
            take_over: self.take_over,
            replace: true,
        })
        .await?;
        // An agent that runs would go on as who it was, and write its own identity over this one.
        let stopped = held.is_none();
        let held = match held {
            Some(held) => held,
            None => make_way(state).await?,
        };
        let kept = granted.keep();
        drop(held);
        let identity = match kept {
            Ok(identity) => identity,
            Err(error) => {
                if stopped && let Err(why) = service::start().await {
                    tracing::error!(why, "the agent that was stopped for this could not be started again");
                }
                return Err(error.into());
            }
        };
        println!(
            "joined: {name} is node {} (certificate valid until {})",
            identity.node,
            date(identity.not_after)
        );
        self.start(service, config_path).await
    }

    /// Asks before an identity is replaced; where nobody can be asked, a flag has to say so.
    fn may_replace(&self, config: &Config) -> Result<(), Failure> {
        if self.replace || self.take_over {
            return Ok(());
        }
        let Some(stored) = Identity::load(&config.paths.state)? else {
            return Ok(());
        };
        eprintln!(
            "This machine has joined already, as node {} of the coordinator at {} (certificate valid until {}).",
            stored.node,
            stored.addresses.join(", "),
            date(stored.not_after)
        );
        match ask("Replace that identity?")? {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new(ALREADY_JOINED, "nothing was changed")),
            None => Err(JoinError::AlreadyJoined(stored.node).into()),
        }
    }

    async fn start(&self, service: Option<Service>, config_path: Option<&Path>) -> Result<(), Failure> {
        let by_hand = match config_path {
            Some(path) => format!("proximity-agent --config {} run", path.display()),
            None => "proximity-agent run".to_owned(),
        };
        match service {
            _ if self.no_start => eprintln!("Not started, as asked: systemctl enable --now proximity-agent"),
            None => eprintln!("The service does not read this configuration file: start the agent with `{by_hand}`."),
            Some(Service::NoSystemd) => {
                eprintln!("systemd does not run on this machine, so nothing starts the agent: run `{by_hand}`.");
            }
            Some(Service::NotInstalled) => {
                eprintln!("The service proximity-agent is not installed (the package brings it): run `{by_hand}`.");
            }
            Some(Service::Installed { .. }) => {
                service::start().await.map_err(|why| {
                    Failure::new(
                        NOT_STARTED,
                        format!("joined, but the service could not be started: {why}. Look at `journalctl -u proximity-agent`, then `systemctl enable --now proximity-agent`"),
                    )
                })?;
                eprintln!(
                    "The service proximity-agent is enabled and runs: `proximity-agent status` tells how its link is."
                );
            }
        }
        Ok(())
    }
}

/// The service that goes by this configuration; `None`: it goes by another.
pub(super) async fn service_of(config_path: Option<&Path>) -> Option<Service> {
    if config_path.is_some_and(|path| path != Path::new(DEFAULT_PATH)) {
        return None;
    }
    match service::look().await {
        Ok(service) => Some(service),
        Err(error) => {
            tracing::warn!(%error, "the service cannot be looked at");
            Some(Service::NotInstalled)
        }
    }
}

/// Takes the state folder for this process. `None`: the service's agent has it, which can be stopped for a moment.
pub(super) fn turn(state: &Path, service: Option<Service>) -> Result<Option<File>, Failure> {
    match identity::lock_state_dir(state) {
        Ok(held) => Ok(Some(held)),
        Err(IdentityError::InUse(_)) if service == Some(Service::Installed { active: true }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Stops the service's agent and takes the state folder.
pub(super) async fn make_way(state: &Path) -> Result<File, Failure> {
    service::stop().await.map_err(|why| {
        Failure::new(
            IN_USE,
            format!("the running agent cannot be stopped: {why}; repeat the command"),
        )
    })?;
    Ok(identity::lock_state_dir(state)?)
}

/// A moment as operators read it.
pub(super) fn date(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string())
}
