//! `proximity-agent join`.

use super::exit::{FAILED, Failure, NODE, TOKEN_UNREADABLE, USAGE};
use crate::{
    config::Config,
    host::NodeContext,
    identity::{self, JoinRequest, dial},
};
use clap::Args;
use proximity_protocol::token::JoinToken;
use std::{
    io::{self, IsTerminal, Read, Write},
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
        let token: JoinToken = self.read_token()?.parse()?;
        let node = NodeContext::open(config, dial::address_towards(&token.addresses).await)?;
        let facts = node
            .facts()
            .await
            .map_err(|fault| Failure::new(NODE, fault.to_string()))?;
        let name = facts.node_name.clone();
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

fn read_bounded(source: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    source.take(TOKEN_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// A moment as operators read it.
pub(super) fn date(moment: OffsetDateTime) -> String {
    moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string())
}
