//! The connection to the coordinator: dialled by the agent, kept up, dialled again.
//!
//! [`Link::run`] goes round for ever: read the facts, dial ([`dial`]), say Hello and wait for Welcome ([`session`]), then at once serve command streams
//! ([`command`]), report facts and inventory ([`report`]), and send figures ([`figures`]) until the connection ends; wait ([`backoff`]) and begin again.
//! A certificate that is two thirds through its life, or of a root that has been followed by another, is renewed over the link ([`renewal`]); of one that is
//! not taken any more the coordinator says so, and the agent proves its key. What the coordinator tells of its roots is stored before it is answered ([`follow`]).
//!
//! Nothing depends on a link: jobs go on without one, published ports too. This room starts no work of its own and keeps nothing but
//! [`status`], the small file that `proximity-agent status` shows.

mod backoff;
mod command;
mod error;
mod figures;
mod follow;
mod renewal;
mod report;
mod session;
pub(crate) mod status;
#[cfg(test)]
mod tests;

pub(crate) use error::LinkError;
pub(crate) use report::Repairs;

use crate::{
    facts::Pulse,
    identity::{
        come_back::{ReturnError, come_back},
        dial::{self, DialError, Dialled},
        keyring::Keyring,
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
    /// Whether something on it has changed, quickly.
    fn pulse(&self) -> BoxFuture<'_, Pulse>;
    /// A source of live figures; each call blocks for as long as it reads.
    fn sampler(&self) -> Box<dyn FnMut() -> Sample + Send>;
}

/// Everything that a link needs.
pub(crate) struct Link {
    /// Who we are and whom we trust.
    pub(crate) keys: Arc<Keyring>,
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
        let mut backoff = Backoff::default();
        let mut expired = false;
        loop {
            self.status.link(LinkState::Connecting, None);
            let begun = Instant::now();
            let ended = if std::mem::take(&mut expired) {
                self.come_back().await
            } else {
                self.once().await
            };
            match &ended {
                Ended::Stopped => return Ok(()),
                Ended::Renewed => {
                    tracing::info!(dates = self.keys.dates(), "has a new certificate; connects with it");
                    backoff.reset();
                }
                Ended::Lost(error) if error.rejects_certificate() && self.falls_back() => {
                    tracing::warn!(%error, "the new certificate is not taken; goes back to the one before");
                    backoff.reset();
                }
                Ended::Lost(error @ (LinkError::OurDates(_) | LinkError::OurRoot)) => {
                    tracing::warn!(%error, "asks for another certificate by proving its key");
                    expired = true;
                }
                Ended::Lost(LinkError::Return(error)) if error.is_final() => {
                    tracing::error!(%error, "the coordinator does not take this node back");
                    backoff.slow_down();
                }
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

    /// Gets another certificate for a key whose certificate is not taken any more.
    async fn come_back(&self) -> Ended {
        let came = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Ended::Stopped,
            came = come_back(&self.keys) => came,
        };
        match came {
            Ok(()) => Ended::Renewed,
            Err(ReturnError::Dial(error)) => Ended::Lost(LinkError::from(error).dated(&self.keys)),
            Err(error) => Ended::Lost(LinkError::Return(error)),
        }
    }

    /// Whether a certificate that was never welcomed has been put away for the one before.
    fn falls_back(&self) -> bool {
        self.keys.drop_unconfirmed().unwrap_or_else(|error| {
            tracing::error!(%error, "a certificate that is not taken cannot be put away");
            false
        })
    }

    async fn once(&self) -> Ended {
        let config = match self.keys.link_config() {
            Ok(config) => config,
            Err(error) => return Ended::Lost(error.into()),
        };
        let dialled = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return Ended::Stopped,
            dialled = self.dial(&config) => dialled,
        };
        match dialled {
            Ok((dialled, address, facts)) => match session::converse(self, dialled, &address, facts).await {
                Ended::Lost(error) => Ended::Lost(error.dated(&self.keys)),
                ended => ended,
            },
            Err(error) => Ended::Lost(error.dated(&self.keys)),
        }
    }

    async fn dial(&self, config: &quinn::ClientConfig) -> Result<(Dialled, String, NodeFacts), LinkError> {
        let facts = self.node.facts().await.map_err(LinkError::Facts)?;
        let mut last = DialError::Resolve {
            address: String::new(),
            why: "the identity holds no address".into(),
        };
        for address in self.keys.addresses() {
            match dial::connect(&address, config).await {
                Ok(dialled) => return Ok((dialled, address, facts)),
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
