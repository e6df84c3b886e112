//! The door: who may shake hands, how many at once, for how long, and where they go.

use super::{Connections, Deps, Limits, enroll, link};
use crate::service::enrolment::Enrolment;
use proximity_protocol::{ALPN_ENROLL, ALPN_ENROLL_2, ALPN_LINK, close};
use quinn::{Connection, Endpoint, Incoming, crypto::rustls::HandshakeData};
use rustls_pki_types::CertificateDer;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handshakes under way, by address.
#[derive(Debug, Default)]
struct Shaking {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place among the handshakes; dropped, it is free again.
pub(super) struct Turn {
    shaking: Arc<Mutex<Shaking>>,
    address: IpAddr,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut shaking = self.shaking.lock().unwrap_or_else(PoisonError::into_inner);
        shaking.total = shaking.total.saturating_sub(1);
        if let Some(count) = shaking.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                shaking.by_address.remove(&self.address);
            }
        }
    }
}

/// What every connection needs.
pub(super) struct Door {
    pub(super) deps: Deps,
    pub(super) connections: Arc<Connections>,
    pub(super) limits: Limits,
    pub(super) enrolment: Enrolment,
    pub(super) stop: CancellationToken,
    tasks: TaskTracker,
    shaking: Arc<Mutex<Shaking>>,
}

/// Who is there after the handshake.
enum Visitor {
    /// Wants a certificate.
    Newcomer {
        /// Whether it knows of roots that follow each other.
        follows: bool,
    },
    /// Has one of our authority; the registry has not been asked yet.
    Holder(CertificateDer<'static>),
    /// Has none, and does not ask for one.
    Nobody,
}

fn who(connection: &Connection) -> Visitor {
    let protocol = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol);
    let certificate = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| chain.into_iter().next());
    match (protocol.as_deref(), certificate) {
        (Some(protocol), _) if protocol == ALPN_ENROLL => Visitor::Newcomer { follows: false },
        (Some(protocol), _) if protocol == ALPN_ENROLL_2 => Visitor::Newcomer { follows: true },
        (Some(protocol), Some(certificate)) if protocol == ALPN_LINK => Visitor::Holder(certificate),
        _ => Visitor::Nobody,
    }
}

fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

impl Door {
    pub(super) fn new(
        deps: Deps,
        connections: Arc<Connections>,
        limits: Limits,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let enrolment = Enrolment::new(
            deps.store.clone(),
            Arc::clone(&deps.clock),
            deps.pki.clone(),
            deps.bus.clone(),
        );
        Arc::new(Self {
            deps,
            connections,
            limits,
            enrolment,
            stop,
            tasks,
            shaking: Arc::default(),
        })
    }

    /// Accepts until the endpoint is closed.
    pub(super) async fn run(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            if self.stop.is_cancelled() {
                incoming.refuse();
                continue;
            }
            let Some((turn, busy)) = self.turn(&incoming) else {
                tracing::debug!(remote = %incoming.remote_address(), "too many handshakes; refused");
                incoming.refuse();
                continue;
            };
            if busy && !incoming.remote_address_validated() && incoming.may_retry() {
                // Under load an address proves that it receives what we send before it costs us a handshake.
                if let Err(error) = incoming.retry() {
                    error.into_incoming().refuse();
                }
                continue;
            }
            self.tasks.spawn(Arc::clone(&self).visit(incoming, turn));
        }
    }

    fn turn(&self, incoming: &Incoming) -> Option<(Turn, bool)> {
        let address = subscriber(incoming.remote_address().ip());
        let mut shaking = self.shaking.lock().unwrap_or_else(PoisonError::into_inner);
        let own = shaking.by_address.get(&address).copied().unwrap_or(0);
        if shaking.total >= self.limits.handshakes || own >= self.limits.handshakes_per_address {
            return None;
        }
        shaking.total += 1;
        shaking.by_address.insert(address, own + 1);
        let busy = shaking.total > self.limits.handshakes / 2;
        let turn = Turn {
            shaking: Arc::clone(&self.shaking),
            address,
        };
        Some((turn, busy))
    }

    async fn visit(self: Arc<Self>, incoming: Incoming, turn: Turn) {
        let deadline = Instant::now() + self.limits.handshake;
        let remote = incoming.remote_address();
        let connecting = match incoming.accept() {
            Ok(connecting) => connecting,
            Err(error) => return tracing::debug!(%remote, %error, "no handshake"),
        };
        let connection = match tokio::time::timeout_at(deadline, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return tracing::debug!(%remote, %error, "the handshake failed"),
            Err(_) => return tracing::debug!(%remote, "the handshake took too long"),
        };
        match who(&connection) {
            Visitor::Newcomer { follows } => enroll::serve(&self, connection, follows, deadline, turn).await,
            Visitor::Holder(certificate) => link::serve(&self, connection, certificate, deadline, turn).await,
            Visitor::Nobody => {
                tracing::debug!(%remote, "a peer without a certificate; closed");
                connection.close(
                    close::REVOKED.into(),
                    b"an agent's certificate is needed: enrol with a join token",
                );
            }
        }
    }
}
