//! The command line. Data goes to stdout, talk to stderr; each failure that has a remedy of its own has an exit code of its own ([`exit`]).

mod ca;
mod catalog;
pub mod exit;
mod operations;
mod owner;
mod password;
mod serve;
mod state;
mod token;
mod user;

use crate::config::{Config, Overrides};
use clap::{CommandFactory, Parser, Subcommand};
use exit::Failure;
use std::{future::Future, path::PathBuf, process::ExitCode, time::Duration};

/// How long threads that still work (a password's hash) may take after the end.
const THREADS_TIMEOUT: Duration = Duration::from_secs(2);

/// Deploys and looks after apps on Proxmox VE nodes.
#[derive(Debug, Parser)]
#[command(name = "proximity-coordinator", version, max_term_width = 100, after_help = exit::TABLE)]
struct Arguments {
    /// Configuration file [default: /etc/proximity/coordinator.toml, if it is there]
    #[arg(long, global = true, env = "PROXIMITY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the coordinator until SIGTERM or SIGINT
    Serve,
    /// Join tokens, with which agents enrol
    #[command(subcommand)]
    Token(token::Token),
    /// The certificate authority: how it stands, saving it, replacing its root
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Save the coordinator's whole state (registry, keys, authority) to a new folder, while it runs, and check it
    Backup {
        /// The folder to make, or an existing one in which a folder is made that bears the time
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Put a saved state into an empty state folder; the coordinator must not run
    Restore {
        /// The folder that `backup` made
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Operations: what goes on, and what to do about what is stuck
    #[command(subcommand)]
    Operations(operations::Operations),
    /// Accounts
    #[command(subcommand)]
    User(user::User),
    /// The catalog of apps
    #[command(subcommand)]
    Catalog(catalog::Catalog),
}

/// The command line as clap has it, from which man pages and shell completions are made.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("proximity-coordinator: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let config = Config::load(arguments.config.as_deref(), arguments.overrides)?;
    match arguments.command {
        Subcommands::Serve => with_runtime(serve::execute(&config)),
        Subcommands::Token(token) => with_runtime(token.execute(&config)),
        Subcommands::Ca(ca) => with_runtime(ca.execute(&config)),
        Subcommands::Backup { folder } => with_runtime(state::back_up(&config, &folder)),
        Subcommands::Restore { folder } => with_runtime(state::restore(&config, &folder)),
        Subcommands::Operations(operations) => with_runtime(operations.execute(&config)),
        Subcommands::User(user) => with_runtime(user.execute(&config)),
        Subcommands::Catalog(catalog) => catalog.execute(&config),
    }
}

fn with_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    result
}
