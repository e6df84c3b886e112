//! Enrolment: one stream, one request, one answer, then the end.

use super::{
    accept::{Door, Turn},
    frames,
};
use crate::nodes::NodeQueries as _;
use proximity_protocol::{
    VERSION_MIN, close,
    enroll::{EnrollReply, EnrollRequest},
};
use quinn::Connection;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A request with its facts and a certificate request is far smaller.
const REQUEST_MAX: usize = 64 * 1024;
/// How long a peer may take to fetch its answer and hang up.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) async fn serve(door: &Door, connection: Connection, deadline: Instant, turn: Turn) {
    let remote = connection.remote_address();
    let asked = async {
        let (send, mut recv) = connection.accept_bi().await.map_err(|error| error.to_string())?;
        let request = frames::read_up_to::<EnrollRequest>(&mut recv, REQUEST_MAX)
            .await
            .map_err(|error| error.to_string())?
            .ok_or("the stream ended before the request")?;
        Ok::<_, String>((send, request))
    };
    let (mut send, request) = match timeout_at(deadline, asked).await {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => {
            tracing::debug!(%remote, error, "no enrolment");
            connection.close(close::PROTOCOL.into(), error.as_bytes());
            return;
        }
        Err(_) => {
            connection.close(close::PROTOCOL.into(), b"the enrolment request did not come in time");
            return;
        }
    };
    // From here on the peer holds no handshake of others: what it asks for is bounded by the registry's one writer.
    let redeemed = door.enrolment.redeem(request, remote.ip()).await;
    for node in redeemed.superseded {
        door.connections.disconnect(
            node,
            close::REVOKED,
            "this node has enrolled again; this certificate is revoked",
        );
    }
    match &redeemed.reply {
        EnrollReply::Granted(grant) => tracing::info!(%remote, node_id = %grant.node, "a node enrolled"),
        EnrollReply::Refused(refusal) => tracing::info!(%remote, reason = ?refusal.reason, "an enrolment was refused"),
    }
    let told = async {
        frames::write(&mut send, VERSION_MIN, &redeemed.reply).await?;
        let _ = send.finish();
        // The peer hangs up when it has read the answer; closing first could throw the answer away.
        connection.closed().await;
        Ok::<_, frames::FrameError>(())
    };
    match timeout(FAREWELL, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%remote, %error, "the answer was not fetched; the same key may ask again"),
        Err(_) => tracing::debug!(%remote, "the peer did not hang up"),
    }
    connection.close(close::BYE.into(), b"");
    drop(turn);
}
