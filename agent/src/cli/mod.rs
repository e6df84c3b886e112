//! The command line. Data goes to stdout, talk to stderr, and each failure that has a remedy of its own has an exit code of its own ([`exit`]).

mod doctor;
pub mod exit;
mod failure;
mod join;
mod leave;
mod logging;
mod policy;
mod run;
mod status;

use crate::config::Config;
use clap::{CommandFactory, Parser, Subcommand};
use failure::Failure;
use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// How long threads that still read or write may take after the end.
const THREADS_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks after one Proxmox VE node for a Proximity coordinator.
#[derive(Debug, Parser)]
#[command(name = "proximity-agent", version, max_term_width = 100, after_help = exit::table())]
struct Arguments {
    /// Configuration file [default: /etc/proximity/agent.toml, if it is there]
    #[arg(long, global = true, env = "PROXIMITY_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Enrol this machine at a coordinator with a join token
    Join(join::Join),
    /// Run the agent until SIGTERM; tools that it has started go on
    Run,
    /// Show identity, link, open jobs, published ports
    Status(status::StatusArguments),
    /// Look for what is wrong with this node and its way to the coordinator; changes nothing
    Doctor(doctor::Doctor),
    /// Undo the join: the identity goes, containers stay
    Leave(leave::Leave),
    /// The node's own policy
    Policy(policy::PolicyArguments),
    /// The shim between the agent and a tool; the agent starts it itself
    #[command(hide = true, disable_help_flag = true)]
    RunTool {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

/// The command line as clap has it, from which man pages and shell completions are made.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// The whole program.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Before clap, which would repeat what it does not understand.
    if let Err(failure) = join::token::refuse_in_words(words.iter().map(OsStr::new)) {
        return failure.told();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    if let Subcommands::RunTool { words } = &arguments.command {
        // No configuration, no log, no threads: it must work even where the agent would not.
        return crate::host::run_tool::main(words);
    }
    logging::start();
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.told(),
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let named = arguments.config.as_deref();
    let config = Config::load(named)?;
    match arguments.command {
        Subcommands::Join(join) => with_runtime(join.execute(&config, named)),
        Subcommands::Run => with_runtime(run::execute(&config)),
        Subcommands::Status(status) => status.execute(&config),
        Subcommands::Doctor(doctor) => with_runtime(doctor.execute(&config)),
        Subcommands::Leave(leave) => with_runtime(leave.execute(&config, named)),
        Subcommands::Policy(policy) => policy.execute(&config),
        Subcommands::RunTool { .. } => unreachable!("main() has handled it"),
    }
}

/// Asks for yes or no; `None`: nobody is there to be asked.
fn ask(question: &str) -> Result<Option<bool>, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    io::stderr()
        .flush()
        .and_then(|()| stdin.read_line(&mut line))
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot read the answer: {error}")))?;
    Ok(Some(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")))
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
