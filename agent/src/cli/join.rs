//! `proximity-agent join`.

use super::exit::{FAILED, Failure, NODE, TOKEN_UNREADABLE, USAGE};
use crate::{
    config::Config,
    host::NodeContext,
    identity::{self, JoinRequest, dial},
    policy::Policy,
};
use clap::Args;
use proximity_protocol::{observed::BridgeFact, token::JoinToken};
use std::{
    io::{self, IsTerminal, Read, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

/// A token is far shorter.
const TOKEN_LEN_MAX: u64 = 16 * 1024;

#[derive(Debug, Args)]
pub(super) struct Join {
    /// File that holds the join token; `-` reads stdin. Without it stdin is asked
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// `-` reads the token from stdin. A token itself is not accepted here: every user of the machine could read it
    #[arg(value_name = "-", conflicts_with = "token_file")]
    stdin: Option<String>,
    /// This machine takes the record of the enrolled node of the same name over (reinstalled, replaced)
    #[arg(long)]
    take_over: bool,
    /// Replace the identity that is stored here
    #[arg(long)]
    yes: bool,
}

impl Join {
    pub(super) async fn execute(self, config: &Config) -> Result<(), Failure> {
        introduce(config).await;
        let token: JoinToken = self.read_token()?.parse()?;
        let node = NodeContext::open(config, dial::address_towards(&token.addresses).await)?;
        let facts = node
            .facts()
            .await
            .map_err(|fault| Failure::new(NODE, fault.to_string()))?;
        let name = facts.node_name.clone();
        let proposal = proposal(&facts.bridges);
        let request = JoinRequest {
            state_dir: &config.paths.state,
            token: &token,
            facts,
            take_over: self.take_over,
            replace: self.yes,
        };
        let identity = identity::join(request).await?;
        println!(
            "joined: {name} is node {} (certificate valid until {})",
            identity.node,
            date(identity.not_after)
        );
        eprintln!("{proposal}");
        eprintln!("Now start the agent: systemctl enable --now proximity-agent (restart it if it is running).");
        Ok(())
    }

    fn read_token(&self) -> Result<Zeroizing<String>, Failure> {
        if self.stdin.as_deref().is_some_and(|word| word != "-") {
            return Err(Failure::new(
                USAGE,
                "a join token is not accepted on the command line, where every user of the machine can read it: revoke that token, make a new one, and give it by --token-file, by `-` (stdin), or at the prompt",
            ));
        }
        match &self.token_file {
            Some(path) if path != Path::new("-") => {
                let opened = std::fs::File::open(path).and_then(read_bounded);
                opened.map_err(|error| {
                    Failure::new(
                        TOKEN_UNREADABLE,
                        format!("cannot read the join token from {}: {error}", path.display()),
                    )
                })
            }
            _ => {
                let stdin = io::stdin();
                let read = if stdin.is_terminal() {
                    eprint!("Join token: ");
                    let mut line = Zeroizing::new(String::new());
                    io::stderr()
                        .flush()
                        .and_then(|()| stdin.read_line(&mut line))
                        .map(|_| line)
                } else {
                    read_bounded(stdin)
                };
                read.map_err(|error| Failure::new(FAILED, format!("cannot read the join token from stdin: {error}")))
            }
        }
    }
}

/// What the coordinator will see of this node and may do on it, before a secret is given. What cannot be read here is an error of the join itself.
async fn introduce(config: &Config) {
    if let Ok(node) = NodeContext::open_to_look(config)
        && let Ok(facts) = node.facts().await
    {
        let names = |names: Vec<String>| names.join(", ");
        eprintln!(
            "The coordinator will see: node {} ({}), Proxmox VE {}, {} processors, {} MiB of memory, its address towards the coordinator,\n  storages {}, bridges {}, and its containers with their figures.",
            facts.node_name,
            facts
                .cluster
                .as_deref()
                .map_or("standalone".to_owned(), |name| format!("cluster {name}")),
            facts.pve_version.as_deref().unwrap_or("of unknown version"),
            facts.cpu_count,
            facts.memory_total_bytes >> 20,
            names(facts.storages.iter().map(|storage| storage.id.to_string()).collect()),
            names(facts.bridges.iter().map(|bridge| bridge.name.to_string()).collect()),
        );
    }
    let path = config.paths.policy.display();
    match Policy::load(&config.paths.policy) {
        Ok(policy) => eprintln!(
            "This node's policy ({path}) will allow: {}.",
            policy.in_words().join("; ")
        ),
        Err(fault) => eprintln!(
            "This node's policy will allow nothing that changes it: {}",
            fault.message
        ),
    }
}

/// The network that the host's apps could have: that of the bridge that leads out, else of the first with an address.
fn proposal(bridges: &[BridgeFact]) -> String {
    let found = bridges
        .iter()
        .find(|bridge| bridge.gateway.is_some())
        .or_else(|| bridges.iter().find(|bridge| bridge.address.is_some()));
    let Some(bridge) = found else {
        return "No bridge of this node has an address: an admin chooses the network of its apps at the coordinator."
            .into();
    };
    let subnet = match (bridge.address, bridge.prefix) {
        (Some(address), Some(prefix)) if prefix <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            format!(", subnet {}/{prefix}", Ipv4Addr::from(u32::from(address) & mask))
        }
        _ => String::new(),
    };
    let gateway = bridge
        .gateway
        .map_or(String::new(), |gateway| format!(", gateway {gateway}"));
    format!(
        "Network for this host's apps, as this node has it: bridge {}{subnet}{gateway}. An admin sets it at the coordinator: PUT /api/proxmox/hosts/<id>/network.",
        bridge.name
    )
}

fn read_bounded(source: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source.take(TOKEN_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A moment as operators read it.
pub(super) fn date(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_bridge_that_leads_out_is_proposed() {
        let bridge = |name: &str, address: Option<[u8; 4]>, gateway: Option<[u8; 4]>| BridgeFact {
            name: proximity_protocol::ids::BridgeName::new(name).unwrap(),
            address: address.map(Into::into),
            prefix: address.map(|_| 20),
            gateway: gateway.map(Into::into),
        };
        let (inner, outer) = (
            bridge("vmbr0", Some([10, 0, 0, 1]), None),
            bridge("vmbr1", Some([192, 168, 17, 4]), Some([192, 168, 16, 1])),
        );
        let both = proposal(&[inner.clone(), outer]);
        assert!(
            both.contains("bridge vmbr1, subnet 192.168.16.0/20, gateway 192.168.16.1."),
            "{both}"
        );
        assert!(proposal(&[inner]).contains("bridge vmbr0, subnet 10.0.0.0/20."));
        assert!(proposal(&[bridge("vmbr2", None, None)]).contains("No bridge"));
    }
}
