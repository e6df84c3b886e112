//! One connection to see whether the coordinator answers, and what the way there carries. Nothing is said on it: the coordinator counts a link only from
//! Hello on, so a running agent keeps its own.

use super::{
    Identity,
    dial::{self, DialError, provider},
    enroll, public_key_fingerprint, their_clock,
    verifier::PinVerifier,
};
use proximity_protocol::close;
use quinn::{ClientConfig, ConnectionError};
use rustls_pki_types::CertificateDer;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// How long to wait for the search for the largest datagram, and for a coordinator that hangs up: it looks at our certificate after our handshake is done.
const LISTEN: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// What every QUIC connection needs (RFC 9000, 14); the search begins here.
const MTU_LEAST: u16 = 1200;
/// It ends here: what fits an Ethernet frame through the usual tunnels.
const MTU_MOST: u16 = 1452;

/// A coordinator that answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Which of the name's addresses.
    pub(crate) socket: SocketAddr,
    /// How long the handshake took.
    pub(crate) handshake: Duration,
    /// The largest datagram that came through.
    pub(crate) datagram_bytes: u16,
    /// From when to when its certificate is valid.
    pub(crate) validity: Option<(OffsetDateTime, OffsetDateTime)>,
    /// It hung up on us: code and words.
    pub(crate) hung_up: Option<(u32, String)>,
}

/// Connects to every address of the coordinator at once, as the link does, looks, and closes. `None`: no answer within `bound`.
pub(crate) async fn probe_all(
    identity: &Identity,
    bound: Duration,
) -> Result<Vec<(String, Option<Result<Answer, DialError>>)>, DialError> {
    let config = dial::link_config(identity)?;
    let mut asked = JoinSet::new();
    for address in identity.addresses.clone() {
        let config = config.clone();
        asked.spawn(async move {
            let answer = timeout(bound, probe(&address, &config)).await.ok();
            (address, answer)
        });
    }
    Ok(asked.join_all().await)
}

/// What time it is at the coordinator, asked at each address in turn on a connection of its own, whatever the dates of its certificate are. `None`: it does not
/// say.
pub(crate) async fn their_time(identity: &Identity, bound: Duration) -> Option<OffsetDateTime> {
    let pins = identity
        .roots()
        .filter_map(|root| public_key_fingerprint(&root))
        .collect();
    let config = enroll::config(Arc::new(PinVerifier::of_any_date(pins, provider())), provider()).ok()?;
    let asked = async {
        for address in &identity.addresses {
            let Ok(dialled) = dial::connect(address, &config).await else {
                continue;
            };
            let told = their_clock::ask(&dialled.connection).await;
            dialled.close(close::BYE.into(), b"").await;
            if told.is_some() {
                return told;
            }
        }
        None
    };
    timeout(bound, asked).await.ok().flatten()
}

async fn probe(address: &str, config: &ClientConfig) -> Result<Answer, DialError> {
    let begun = Instant::now();
    let dialled = dial::connect_seeing(address, config).await?;
    let handshake = begun.elapsed();
    let connection = dialled.connection.clone();
    let limit = Instant::now() + LISTEN;
    let searched = async {
        while connection.stats().path.current_mtu < MTU_MOST {
            sleep(LOOK).await;
        }
        // The coordinator hangs up as soon as it has looked at our certificate.
        sleep(LOOK * 10).await;
    };
    let ended = async {
        tokio::select! {
            biased;
            ended = connection.closed() => Some(ended),
            () = searched => None,
        }
    };
    let hung_up = match timeout_at(limit, ended).await.ok().flatten() {
        Some(ConnectionError::ApplicationClosed(closed)) => Some((
            u32::try_from(closed.error_code.into_inner()).unwrap_or(u32::MAX),
            String::from_utf8_lossy(&closed.reason).into_owned(),
        )),
        Some(other) => return Err(DialError::Connection(other)),
        None => None,
    };
    let answer = Answer {
        socket: connection.remote_address(),
        handshake,
        datagram_bytes: connection.stats().path.current_mtu.max(MTU_LEAST),
        validity: connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .and_then(|chain| validity(chain.first()?)),
        hung_up,
    };
    drop(connection);
    dialled.close(close::BYE.into(), b"only a look").await;
    Ok(answer)
}

fn validity(certificate: &[u8]) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.to_datetime(), validity.not_after.to_datetime()))
}
