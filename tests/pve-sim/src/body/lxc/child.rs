//! Running a program to its end, or until TERM comes.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::body::{BodyError, Interrupted};

/// How often a child and the signals are looked at.
const POLL: Duration = Duration::from_millis(10);

fn name(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    words.join(" ")
}

/// Runs it; answers stdout and stderr.
///
/// # Errors
/// `command '…' failed: exit code N`, as the real tools word it, with what it said before.
pub(super) fn run(mut command: Command) -> Result<(String, String), BodyError> {
    let name = name(&command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| BodyError::Failed(format!("command '{name}' failed: {error}")))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok((said(&output.stdout), said(&output.stderr)));
    }
    let code = output
        .status
        .code()
        .map_or_else(|| output.status.to_string(), |code| format!("exit code {code}"));
    let stderr = said(&output.stderr);
    let before = if stderr.is_empty() {
        String::new()
    } else {
        format!("{stderr}\n")
    };
    Err(BodyError::Failed(format!("{before}command '{name}' failed: {code}")))
}

/// Starts children that work into each other and waits for all of them; kills them when TERM comes. The last one's stderr
/// is answered; it must have been made with a pipe.
pub(super) fn wait_all(mut children: Vec<(String, Child)>, interrupted: &dyn Interrupted) -> Result<String, BodyError> {
    let mut said = children.last_mut().and_then(|(_, child)| child.stderr.take());
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stderr) = &mut said {
            // What cannot be read is not said; how the child ended is what counts.
            let _ = stderr.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).trim_end().to_owned()
    });
    let mut failed = None;
    let mut stopped = false;
    while !children.is_empty() {
        if interrupted.yes() && !stopped {
            stopped = true;
            for (_, child) in &mut children {
                // It may just have ended.
                let _ = child.kill();
            }
        }
        let mut running = Vec::new();
        for (name, mut child) in children {
            match child.try_wait() {
                Ok(None) => running.push((name, child)),
                Ok(Some(status)) if status.success() => {}
                Ok(Some(status)) => failed = failed.or(Some(format!("command '{name}' failed: {status}"))),
                Err(error) => failed = failed.or(Some(format!("command '{name}' failed: {error}"))),
            }
        }
        children = running;
        if !children.is_empty() {
            std::thread::sleep(POLL);
        }
    }
    let text = reader.join().unwrap_or_default();
    // A signal to the whole process group ends the children before it is seen here.
    if stopped || (failed.is_some() && interrupted.yes()) {
        return Err(BodyError::Interrupted);
    }
    match failed {
        Some(failed) => Err(BodyError::Failed(if text.is_empty() {
            failed
        } else {
            format!("{text}\n{failed}")
        })),
        None => Ok(text),
    }
}
