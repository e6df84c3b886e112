//! `serve`: runs until SIGTERM or SIGINT.

use super::exit::{self, Failure};
use crate::{
    assemble::{Coordinator, StartError},
    config::Config,
};
use proximity_systemd::{journal, notify::ServiceManager};
use std::io::{self, IsTerminal as _, Write as _};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Config(_) => exit::CONFIGURATION,
            StartError::Catalog(_) => exit::CATALOG,
            StartError::Http { .. } | StartError::Listen(_) | StartError::Running { .. } => exit::TAKEN,
            _ => exit::FAILED,
        };
        Self::new(code, format!("cannot start: {error}"))
    }
}

fn start_log(config: &Config) -> Result<(), Failure> {
    let filter = config
        .log_filter()
        .map_err(|error| Failure::new(exit::CONFIGURATION, format!("log: {error}")))?;
    let journal = journal::if_stderr_leads_there("proximity-coordinator");
    let to_stderr = journal.is_none().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
    });
    tracing_subscriber::registry()
        .with(to_stderr)
        .with(journal)
        .with(filter)
        .try_init()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot start the log: {error}")))
}

/// Each client and each agent is a file to the kernel, and the usual soft limit of 1024 is for programs that use `select`.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

pub(super) async fn execute(config: &Config) -> Result<(), Failure> {
    start_log(config)?;
    raise_file_limit();
    let no_signal = |error| Failure::new(exit::FAILED, format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let coordinator = Coordinator::start(config).await?;
    if let Some((code, path)) = coordinator.setup_code().await? {
        eprintln!(
            "There is no user yet. The first one registers with the setup code {code} (kept in {}) at POST http://{}/api/auth/registration; \
             or run: proximity-coordinator user create --admin NAME",
            path.display(),
            coordinator.http()
        );
    }
    // Programs that start us wait for this line; it is the only one on stdout.
    let ready = format!("ready http={} quic={}\n", coordinator.http(), coordinator.quic());
    let mut stdout = io::stdout();
    if let Err(error) = stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush()) {
        tracing::warn!(%error, "nobody reads the line that says that the coordinator is ready");
    }
    let manager = ServiceManager::from_environment();
    manager.ready();
    let ended = tokio::select! {
        never = manager.attend(String::new) => match never {},
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        error = coordinator.failed() => Some(error),
    };
    manager.stopping();
    // A second signal while stopping ends at once: what is under way is in the registry and in the agents' journals.
    tokio::select! {
        () = coordinator.stop() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    match ended {
        None => Ok(()),
        Some(error) => Err(Failure::new(exit::FAILED, error)),
    }
}
