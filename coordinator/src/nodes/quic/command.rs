//! One command: a bidirectional stream of its own.

use super::{
    budget::Budget,
    connections::Link,
    frames::{self, FrameError},
};
use crate::nodes::CommandError;
use proximity_protocol::{
    close,
    codec::CodecError,
    command::{Command, Outcome, Progress, Reply},
    fault::{Fault, FaultKind},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// The longest line of progress, characters.
const PROGRESS_CHARS: usize = 500;
/// Lines of progress that are passed on in a burst, and the time in which so many come again. More are dropped: only the latest matter.
const PROGRESS_BURST: u32 = 50;
const PROGRESS_REFILL: Duration = Duration::from_secs(5);

fn failed(link: &Link, error: &FrameError) -> CommandError {
    match error {
        // The command itself cannot be sent: asking again would not help.
        FrameError::Codec(CodecError::TooLarge(_) | CodecError::Encode(_)) => CommandError::Fault(Fault::new(
            FaultKind::Malformed,
            format!("the command cannot be sent: {error}"),
        )),
        // A later agent's answer: the frame is whole, and the rest of the link is understood.
        FrameError::Codec(CodecError::Malformed(why)) => CommandError::Fault(Fault::new(
            FaultKind::Malformed,
            format!("the agent's answer is not understood ({why}): if the agent is newer, update the coordinator"),
        )),
        FrameError::Codec(error) => {
            link.close(close::PROTOCOL, &error.to_string());
            CommandError::Lost
        }
        FrameError::Stream(_) => CommandError::Lost,
    }
}

/// Sends it and follows it to its end. There is no deadline here: the connection's own keep-alive tells whether the agent lives, and how long an act may take
/// is the engine's to say.
pub(super) async fn execute(
    link: &Link,
    command: &Command,
    progress: &mpsc::UnboundedSender<Progress>,
) -> Result<Outcome, CommandError> {
    let (mut send, mut recv) = link.connection.open_bi().await.map_err(|_| CommandError::Lost)?;
    // Below the control stream; an error means that the stream is gone, which the next line finds too.
    let _ = send.set_priority(1);
    frames::write(&mut send, link.greeting.version, command)
        .await
        .map_err(|error| failed(link, &error))?;
    let _ = send.finish();
    let mut budget = Budget::new(PROGRESS_BURST, PROGRESS_REFILL);
    loop {
        match frames::read::<Reply>(&mut recv).await {
            Ok(Some(Reply::Accepted)) => {}
            Ok(Some(Reply::Progress(line))) => {
                if budget.take() {
                    // Nobody listening is no error.
                    let _ = progress.send(bounded(line));
                }
            }
            Ok(Some(Reply::Finished(result))) => return result.map_err(CommandError::Fault),
            Ok(None) => return Err(CommandError::Lost),
            Err(error) => return Err(failed(link, &error)),
        }
    }
}

fn bounded(mut line: Progress) -> Progress {
    if let Some((at, _)) = line.message.char_indices().nth(PROGRESS_CHARS) {
        line.message.truncate(at);
    }
    line
}
