//! `proximity-agent`: see `proximity-agent --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    proximity_agent::cli::main()
}
