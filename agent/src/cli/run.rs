//! `proximity-agent run`.

use super::{exit::FAILED, failure::Failure};
use crate::{assemble, config::Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(super) async fn execute(config: &Config) -> Result<(), Failure> {
    let shutdown = CancellationToken::new();
    let cannot = |error| Failure::new(FAILED, format!("cannot listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stops"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stops"),
        }
        stop.cancel();
    });
    Ok(assemble::run(config, shutdown).await?)
}
