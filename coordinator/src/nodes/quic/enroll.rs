//! Enrolment: one stream, one request, one answer, then the end. A node whose certificate has expired asks here too, one that leaves says so, and anybody
//! may ask what time it is.

use super::{
    accept::{Door, Turn},
    frames::{self, FrameError},
};
use crate::{nodes::NodeQueries as _, service::enrolment::Asking};
use proximity_protocol::{
    VERSION_MIN, close,
    codec::Message,
    enquiry::{Enquiry, EnquiryReply},
    enroll::{EnrollReply, EnrollRequest, Grant},
    leave::{LEAVE_LABEL, LeaveReply, LeaveRequest},
    renew::{RETURN_CHALLENGE_LEN, RETURN_LABEL, ReturnReply, ReturnRequest},
};
use quinn::{Connection, RecvStream, SendStream};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A request with its facts and a certificate request is far smaller.
const REQUEST_MAX: usize = 64 * 1024;
/// How long a peer may take to fetch its answer and hang up.
const FAREWELL: Duration = Duration::from_secs(5);

enum Request {
    Join(Box<EnrollRequest>),
    Return(ReturnRequest),
    Leave(LeaveRequest),
    Enquiry(Enquiry),
}

async fn read(recv: &mut RecvStream) -> Result<Option<Request>, FrameError> {
    let Some(header) = frames::read_header(recv).await? else {
        return Ok(None);
    };
    Ok(Some(match header.kind {
        ReturnRequest::TYPE => Request::Return(frames::read_payload(recv, header, REQUEST_MAX).await?),
        LeaveRequest::TYPE => Request::Leave(frames::read_payload(recv, header, REQUEST_MAX).await?),
        Enquiry::TYPE => Request::Enquiry(frames::read_payload(recv, header, REQUEST_MAX).await?),
        _ => Request::Join(Box::new(frames::read_payload(recv, header, REQUEST_MAX).await?)),
    }))
}

/// `follows`: the protocol that was agreed on lets the answer name roots that the peer does not know yet.
pub(super) async fn serve(door: &Door, connection: Connection, follows: bool, deadline: Instant, turn: Turn) {
    let remote = connection.remote_address();
    let asked = async {
        let (send, mut recv) = connection.accept_bi().await.map_err(|error| error.to_string())?;
        let request = read(&mut recv)
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
    let told = match request {
        Request::Join(request) => {
            let reply = join(door, &connection, *request).await;
            timeout(FAREWELL, tell(&connection, &mut send, &reply)).await
        }
        Request::Return(request) => {
            let Some(reply) = come_back(door, &connection, &request, follows).await else {
                connection.close(close::PROTOCOL.into(), b"this connection cannot carry a proof");
                return;
            };
            timeout(FAREWELL, tell(&connection, &mut send, &reply)).await
        }
        Request::Leave(request) => {
            let Some(reply) = leave(door, &connection, &request).await else {
                connection.close(close::PROTOCOL.into(), b"this connection cannot carry a proof");
                return;
            };
            timeout(FAREWELL, tell(&connection, &mut send, &reply)).await
        }
        Request::Enquiry(Enquiry::Clock) => {
            let reply = EnquiryReply::Clock {
                unix_ms: door.deps.clock.now_ms(),
            };
            timeout(FAREWELL, tell(&connection, &mut send, &reply)).await
        }
    };
    match told {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%remote, %error, "the answer was not fetched; the same key may ask again"),
        Err(_) => tracing::debug!(%remote, "the peer did not hang up"),
    }
    connection.close(close::BYE.into(), b"");
    drop(turn);
}

async fn tell<M: Message>(connection: &Connection, send: &mut SendStream, reply: &M) -> Result<(), FrameError> {
    frames::write(send, VERSION_MIN, reply).await?;
    let _ = send.finish();
    // The peer hangs up when it has read the answer; closing first could throw the answer away.
    connection.closed().await;
    Ok(())
}

async fn join(door: &Door, connection: &Connection, request: EnrollRequest) -> EnrollReply {
    let remote = connection.remote_address();
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
    redeemed.reply
}

/// `None`: TLS gives no keying material, which it always does after a handshake.
async fn come_back(
    door: &Door,
    connection: &Connection,
    request: &ReturnRequest,
    follows: bool,
) -> Option<ReturnReply> {
    let remote = connection.remote_address();
    let mut challenge = [0; RETURN_CHALLENGE_LEN];
    connection
        .export_keying_material(&mut challenge, RETURN_LABEL, b"")
        .ok()?;
    let asking = Asking {
        remote: remote.ip(),
        follows,
    };
    let reply = door.enrolment.come_back(request, &challenge, asking).await;
    match &reply {
        ReturnReply::Granted(Grant { node, .. }) => {
            tracing::info!(%remote, node_id = %node, "a node whose certificate had expired has proven its key and got another");
        }
        ReturnReply::Followed { grant, .. } => {
            tracing::info!(%remote, node_id = %grant.node, "a node whose certificate had expired has proven its key and got one of the newest root");
        }
        ReturnReply::Refused(refusal) => {
            tracing::info!(%remote, reason = ?refusal.reason, "a node whose certificate had expired was not taken back");
        }
    }
    Some(reply)
}

/// `None`: as in [`come_back`].
async fn leave(door: &Door, connection: &Connection, request: &LeaveRequest) -> Option<LeaveReply> {
    let remote = connection.remote_address();
    let mut challenge = [0; RETURN_CHALLENGE_LEN];
    connection
        .export_keying_material(&mut challenge, LEAVE_LABEL, b"")
        .ok()?;
    let departed = door.enrolment.leave(request, &challenge, remote.ip()).await;
    if let Some(node) = departed.gone {
        door.connections.disconnect(node, close::REVOKED, "this node has left");
        door.deps.live.forget(node);
        door.deps.inventories.forget(node);
    }
    match &departed.reply {
        LeaveReply::Left { node, apps } => tracing::info!(%remote, node_id = %node, apps, "a node has left"),
        LeaveReply::Refused(refusal) => {
            tracing::info!(%remote, reason = ?refusal.reason, "a goodbye was not taken");
        }
    }
    Some(departed.reply)
}
