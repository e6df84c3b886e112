//! What every step is handed, and how it calls tools.

use super::{ProgressSink, half_made, lost};
use crate::{
    host::{
        NodeContext,
        tool::{self, ToolCall, ToolEnd, ToolError, ToolId},
    },
    pve::{argv::Argv, words},
};
use proximity_protocol::{
    command::Progress,
    fault::{Fault, FaultKind},
    ids::{OperationId, StepKey, Vmid},
};
use std::time::Duration;

/// The longest message of progress, characters.
const MESSAGE_MAX: usize = 500;

/// One command at work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Act<'a> {
    pub(super) node: &'a NodeContext,
    pub(super) operation: OperationId,
    pub(super) step: &'a StepKey,
    pub(super) progress: &'a ProgressSink,
}

/// How long a tool may tell nothing. One that makes progress may take as long as it takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bound {
    /// Then it is not waited for any more: it goes on by itself, and the step fails.
    Wait(Duration),
    /// Then it gets TERM and rolls itself back.
    Terminate(Duration),
}

/// How often a call that may be repeated is made again when it leaves no result.
const REPEATS: u32 = 3;

impl Act<'_> {
    /// Tells the operator.
    pub(super) fn say(&self, message: &str) {
        self.say_percent(message, None);
    }

    fn say_percent(&self, message: &str, percent: Option<u8>) {
        // Nobody listening is no fault: the link may be down.
        self.progress
            .send(Progress {
                message: message.chars().take(MESSAGE_MAX).collect(),
                percent,
            })
            .ok();
    }

    fn id<'b>(&'b self, name: &'b str) -> ToolId<'b> {
        ToolId {
            operation: self.operation,
            step: self.step,
            name,
        }
    }

    /// Whether this job has called the tool already, before the agent was restarted.
    pub(super) fn has_called(&self, name: &str) -> bool {
        tool::was_asked(self.node, self.id(name))
    }

    /// When a call of this step was made, seconds since 1970; 0 if it never was.
    pub(super) fn asked_unix_s(&self, name: &str) -> Result<i64, Fault> {
        let asked = tool::asked(self.node, self.id(name)).map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format!("the agent's folder of tools cannot be read: {error}"),
            )
        })?;
        Ok(asked.map_or(0, |asked| asked.unix_s))
    }

    /// Forgets a call that only looked, so that it can be repeated.
    pub(super) fn discard(&self, name: &str) {
        if let Err(error) = tool::discard(self.node, self.id(name)) {
            tracing::warn!(%error, name, "the result of a tool could not be removed");
        }
    }

    /// Forgets all calls that have ended: the step has to wait, and acts anew when it comes back.
    pub(super) fn forget_ended(&self) {
        if let Err(fault) = half_made::keep(self.node, self.operation) {
            tracing::warn!(%fault, "results of tools are kept");
            return;
        }
        if let Err(error) = tool::discard_ended(self.node, self.operation, self.step) {
            tracing::warn!(%error, "results of tools could not be removed");
        }
    }

    /// Refuses while a tool of another step still changes the container: it may have outlived its deadline.
    pub(super) fn check_idle(&self, vmid: Vmid) -> Result<(), Fault> {
        self.check_busy(vmid, false)
    }

    /// The same for what stops the container and so ends whatever runs inside it.
    pub(super) fn check_idle_outside(&self, vmid: Vmid) -> Result<(), Fault> {
        self.check_busy(vmid, true)
    }

    fn check_busy(&self, vmid: Vmid, ends_inside: bool) -> Result<(), Fault> {
        let busy = tool::busy(self.node, vmid, self.operation, self.step, ends_inside).map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format!("the agent's folder of tools cannot be read: {error}"),
            )
        })?;
        match busy {
            None => Ok(()),
            Some(unit) => Err(Fault::new(
                FaultKind::Locked,
                format!("an earlier tool still works on container {vmid} ({unit}); waiting for its end"),
            )),
        }
    }

    /// Runs a tool to its end, whatever that is. `secrets` are kept out of progress and output.
    pub(super) async fn tool(
        &self,
        name: &str,
        argv: &Argv,
        vmid: Option<Vmid>,
        bound: Bound,
        secrets: &[&str],
    ) -> Result<ToolEnd, Fault> {
        let (silence, terminate) = match bound {
            Bound::Wait(time) => (time, false),
            Bound::Terminate(time) => (time, true),
        };
        let call = ToolCall {
            // Joining an absolute path gives that path.
            program: self.node.pve_tool(argv.tool),
            arguments: argv.words.clone(),
            vmid,
            silence,
            terminate,
        };
        let mut told = String::new();
        let mut output = |line: &str| {
            if line != told {
                self.say(&redact(line, secrets));
                line.clone_into(&mut told);
            }
        };
        let label = label(argv);
        let unusable = |error: &dyn std::fmt::Display| Fault::new(FaultKind::Internal, format!("{label}: {error}"));
        let end = match tool::run(self.node, self.id(name), &call, &mut output).await {
            Ok(end) => end,
            Err(ToolError::Lost) => {
                let asked = tool::asked(self.node, self.id(name)).map_err(|error| unusable(&error))?;
                lost::end(self, argv, vmid, asked, silence).await?.ok_or_else(|| {
                    Fault::new(
                        FaultKind::InDoubt,
                        format!("{label} was interrupted and left no result (power loss, or killed)"),
                    )
                })?
            }
            Err(ToolError::Deadline { bound_s, .. }) => {
                return Err(Fault::new(
                    FaultKind::DeadlineExceeded,
                    format!("{label} has told nothing for {bound_s} s; it goes on and is waited for"),
                ));
            }
            Err(error @ (ToolError::Start(_) | ToolError::Io(_))) => return Err(unusable(&error)),
        };
        Ok(ToolEnd {
            stdout: redact(&end.stdout, secrets),
            stderr: redact(&end.stderr, secrets),
            ..end
        })
    }

    /// Runs a tool that may be run any number of times with the same effect: one that left no result is run again.
    pub(super) async fn repeatable(
        &self,
        name: &str,
        argv: &Argv,
        vmid: Option<Vmid>,
        bound: Bound,
    ) -> Result<ToolEnd, Fault> {
        let mut left = REPEATS;
        loop {
            match self.tool(name, argv, vmid, bound, &[]).await {
                Err(fault) if fault.kind == FaultKind::InDoubt && left > 0 => self.discard(name),
                other => return other,
            }
            left -= 1;
        }
    }

    /// What a run of this step told before it was lost.
    pub(super) fn told(&self, name: &str) -> Result<String, Fault> {
        tool::told(self.node, self.id(name)).map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format!("the output of an earlier tool cannot be read: {error}"),
            )
        })
    }

    /// Runs a repeatable tool that must succeed.
    pub(super) async fn must(
        &self,
        name: &str,
        argv: &Argv,
        vmid: Option<Vmid>,
        bound: Bound,
    ) -> Result<ToolEnd, Fault> {
        let end = self.repeatable(name, argv, vmid, bound).await?;
        if end.success() {
            Ok(end)
        } else {
            Err(failure(argv, &end))
        }
    }
}

/// `pct create 100`: tool, command and number; the rest is for the log.
fn label(argv: &Argv) -> String {
    let words: Vec<&str> = argv.words.iter().take(2).map(String::as_str).collect();
    format!("{} {}", argv.tool, words.join(" "))
}

/// What a failed end means. A worker's words are in stdout, its last error in stderr.
pub(super) fn failure(argv: &Argv, end: &ToolEnd) -> Fault {
    let text = format!("{}\n{}", end.stdout, end.stderr);
    let last = end
        .stderr
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or(if end.code.is_none() {
            "a signal ended it"
        } else {
            "it says nothing"
        });
    let fault = match words::cause(&end.stderr).or_else(|| words::cause(&text)) {
        Some((kind, sentence)) => Fault::new(kind, format!("{}: {sentence}", label(argv))),
        None => Fault::new(FaultKind::ToolFailed, format!("{} failed: {last}", label(argv))),
    };
    fault.with_detail(&text)
}

/// After a look: what left no result did not happen.
pub(super) fn did_not_happen(fault: Fault) -> Fault {
    match fault.kind {
        FaultKind::InDoubt => Fault {
            kind: FaultKind::ToolFailed,
            ..fault
        },
        _ => fault,
    }
}

/// Takes secrets out of a text. Short ones would take half of it.
fn redact(text: &str, secrets: &[&str]) -> String {
    secrets
        .iter()
        .filter(|secret| secret.len() >= 4)
        .fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pve::argv;

    #[test]
    fn a_failure_says_what_was_tried_and_why() {
        let end = ToolEnd {
            code: Some(255),
            stdout: "Formatting…\n".into(),
            stderr: "unable to create CT 100 - something new\n".into(),
        };
        let fault = failure(&argv::start(Vmid::new(100).unwrap()), &end);
        assert_eq!(fault.kind, FaultKind::ToolFailed);
        assert_eq!(
            fault.message,
            "pct start 100 failed: unable to create CT 100 - something new"
        );
        assert!(fault.detail.unwrap().contains("Formatting"));
    }

    #[test]
    fn secrets_are_taken_out() {
        assert_eq!(
            redact("password is hunter22, yes", &["hunter22", "s"]),
            "password is …, yes"
        );
    }
}
