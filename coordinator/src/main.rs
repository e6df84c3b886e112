//! `proximity-coordinator`: see `proximity-coordinator --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    proximity_coordinator::cli::main()
}
