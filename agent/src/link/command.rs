//! One command's stream.

use crate::{
    identity::frames::{self, ReadError, WriteError},
    jobs::{
        JobResult,
        machine::{Jobs, Submission},
        running::{News, Watch},
    },
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
        let submission = match tokio::time::timeout(ARRIVAL_TIMEOUT, frames::read::<Command>(&mut recv)).await {
            Ok(Ok(Some(command))) => jobs.submit(command).await,
            Ok(Ok(None) | Err(ReadError::Stream(_))) => return Ok(()),
            Ok(Err(ReadError::Codec(error))) => Submission::Answer(Err(Fault::new(
                FaultKind::Malformed,
                format!("the agent cannot read the command ({error}); if the coordinator is newer, update the agent"),
            ))),
            Err(_) => Submission::Answer(Err(Fault::new(
                FaultKind::Malformed,
                "the command did not arrive in time",
            ))),
        };
        match submission {
            Submission::Answer(result) => finish(result, version, &mut send).await?,
            Submission::Watch(watch) => follow(watch, version, &mut send).await?,
        }
        Ok::<(), WriteError>(())
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

async fn follow(mut watch: Watch, version: u16, send: &mut SendStream) -> Result<(), WriteError> {
    match watch.accepted().await {
        Ok(true) => frames::write(send, version, &Reply::Accepted).await?,
        Ok(false) => return abandon(version, send).await,
        Err(result) => return finish(result, version, send).await,
    }
    loop {
        match watch.next().await {
            News::Progress(progress) => frames::write(send, version, &Reply::Progress(progress)).await?,
            News::Finished(result) => return finish(result, version, send).await,
            News::Abandoned => return abandon(version, send).await,
        }
    }
}

async fn finish(result: JobResult, version: u16, send: &mut SendStream) -> Result<(), WriteError> {
    match frames::write(send, version, &Reply::Finished(result)).await {
        Err(WriteError::Codec(error)) => {
            let fault = Fault::new(
                FaultKind::Internal,
                format!("the agent's answer cannot be sent: {error}"),
            );
            frames::write(send, version, &Reply::Finished(Err(fault))).await
        }
        written => written,
    }
}

async fn abandon(version: u16, send: &mut SendStream) -> Result<(), WriteError> {
    let fault = Fault::new(
        FaultKind::ShuttingDown,
        "the agent is stopping; its next run takes the job up again",
    );
    frames::write(send, version, &Reply::Finished(Err(fault))).await
}
