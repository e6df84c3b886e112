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
    ///
    /// Before a token is asked for, it is looked whether the machine is fit (root, Proxmox VE, its tools, quorum), and it is said what the coordinator will
    /// see of the node, what the node's policy will allow it, and which network is proposed for the apps of the host: bridge, subnet and way out as this node has
    /// them. A host that is new at the coordinator gets that network; an admin may change it there.
    ///
    /// The token comes from a file, from stdin, or from the prompt, where it is not shown; never from the command line. Its secret is sent only after the
    /// coordinator has shown the key that the token pins and after both clocks were found to agree. Each thing that can be wrong has words of its own, which
    /// name the remedy, and an exit code of its own; the same token may be used again after all of them but a refusal.
    ///
    /// A machine that has joined already is asked whether its identity is to be replaced; where nobody can be asked, --replace says so. Then the service is
    /// enabled and started, where systemd runs and the configuration is the service's own.
    Join(join::Join),
    /// Run the agent until SIGTERM; tools that it has started go on
    Run,
    /// Show identity, link, open jobs, published ports
    ///
    /// Reads files of the agent only: it works whether the agent runs or not, and asks nobody. The fields of --json keep their names.
    Status(status::StatusArguments),
    /// Look for what is wrong with this node and its way to the coordinator; changes nothing
    ///
    /// Each finding is ok, warn or fail, and says what to do. With --json: the number of each, and `findings` with `check`, `level`, `says`, `todo`. The
    /// checks are `coordinator` (each address over UDP, and the size of packets that pass), `clock` (against the coordinator's, the certificate's, and whether it is kept in time),
    /// `tools`, `pve_version`, `nft_version`, `cluster` (files and quorum), `storage` (what each can do, and how full it is), `published_ports`, `packet_filter` (what
    /// else flushes or drops), `ip_forward`, `cgroups`, `identity`, `certificate`, `disk` (room and inodes), `policy`, `state_folder`, `agent`. The exit code is 0
    /// unless a check fails.
    Doctor(doctor::Doctor),
    /// Undo the join: the coordinator is told, identity and published ports go, containers stay
    ///
    /// It refuses while apps are on the node, unless told to keep them, and while tools of the agent run. The coordinator revokes the node: what it still
    /// counts on it stays in its registry, and the same machine comes back with `join --take-over`. Containers are never touched, nor are the records of whose they
    /// are below /etc/pve/priv/proximity. An interrupted run may be repeated.
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
