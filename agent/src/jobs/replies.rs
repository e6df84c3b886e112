//! What the sender of a command hears, in order: accepted, how far it is, the end.

use super::{
    JobResult,
    machine::{Jobs, Submission},
    running::{News, Watch},
};
use proximity_protocol::{
    command::{Command, Reply},
    fault::{Fault, FaultKind},
};

/// The replies to one command. Dropping them changes nothing about the job.
pub struct Replies(State);

enum State {
    Answer(JobResult),
    Begins(Watch),
    Runs(Watch),
    Over,
}

impl Replies {
    /// Hands the command in.
    pub(crate) async fn to(jobs: &Jobs, command: Command) -> Self {
        Self(match jobs.submit(command).await {
            Submission::Answer(result) => State::Answer(result),
            Submission::Watch(watch) => State::Begins(watch),
        })
    }

    /// Only an end, for what is no command of ours.
    pub(crate) fn fault(fault: Fault) -> Self {
        Self(State::Answer(Err(fault)))
    }

    /// The next; `None` after `Finished`.
    pub async fn next(&mut self) -> Option<Reply> {
        let (reply, state) = match std::mem::replace(&mut self.0, State::Over) {
            State::Over => return None,
            State::Answer(result) => (Reply::Finished(result), State::Over),
            State::Begins(mut watch) => match watch.accepted().await {
                Ok(true) => (Reply::Accepted, State::Runs(watch)),
                Ok(false) => (abandoned(), State::Over),
                Err(result) => (Reply::Finished(result), State::Over),
            },
            State::Runs(mut watch) => match watch.next().await {
                News::Progress(progress) => (Reply::Progress(progress), State::Runs(watch)),
                News::Finished(result) => (Reply::Finished(result), State::Over),
                News::Abandoned => (abandoned(), State::Over),
            },
        };
        self.0 = state;
        Some(reply)
    }
}

fn abandoned() -> Reply {
    Reply::Finished(Err(Fault::new(
        FaultKind::ShuttingDown,
        "the agent is stopping; its next run takes the job up again",
    )))
}
