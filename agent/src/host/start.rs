//! Starting the shim so that it outlives the agent.

use super::short;
use crate::config::Runner;
use std::{ffi::OsString, io, path::Path, time::Duration};

/// Starts a shim for the folder. More than one is harmless: the claim decides.
pub(super) async fn start(executable: &Path, runner: Runner, unit: &str, folder: &Path) -> io::Result<()> {
    let mut words: Vec<OsString> = Vec::new();
    let program = match runner {
        Runner::Systemd => {
            words.extend(systemd_words(unit).map(OsString::from));
            words.push(executable.into());
            Path::new("systemd-run")
        }
        Runner::Fork | Runner::Auto => executable,
    };
    words.extend(["run-tool".into(), "--dir".into(), folder.into()]);
    if program != Path::new("systemd-run") {
        words.push("--detach".into());
    }
    let end = short::run(program, &words, None, Duration::from_secs(30)).await?;
    if end.success || (runner == Runner::Systemd && end.stderr.contains("already")) {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{} could not start a tool: {}",
            program.display(),
            end.stderr.trim()
        )))
    }
}

/// A service (PID 1 starts it, so it inherits none of the agent's hardening), never killed with SIGKILL, removed by systemd when it has ended.
fn systemd_words(unit: &str) -> impl Iterator<Item = String> {
    [
        "--no-block".to_owned(),
        "--collect".to_owned(),
        "--quiet".to_owned(),
        format!("--unit={unit}.service"),
        "--property=KillMode=control-group".to_owned(),
        "--property=SendSIGKILL=no".to_owned(),
        "--property=TimeoutStopSec=600".to_owned(),
        "--".to_owned(),
    ]
    .into_iter()
}
