//! The QUIC listener, enrolment, and the links of connected agents. The only room that knows quinn.
//!
//! How a connection flows through: `accept` bounds who may shake hands, and for how long; the ALPN decides between `enroll` (no certificate, one question, one
//! answer) and `link` (a certificate that the registry knows, see `admission`, or not one byte). `link` greets and puts the connection into [`Connections`],
//! which sends commands; `conversation` takes events and figures. `presence` writes down who was seen when.
//!
//! It decides nothing about apps: what a fact or an inventory means is read elsewhere.

mod accept;
mod admission;
mod budget;
mod clones;
mod command;
mod config;
mod connections;
mod conversation;
mod enroll;
mod frames;
mod link;
mod presence;
mod seating;

pub use config::Limits;
pub use connections::Connections;

use crate::{clock::SharedClock, events::Bus, live::Live, nodes::inventories::Inventories, pki::Pki, store::Store};
use proximity_protocol::{close, event::Notice, ids::Epoch};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the listener works with.
#[derive(Clone)]
pub struct Deps {
    /// The registry.
    pub store: Store,
    /// Time.
    pub clock: SharedClock,
    /// Keys and certificates.
    pub pki: Pki,
    /// Where live figures go.
    pub live: Live,
    /// Where inventories go.
    pub inventories: Inventories,
    /// Where changes are told.
    pub bus: Bus,
    /// This run of the coordinator.
    pub epoch: Epoch,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is taken, not ours, or not allowed.
    #[error("cannot listen on UDP {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Keys or certificates.
    #[error(transparent)]
    Pki(#[from] crate::pki::PkiError),
    /// TLS would not take its settings.
    #[error("cannot set up TLS for the agents: {0}")]
    Tls(String),
}

/// The running listener. Dropped, it goes on; [`Listener::shutdown`] ends it.
pub struct Listener {
    deps: Deps,
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    connections: Arc<Connections>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Tells every agent that can follow whenever the roots have changed.
async fn roots_told(
    pki: Pki,
    mut changes: watch::Receiver<()>,
    connections: Arc<Connections>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            }
        }
        connections.tell_followers(&Notice::Roots(Box::new(pki.told())));
    }
}

impl Listener {
    /// Binds (port 0 takes any free one) and starts to accept, with the limits of the product. Call within a tokio runtime.
    pub fn bind(address: SocketAddr, deps: Deps) -> Result<Self, ListenError> {
        Self::bind_with(address, deps, Limits::default())
    }

    /// The same with other limits.
    pub fn bind_with(address: SocketAddr, deps: Deps, limits: Limits) -> Result<Self, ListenError> {
        let endpoint = config::endpoint(address, &deps, &limits)?;
        let address = endpoint
            .local_addr()
            .map_err(|source| ListenError::Bind { address, source })?;
        let connections = Arc::new(Connections::new(deps.epoch));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let seen = limits.seen_interval;
        let door = accept::Door::new(
            deps.clone(),
            Arc::clone(&connections),
            limits,
            stop.clone(),
            tasks.clone(),
        );
        tasks.spawn(door.run(endpoint.clone()));
        tasks.spawn(presence::keep(
            deps.clone(),
            Arc::clone(&connections),
            seen,
            stop.clone(),
        ));
        tasks.spawn(roots_told(
            deps.pki.clone(),
            deps.pki.changes(),
            Arc::clone(&connections),
            stop.clone(),
        ));
        tasks.close();
        Ok(Self {
            deps,
            endpoint,
            address,
            connections,
            stop,
            tasks,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Both ports to the nodes: `NodeCommands` and `NodeQueries`.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    /// Takes no more connections, says goodbye on those that are there, and waits until that is written down and sent. Agents keep apps and ports running.
    pub async fn shutdown(&self) {
        if let Err(error) = presence::seen(&self.deps, &crate::nodes::NodeQueries::online(&*self.connections)).await {
            tracing::warn!(%error, "it was not written down which nodes were connected at the end");
        }
        self.stop.cancel();
        self.endpoint.close(close::BYE.into(), b"the coordinator stops");
        self.tasks.wait().await;
        self.endpoint.wait_idle().await;
    }
}

#[cfg(test)]
mod tests;
