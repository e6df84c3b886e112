//! The conversation of enrolment: one connection, one question, one answer. Before it, a connection on which no secret is said: it tells whether the
//! coordinator of the token is there and what time it is for it, in words of their own for each way in which that can fail.

use super::{
    JoinError, Sight,
    clock::{Clock as _, SystemClock},
    dial::{self, DialError},
    frames,
    their_clock::{self, ClocksDiffer, TheirTime},
    verifier::{PinVerifier, Rejection},
};
use proximity_protocol::{
    ALPN_ENROLL, VERSION_MIN, close,
    enroll::{EnrollReply, EnrollRequest, Grant},
    token::JoinToken,
};
use quinn::VarInt;
use rustls::{ClientConfig, crypto::CryptoProvider};
use std::{sync::Arc, time::Duration};

const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Rounds over all addresses. The second is for an answer that was lost on the way: the same question gets the same answer.
const ROUNDS: u32 = 2;

pub(super) use dial::provider;

/// Asks at the token's addresses in order. An address that does not answer, or where somebody else does, is passed over.
pub(super) async fn ask(token: &JoinToken, request: &EnrollRequest) -> Result<Grant, JoinError> {
    let verifier = Arc::new(PinVerifier::new(token.ca_pin, provider()));
    let config = config(verifier.clone(), provider())?;
    let mut failures = Failures::default();
    for _ in 0..ROUNDS {
        for address in &token.addresses {
            match ask_at(address, &config, &verifier, request).await {
                Ok(EnrollReply::Granted(grant)) => return Ok(grant),
                Ok(EnrollReply::Refused(refusal)) => return Err(JoinError::Refused(refusal)),
                Err(error) => failures.add(address, error),
            }
        }
        if !matches!(failures.worst, Some(JoinError::ReplyLost(_))) {
            break;
        }
    }
    Err(failures.worst())
}

/// Looks whether the coordinator of the token answers at one of its addresses, and whether its clock and ours agree.
pub(super) async fn reach(token: &JoinToken) -> Result<(), JoinError> {
    let verifier = Arc::new(PinVerifier::of_any_date(vec![token.ca_pin], provider()));
    let config = config(verifier.clone(), provider())?;
    let mut failures = Failures::default();
    for address in &token.addresses {
        match reach_at(address, &config, &verifier).await {
            Ok(()) => return Ok(()),
            Err(error) => failures.add(address, error),
        }
    }
    Err(failures.worst())
}

async fn reach_at(address: &str, config: &quinn::ClientConfig, verifier: &PinVerifier) -> Result<(), JoinError> {
    let dialled = dial::connect_seeing(address, config)
        .await
        .map_err(|error| not_connected(address, error, verifier))?;
    let told = their_clock::ask(&dialled.connection).await;
    dialled.close(VarInt::from_u32(close::BYE), b"").await;
    their_clock::judge(SystemClock.now(), told, verifier.dates()).map_err(|clocks| JoinError::Clocks {
        address: address.into(),
        clocks,
    })
}

/// What went wrong at each of several addresses: only one of them is told.
#[derive(Default)]
struct Failures {
    worst: Option<JoinError>,
}

impl Failures {
    fn add(&mut self, address: &str, error: JoinError) {
        tracing::debug!(address, %error, "no answer");
        if self
            .worst
            .as_ref()
            .is_none_or(|before| weight(&error) >= weight(before))
        {
            self.worst = Some(error);
        }
    }

    fn worst(self) -> JoinError {
        self.worst.unwrap_or_else(|| JoinError::Unreachable {
            address: String::new(),
            why: "the token holds no address".into(),
        })
    }
}

/// Which of several failures the operator must hear of: the one that came nearest to the coordinator.
fn weight(error: &JoinError) -> u8 {
    match error {
        JoinError::NoName { .. } => 0,
        JoinError::Unseen { sight, .. } => match sight {
            Sight::NoRoute(_) => 1,
            Sight::NoHost(_) | Sight::Silent => 2,
            _ => 3,
        },
        JoinError::Unreachable { .. } => 4,
        JoinError::WrongPin { .. } => 5,
        JoinError::BadCertificate { .. } => 6,
        JoinError::Clocks { .. } => 7,
        _ => 8,
    }
}

fn not_connected(address: &str, error: DialError, verifier: &PinVerifier) -> JoinError {
    let address = address.to_owned();
    match (verifier.take_rejection(), error) {
        (Some(Rejection::WrongPin), _) => JoinError::WrongPin { address },
        (Some(Rejection::BadCertificate(why)), _) => JoinError::BadCertificate { address, why },
        (Some(Rejection::Dates(dates)), _) => JoinError::Clocks {
            address,
            clocks: ClocksDiffer {
                here: SystemClock.now(),
                there: TheirTime::Between(dates.not_before, dates.not_after),
            },
        },
        (None, DialError::Resolve { why, .. }) => JoinError::NoName { address, why },
        (None, DialError::Unseen { socket, sight }) => JoinError::Unseen { socket, sight },
        (None, error) => JoinError::Unreachable {
            address,
            why: error.to_string(),
        },
    }
}

pub(super) fn config(
    verifier: Arc<PinVerifier>,
    provider: Arc<CryptoProvider>,
) -> Result<quinn::ClientConfig, JoinError> {
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| JoinError::Key(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_ENROLL.to_vec()];
    dial::quic_config(tls).map_err(|error| JoinError::Key(error.to_string()))
}

async fn ask_at(
    address: &str,
    config: &quinn::ClientConfig,
    verifier: &PinVerifier,
    request: &EnrollRequest,
) -> Result<EnrollReply, JoinError> {
    let dialled = dial::connect_seeing(address, config)
        .await
        .map_err(|error| not_connected(address, error, verifier))?;
    let lost = |error: &dyn std::fmt::Display| JoinError::ReplyLost(error.to_string());
    // From here on the secret is on its way: the peer has proven that it holds the pinned CA's trust.
    let answer = tokio::time::timeout(REPLY_TIMEOUT, async {
        let (mut send, mut recv) = dialled.connection.open_bi().await.map_err(|error| lost(&error))?;
        frames::write(&mut send, VERSION_MIN, request)
            .await
            .map_err(|error| lost(&error))?;
        send.finish().map_err(|error| lost(&error))?;
        match frames::read::<EnrollReply>(&mut recv).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(lost(&"it closed the stream without an answer")),
            Err(frames::ReadError::Codec(error)) => Err(JoinError::BadGrant(error.to_string())),
            Err(error) => Err(lost(&error)),
        }
    })
    .await
    .map_err(|_| lost(&"no answer in time"))?;
    dialled.close(VarInt::from_u32(close::BYE), b"").await;
    answer
}
