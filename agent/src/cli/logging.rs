//! Logs go to stderr, filtered by `RUST_LOG`. Fields: `operation_id`, `app_id`, `node_id`, `step`.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Without `RUST_LOG`: our own words, and of the libraries only warnings.
const DEFAULT_FILTER: &str = "warn,proximity_agent=info";

/// Starts logging for the whole process.
pub(super) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
