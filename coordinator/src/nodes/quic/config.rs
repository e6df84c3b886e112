//! TLS and transport settings of the one endpoint.
//!
//! What quinn leaves open by default is set here: keep-alive, idle time, streams, windows, waiting handshakes. No session tickets and no early data: a revoked
//! agent would come back through a resumed session, which no certificate check sees.

use super::{Deps, ListenError};
use crate::{clock::SharedClock, pki::Pki};
use aws_lc_rs::{hkdf, hmac};
use proximity_protocol::{ALPN_ENROLL, ALPN_ENROLL_2, ALPN_LINK};
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use rustls::{pki_types::UnixTime, server::NoServerSessionStorage, time_provider::TimeProvider};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// What an unknown peer may send before it is known, on one stream and in all: an enrolment fits.
const UNKNOWN_WINDOW: u32 = 128 * 1024;

/// At most one reset in this time, so that a thousand agents hear of a restart within two seconds.
const RESET_INTERVAL: Duration = Duration::from_millis(2);

/// Random connection ids. quinn's default ones carry a mark of their run, and packets with the mark of another run are dropped without a reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        // Version 4: 122 random bits; the last eight bytes hold 62 of them.
        ConnectionId::new(&uuid::Uuid::new_v4().as_bytes()[8..])
    }
    fn cid_len(&self) -> usize {
        8
    }
    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Bounds of the listener, each with what happens beyond it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the first packet to Welcome, or to the answer of an enrolment; then the connection is closed.
    pub handshake: Duration,
    /// Handshakes and enrolments under way; beyond it connections are refused, beyond half of it an address has to prove itself first (Retry).
    pub handshakes: usize,
    /// The same from one address.
    pub handshakes_per_address: usize,
    /// A connection that says nothing for so long is gone.
    pub idle: Duration,
    /// How often we say something when there is nothing to say.
    pub keep_alive: Duration,
    /// How often agents send live figures.
    pub metrics_interval: Duration,
    /// How often it is written down who is connected.
    pub seen_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            handshakes: 1024,
            handshakes_per_address: 256,
            idle: Duration::from_secs(20),
            keep_alive: Duration::from_secs(5),
            metrics_interval: Duration::from_secs(1),
            seen_interval: Duration::from_secs(60),
        }
    }
}

/// Certificates are judged by the coordinator's own clock.
#[derive(Clone)]
struct ClockTime(SharedClock);

impl std::fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClockTime")
    }
}

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = u64::try_from(self.0.now_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now)))
    }
}

/// A certificate is asked for, and if one comes it must be of a root that is trusted now, or the handshake fails. Only enrolment goes on without one: TLS cannot decide that
/// by ALPN, so `accept` does, before it opens or reads a stream.
fn tls(pki: &Pki, clock: &SharedClock) -> Result<rustls::ServerConfig, ListenError> {
    let bad = |error: &dyn std::fmt::Display| ListenError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_details(provider, Arc::new(ClockTime(Arc::clone(clock))))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| bad(&e))?
        .with_client_cert_verifier(Arc::new(pki.client_roots()?))
        .with_cert_resolver(Arc::new(pki.server_certificate(Arc::clone(clock))?));
    tls.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_ENROLL_2.to_vec(), ALPN_ENROLL.to_vec()];
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.max_early_data_size = 0;
    Ok(tls)
}

fn transport(limits: &Limits) -> Result<TransportConfig, ListenError> {
    let idle =
        IdleTimeout::try_from(limits.idle).map_err(|_| ListenError::Tls("the idle time is out of bounds".into()))?;
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(limits.keep_alive))
        .max_idle_timeout(Some(idle))
        // One control stream, or one enrolment. Figures get their stream with Welcome.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(UNKNOWN_WINDOW))
        .receive_window(VarInt::from_u32(UNKNOWN_WINDOW))
        .send_window(4 * 1024 * 1024)
        .crypto_buffer_size(16 * 1024)
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

/// What a welcome agent may use beyond that.
pub(super) fn widen(connection: &quinn::Connection) {
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(2));
    connection.set_receive_window(VarInt::from_u32(2 * 1024 * 1024));
}

pub(super) fn endpoint(address: SocketAddr, deps: &Deps, limits: &Limits) -> Result<Endpoint, ListenError> {
    let crypto =
        QuicServerConfig::try_from(tls(&deps.pki, &deps.clock)?).map_err(|e| ListenError::Tls(e.to_string()))?;
    let retry = hkdf::Salt::new(hkdf::HKDF_SHA256, b"proximity retry").extract(deps.pki.retry_key());
    let mut server = ServerConfig::new(Arc::new(crypto), Arc::new(retry));
    server
        .transport_config(Arc::new(transport(limits)?))
        .max_incoming(limits.handshakes)
        .incoming_buffer_size(32 * 1024)
        .incoming_buffer_size_total(16 * 1024 * 1024);
    // The key outlives a restart: agents believe the reset of a connection that this run never had. Without it they would notice only after their idle time.
    let reset = hmac::Key::new(hmac::HMAC_SHA256, deps.pki.reset_key());
    let mut config = EndpointConfig::new(Arc::new(reset));
    config
        .cid_generator(|| Box::new(RandomIds))
        .min_reset_interval(RESET_INTERVAL);
    let bind = |source| ListenError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(bind)?;
    Endpoint::new(config, Some(server), socket, Arc::new(quinn::TokioRuntime)).map_err(bind)
}
