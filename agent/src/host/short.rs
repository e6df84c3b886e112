//! Plain children with a bound, for commands that only read or that act in one piece.

use std::{ffi::OsString, io, path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

/// A short command.
#[derive(Debug, Clone, Copy)]
pub struct Short<'a> {
    /// The executable.
    pub program: &'a Path,
    /// Its arguments; never secrets.
    pub arguments: &'a [OsString],
    /// What it reads.
    pub stdin: Option<&'a [u8]>,
    /// How long it may take; then it is killed.
    pub bound: Duration,
}

/// How a short command ended.
#[derive(Debug, Clone)]
pub struct ShortEnd {
    /// Whether its exit code was zero.
    pub success: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs it, feeds it `stdin`, and waits at most `bound`; then it is killed.
pub(crate) async fn run(
    program: &Path,
    arguments: &[OsString],
    stdin: Option<&[u8]>,
    bound: Duration,
) -> io::Result<ShortEnd> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    let input = child.stdin.take();
    let feed = async {
        if let (Some(mut input), Some(bytes)) = (input, stdin) {
            // A command that ends without reading says why on stderr; that is the better message.
            match input.write_all(bytes).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    let both = async { tokio::join!(feed, child.wait_with_output()) };
    let (fed, output) = tokio::time::timeout(bound, both).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} did not end within {} s", program.display(), bound.as_secs()),
        )
    })?;
    fed?;
    let output = output?;
    Ok(ShortEnd {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
