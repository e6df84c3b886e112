//! Logs go to stderr, or with their fields to the journal if stderr leads there; filtered by `RUST_LOG`. Fields: `operation_id`, `app_id`, `node_id`,
//! `step`.

use proximity_systemd::journal;
use std::io::{self, IsTerminal as _};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Without `RUST_LOG`: our own words, and of the libraries only warnings.
const DEFAULT_FILTER: &str = "warn,proximity_agent=info";

/// Starts logging for the whole process.
pub(super) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let journal = journal::if_stderr_leads_there("proximity-agent");
    let to_stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
    });
    tracing_subscriber::registry()
        .with(to_stderr)
        .with(journal)
        .with(filter)
        .init();
}
