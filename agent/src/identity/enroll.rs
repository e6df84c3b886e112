//! The conversation of enrolment: one connection, one question, one answer.

use super::{
    JoinError, dial, frames,
    verifier::{PinVerifier, Rejection},
};
use proximity_protocol::{
    ALPN_ENROLL, VERSION_MIN,
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
    let mut worst: Option<JoinError> = None;
    for _ in 0..ROUNDS {
        for address in &token.addresses {
            match ask_at(address, &config, &verifier, request).await {
                Ok(EnrollReply::Granted(grant)) => return Ok(grant),
                Ok(EnrollReply::Refused(refusal)) => return Err(JoinError::Refused(refusal)),
                Err(error) => {
                    tracing::debug!(address, %error, "no answer");
                    if worst.as_ref().is_none_or(|before| weight(&error) >= weight(before)) {
                        worst = Some(error);
                    }
                }
            }
        }
        if !matches!(worst, Some(JoinError::ReplyLost(_))) {
            break;
        }
    }
    Err(match worst {
        Some(JoinError::Unreachable { why, .. }) => JoinError::Unreachable {
            addresses: token.addresses.join(", "),
            why,
        },
        Some(error) => error,
        None => JoinError::Unreachable {
            addresses: String::new(),
            why: "the token holds no address".into(),
        },
    })
}

/// Which of several failures the operator must hear of.
fn weight(error: &JoinError) -> u8 {
    match error {
        JoinError::Unreachable { .. } => 0,
        JoinError::WrongPin { .. } => 1,
        JoinError::BadCertificate { .. } => 2,
        _ => 3,
    }
}

fn config(verifier: Arc<PinVerifier>, provider: Arc<CryptoProvider>) -> Result<quinn::ClientConfig, JoinError> {
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
    let dialled = dial::connect(address, config)
        .await
        .map_err(|error| match verifier.take_rejection() {
            Some(Rejection::WrongPin) => JoinError::WrongPin {
                address: address.into(),
            },
            Some(Rejection::BadCertificate(why)) => JoinError::BadCertificate {
                address: address.into(),
                why,
            },
            None => JoinError::Unreachable {
                addresses: address.into(),
                why: error.to_string(),
            },
        })?;
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
    dialled
        .close(VarInt::from_u32(proximity_protocol::close::BYE), b"")
        .await;
    answer
}
