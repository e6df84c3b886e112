//! `proximity-agent policy check`.

use super::{exit::POLICY, failure::Failure};
use crate::{config::Config, policy::Policy};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct PolicyArguments {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Say what a policy file allows, verb by verb, or where its mistake is
    ///
    /// A mistake is told with its line, its key, and what is allowed there. The agent reads the file before every command: a change takes effect at once, and a file
    /// that is not valid denies every verb that changes something.
    Check {
        /// The file [default: the node's own]
        file: Option<PathBuf>,
    },
}

impl PolicyArguments {
    pub(super) fn execute(self, config: &Config) -> Result<(), Failure> {
        let PolicyCommand::Check { file } = self.command;
        let named = file.is_some();
        let path = file.unwrap_or_else(|| config.paths.policy.clone());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => {
                println!("{} is not there, so the defaults hold:", path.display());
                String::new()
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                return Err(Failure::new(POLICY, message));
            }
        };
        let policy = Policy::parse(&text).map_err(|mistake| {
            let what = "until it is corrected, an agent that reads it changes nothing on its node";
            Failure::new(POLICY, format!("{}: {mistake}\n{what}", path.display()))
        })?;
        for clause in policy.in_words() {
            println!("{clause}");
        }
        println!("What each verb may do here:");
        for (verb, may) in policy.by_verb() {
            println!("  {verb:<19} {may}");
        }
        Ok(())
    }
}
