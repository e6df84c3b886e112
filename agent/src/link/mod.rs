//! The connection to the coordinator: dialled by the agent, kept up, dialled again.
//!
//! [`Link::run`] goes round for ever: read the facts, dial ([`dial`]), say Hello and wait for Welcome ([`session`]), then at once serve command streams
//! ([`command`]), report facts and inventory ([`report`]), and send figures ([`figures`]) until the connection ends; wait ([`backoff`]) and begin again.
//!
//! Nothing depends on a link: jobs go on without one, published ports too. This room starts no work of its own and keeps nothing but
//! [`status`], the small file that `proximity-agent status` shows.

mod backoff;
mod command;
mod error;
mod figures;
mod report;
mod session;
pub(crate) mod status;
#[cfg(test)]
mod tests;

pub(crate) use error::LinkError;
pub(crate) use report::Repairs;

use crate::{
    identity::{
        Identity,
        dial::{self, DialError, Dialled},
    },
    jobs::{BoxFuture, machine::Jobs},
};
use backoff::Backoff;
use proximity_protocol::{
    close,
    fault::Fault,
    ids::{BootId, ProcessId},
    metrics::Sample,
    observed::{Inventory, NodeFacts},
};
use session::Ended;
use status::{LinkState, StatusFile};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A connection that held for so long counts as good: its loss is followed by a quick try.
const HELD: Duration = Duration::from_secs(1);

/// The port to what the link tells of the node.
pub(crate) trait NodeView: Send + Sync + 'static {
    /// What the node is.
    fn facts(&self) -> BoxFuture<'_, Result<NodeFacts, Fault>>;
    /// What is on it.
    fn inventory(&self) -> BoxFuture<'_, Inventory>;
    /// A source of live figures; each call blocks for as long as it reads.
    fn sampler(&self) -> Box<dyn FnMut() -> Sample + Send>;
}

/// Everything that a link needs.
pub(crate) struct Link {
    /// Who we are and whom we trust.
    pub(crate) identity: Identity,
    /// What we tell.
    pub(crate) node: Arc<dyn NodeView>,
    /// What we are asked to do.
    pub(crate) jobs: Jobs,
    /// This boot of the machine.
    pub(crate) boot: BootId,
    /// This run of the agent.
    pub(crate) process: ProcessId,
    /// Repairs of published ports that the coordinator has not heard of.
    pub(crate) repairs: Arc<Repairs>,
    /// What `proximity-agent status` shows.
    pub(crate) status: Arc<StatusFile>,
    /// Ends it.
    pub(crate) shutdown: CancellationToken,
}

impl Link {
    /// Keeps the link up until shutdown.
    pub(crate) async fn run(&self) -> Result<(), LinkError> {
        let config = dial::link_config(&self.identity)?;
        let mut backoff = Backoff::default();
        loop {
            self.status.link(LinkState::Connecting, None);
            let begun = Instant::now();
            let ended = self.once(&config).await;
            match &ended {
                Ended::Stopped => return Ok(()),
                Ended::Refused(fault) => {
                    tracing::error!(%fault, "the coordinator refuses this agent");
                    backoff.slow_down();
                }
                Ended::Lost(LinkError::Closed {
                    code: close::REVOKED | close::CLONED | close::VERSION,
                    reason,
                }) => {
                    tracing::error!(reason, "the coordinator hung up");
                    backoff.slow_down();
                }
                Ended::Lost(error) => {
                    tracing::warn!(%error, "no link to the coordinator");
                    if begun.elapsed() >= HELD && error.was_connected() {
                        backoff.reset();
                    }
                }
            }
            self.status.link(LinkState::Waiting, Some(ended.to_string()));
            let wait = backoff.next(random());
            tracing::debug!(wait_ms = wait.as_millis(), "waits before the next try");
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn once(&self, config: &quinn::ClientConfig) -> Ended {
        let dialled = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Ended::Stopped,
            dialled = self.dial(config) => dialled,
        };
        match dialled {
            Ok((dialled, address, facts)) => session::converse(self, dialled, &address, facts).await,
            Err(error) => Ended::Lost(error),
        }
    }

    async fn dial(&self, config: &quinn::ClientConfig) -> Result<(Dialled, String, NodeFacts), LinkError> {
        let facts = self.node.facts().await.map_err(LinkError::Facts)?;
        let mut last = DialError::Resolve {
            address: String::new(),
            why: "the identity holds no address".into(),
        };
        for address in &self.identity.addresses {
            match dial::connect(address, config).await {
                Ok(dialled) => return Ok((dialled, address.clone(), facts)),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }
}

fn random() -> u32 {
    // A v4 UUID is 122 random bits; the first 32 are among them.
    uuid::Uuid::new_v4().as_fields().0
}
