//! Making QUIC connections: one set of transport settings for enrolment and link, and every address of a name tried in turn.

use super::{
    Identity,
    clock::{SharedClock, SystemClock},
    judge::{self, Judge, Seen},
    scout::{self, Sight},
};
use proximity_protocol::{ALPN_ENROLL, ALPN_ENROLL_2, ALPN_LINK, COORDINATOR_TLS_NAME};
use quinn::{
    Connection, ConnectionError, Endpoint, IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig,
};
use rustls::{
    ClientConfig, ConfigBuilder,
    client::{Resumption, WantsClientCert},
    crypto::CryptoProvider,
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::pin,
    sync::Arc,
    time::Duration,
};

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT_MS: u32 = 20_000;
/// How long one address is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// quinn assumes 333 ms and sends its first packet again after three times that: too slow towards a coordinator that is just starting.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// How long a closing connection may take to tell the peer.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// Commands that may be open at once.
const COMMAND_STREAMS_MAX: u32 = 512;

/// The cryptography of every connection.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The name of an address.
    #[error("cannot resolve {address:?}: {why}")]
    Resolve {
        /// `host:port`.
        address: String,
        /// Why.
        why: String,
    },
    /// No local socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(io::Error),
    /// Nobody there.
    #[error("{socket} did not answer within {after_s} s")]
    NoAnswer {
        /// Where.
        socket: SocketAddr,
        /// How long it was tried.
        after_s: u64,
    },
    /// Nobody there, and what can be seen of why.
    #[error("{socket}: {sight}")]
    Unseen {
        /// Where.
        socket: SocketAddr,
        /// What was seen.
        sight: Sight,
    },
    /// Certificates or keys of our own.
    #[error("TLS: {0}")]
    Tls(String),
    /// The handshake failed.
    #[error("{0}")]
    Connection(ConnectionError),
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(COMMAND_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(2 * 1024 * 1024))
        .receive_window(VarInt::from_u32(32 * 1024 * 1024))
        .datagram_receive_buffer_size(None);
    transport
}

/// Adds our transport to a TLS configuration.
pub(crate) fn quic_config(mut tls: ClientConfig) -> Result<quinn::ClientConfig, DialError> {
    // Each connection proves both certificates anew: a resumed session would not be judged by the registry's newest word.
    tls.resumption = Resumption::disabled();
    let tls = QuicClientConfig::try_from(tls).map_err(|error| DialError::Tls(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// The configuration of the link: our certificate, and the stored roots as the only ones that are trusted.
pub(crate) fn link_config(identity: &Identity) -> Result<quinn::ClientConfig, DialError> {
    let clock: SharedClock = Arc::new(SystemClock);
    link_config_at(identity, &clock, Seen::default())
}

/// The same by another clock; the dates of the certificate that is shown are left in `seen`.
pub(super) fn link_config_at(
    identity: &Identity,
    clock: &SharedClock,
    seen: Seen,
) -> Result<quinn::ClientConfig, DialError> {
    let mut tls = trusting(identity, clock, seen)?
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .map_err(bad)?;
    tls.alpn_protocols = vec![ALPN_LINK.to_vec()];
    quic_config(tls)
}

/// The configuration of a return: the same trust, and no certificate of ours, since it is not taken.
pub(super) fn return_config(
    identity: &Identity,
    clock: &SharedClock,
    seen: Seen,
) -> Result<quinn::ClientConfig, DialError> {
    let mut tls = trusting(identity, clock, seen)?.with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_ENROLL_2.to_vec(), ALPN_ENROLL.to_vec()];
    quic_config(tls)
}

fn bad(error: rustls::Error) -> DialError {
    DialError::Tls(error.to_string())
}

fn trusting(
    identity: &Identity,
    clock: &SharedClock,
    seen: Seen,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, DialError> {
    let judge = Arc::new(Judge::new(identity, seen).map_err(bad)?);
    Ok(ClientConfig::builder_with_details(provider(), judge::time(clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad)?
        .dangerous()
        // It is TLS's own judgement; only the dates are kept besides.
        .with_custom_certificate_verifier(judge))
}

/// A connection with the socket that it runs on.
pub(crate) struct Dialled {
    pub(crate) connection: Connection,
    endpoint: Endpoint,
}

impl Dialled {
    /// Closes, and waits a little for the peer to hear it.
    pub(crate) async fn close(self, code: VarInt, reason: &[u8]) {
        self.connection.close(code, reason);
        if tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle())
            .await
            .is_err()
        {
            tracing::debug!("the peer did not confirm the close");
        }
    }
}

/// Connects to `host:port`, to the first of its addresses that answers.
pub(crate) async fn connect(address: &str, config: &quinn::ClientConfig) -> Result<Dialled, DialError> {
    connect_each(address, config, false).await
}

/// The same, and if nobody answers, with a look at why.
pub(crate) async fn connect_seeing(address: &str, config: &quinn::ClientConfig) -> Result<Dialled, DialError> {
    connect_each(address, config, true).await
}

async fn connect_each(address: &str, config: &quinn::ClientConfig, look: bool) -> Result<Dialled, DialError> {
    let mut last = DialError::Resolve {
        address: address.into(),
        why: "the name has no address".into(),
    };
    let resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| DialError::Resolve {
            address: address.into(),
            why: error.to_string(),
        })?;
    for socket in resolved {
        let connected = if look {
            seeing(socket, config).await
        } else {
            connect_to(socket, config).await
        };
        match connected {
            Ok(dialled) => return Ok(dialled),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn seeing(socket: SocketAddr, config: &quinn::ClientConfig) -> Result<Dialled, DialError> {
    let (mut dialling, mut looking) = (pin!(connect_to(socket, config)), pin!(scout::look(socket)));
    let dialled = tokio::select! {
        biased;
        dialled = &mut dialling => dialled,
        // What the kernel says for sure need not be waited for.
        sight = &mut looking => match sight {
            sight if sight.is_plain() => return Err(DialError::Unseen { socket, sight }),
            sight => return unseen(dialling.await, socket, sight),
        },
    };
    match dialled {
        no_answer @ Err(DialError::NoAnswer { .. }) => unseen(no_answer, socket, looking.await),
        other => other,
    }
}

fn unseen(dialled: Result<Dialled, DialError>, socket: SocketAddr, sight: Sight) -> Result<Dialled, DialError> {
    match dialled {
        Err(DialError::NoAnswer { .. }) => Err(DialError::Unseen { socket, sight }),
        other => other,
    }
}

async fn connect_to(socket: SocketAddr, config: &quinn::ClientConfig) -> Result<Dialled, DialError> {
    let local: IpAddr = if socket.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let endpoint = Endpoint::client((local, 0).into()).map_err(DialError::Socket)?;
    let connecting = endpoint
        .connect_with(config.clone(), socket, COORDINATOR_TLS_NAME)
        .map_err(|error| DialError::Tls(error.to_string()))?;
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(Dialled { connection, endpoint }),
        Ok(Err(error)) => Err(DialError::Connection(error)),
        Err(_) => Err(DialError::NoAnswer {
            socket,
            after_s: CONNECT_TIMEOUT.as_secs(),
        }),
    }
}

/// Our own address on the way to the first coordinator address that has a route; nothing is sent.
pub(crate) async fn address_towards(addresses: &[String]) -> Option<Ipv4Addr> {
    for address in addresses {
        let Ok(resolved) = tokio::net::lookup_host(address).await else {
            continue;
        };
        for socket in resolved.filter(SocketAddr::is_ipv4) {
            let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
                .and_then(|probe| probe.connect(socket).and_then(|()| probe.local_addr()));
            if let Ok(SocketAddr::V4(local)) = routed
                && !local.ip().is_unspecified()
            {
                return Some(*local.ip());
            }
        }
    }
    None
}
