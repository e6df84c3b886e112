//! Running a program to its end.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use super::LabError;

/// Runs it and answers its stdout.
pub(super) fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String, LabError> {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, None)
}

/// Runs it in a network namespace.
pub(super) fn run_in(netns: &str, words: &[&str]) -> Result<String, LabError> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--").args(words);
    finish(command, None)
}

/// Runs it with text on stdin.
pub(super) fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String, LabError> {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command, Some(input))
}

/// Whether a program of that name can be found.
pub(super) fn is_there(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| std::path::Path::new(folder).join(program).is_file())
}

pub(super) fn finish(mut command: Command, input: Option<&str>) -> Result<String, LabError> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let failed = |stderr: String| LabError::Program {
        program: words.join(" "),
        stderr,
    };
    command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin
            .write_all(text.as_bytes())
            .map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(if said.is_empty() {
        output.status.to_string()
    } else {
        said
    }))
}
