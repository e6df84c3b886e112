//! One command's stream.

use crate::{
    identity::frames::{self, ReadError, WriteError},
    jobs::{Replies, machine::Jobs},
};
use proximity_protocol::{
    close,
    command::{Command, Reply},
    fault::{Fault, FaultKind},
};
use quinn::{RecvStream, SendStream, VarInt};
use std::time::Duration;

/// Commands come before figures and after the control stream.
const PRIORITY: i32 = 1;
/// A command that is begun must arrive in this time.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the command, answers, and ends the stream. Whatever happens to the stream, a job that was accepted goes on.
pub(super) async fn serve(jobs: Jobs, version: u16, mut send: SendStream, mut recv: RecvStream) {
    let served = async {
        // The order of the two streams of bytes only; a connection that is gone shows at the first write.
        let _ = send.set_priority(PRIORITY);
        let replies = match tokio::time::timeout(ARRIVAL_TIMEOUT, frames::read::<Command>(&mut recv)).await {
            Ok(Ok(Some(command))) => Replies::to(&jobs, command).await,
            Ok(Ok(None) | Err(ReadError::Stream(_))) => return Ok(()),
            Ok(Err(ReadError::Codec(error))) => Replies::fault(Fault::new(
                FaultKind::Malformed,
                format!("the agent cannot read the command ({error}); if the coordinator is newer, update the agent"),
            )),
            Err(_) => Replies::fault(Fault::new(FaultKind::Malformed, "the command did not arrive in time")),
        };
        tell(replies, version, &mut send).await
    };
    match served.await {
        Ok(()) => {
            // An error means that the stream is gone, and with it whoever wanted the answer.
            let _ = send.finish();
        }
        Err(error) => {
            tracing::debug!(%error, "a command's stream broke; its job goes on");
            let _ = send.reset(VarInt::from_u32(close::BYE));
        }
    }
}

async fn tell(mut replies: Replies, version: u16, send: &mut SendStream) -> Result<(), WriteError> {
    while let Some(reply) = replies.next().await {
        let ends = matches!(reply, Reply::Finished(_));
        match frames::write(send, version, &reply).await {
            Err(WriteError::Codec(error)) if ends => {
                let fault = Fault::new(
                    FaultKind::Internal,
                    format!("the agent's answer cannot be sent: {error}"),
                );
                frames::write(send, version, &Reply::Finished(Err(fault))).await?;
            }
            written => written?,
        }
    }
    Ok(())
}
