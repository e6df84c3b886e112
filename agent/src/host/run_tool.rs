//! `proximity-agent run-tool --dir <folder>`: the shim between the agent and a tool.
//!
//! It leads a session of its own, claims the folder, runs what `request.json` says with output to files, and writes `status.json`. TERM, INT and HUP
//! do not end it: the tool gets them from whoever sends them to the whole service, and the shim writes down what came of it. With `--detach` it
//! starts itself again and ends at once, so that the second becomes a child of PID 1.

use super::{Shim, Status, liveness::ProcessStamp};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
};
use tokio::signal::unix::{SignalKind, signal};

/// The body of the subcommand. `args` are the words after `run-tool`.
pub fn main(args: &[OsString]) -> ExitCode {
    let words: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
    let result = match words.as_slice() {
        [dir, path] if *dir == "--dir" => run(Path::new(path)),
        [dir, path, detach] if *dir == "--dir" && *detach == "--detach" => detached(path),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "usage: run-tool --dir <folder> [--detach]; only the agent calls this",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proximity-agent run-tool: {error}");
            ExitCode::FAILURE
        }
    }
}

fn detached(dir: &OsStr) -> io::Result<()> {
    Command::new(std::env::current_exe()?)
        .args([OsStr::new("run-tool"), OsStr::new("--dir"), dir])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
}

fn run(folder: &Path) -> io::Result<()> {
    // Below systemd the shim leads a session already, which is what setsid would refuse.
    if nix::unistd::getsid(None)? != nix::unistd::getpid() {
        nix::unistd::setsid()?;
    }
    let Some(shim) = Shim::claim(folder, &ProcessStamp::own()?)? else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(run_claimed(&shim));
    let status = status.unwrap_or_else(|error| Status {
        code: None,
        signal: None,
        start_error: Some(error.to_string()),
    });
    shim.ended(&status)
}

async fn run_claimed(shim: &Shim) -> io::Result<Status> {
    // A handler, unlike "ignore", is not inherited: the tool keeps its own answer to these.
    let _kept = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let request = shim.request()?;
    let (stdout, stderr) = shim.outputs()?;
    let mut child = tokio::process::Command::new(&request.program)
        .args(&request.arguments)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", request.program.display())))?;
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        && let Ok(stamp) = ProcessStamp::of(pid)
    {
        shim.began(&stamp)?;
    }
    let end = child.wait().await?;
    Ok(Status {
        code: end.code(),
        signal: end.signal(),
        start_error: None,
    })
}
