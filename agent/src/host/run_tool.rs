//! `proximity-agent run-tool`: the shim between the agent and a tool.

use std::{ffi::OsString, process::ExitCode};

/// The body of the subcommand. `args` are the words after `run-tool`.
pub fn main(args: &[OsString]) -> ExitCode {
    let _ = args;
    ExitCode::FAILURE
}
