//! The folder of one run of a tool, `<state>/tools/<unit>`: all that agent and shim know of each other.
//!
//! | file | by | says |
//! |---|---|---|
//! | `request.json` | agent | what to run; written before the shim is started |
//! | `claim` | shim | which process runs it; made with `link(2)`, so of several shims exactly one goes on |
//! | `child.json` | shim | the tool's own process |
//! | `stdout`, `stderr` | tool | its words |
//! | `status.json` | shim | how it ended; written beside, synced, renamed |
//! | `forgotten` | agent | the job is committed: remove all this once the tool has ended |
//!
//! Each file is written whole. One that cannot be understood all the same (a disk that lost power) counts as not there, except for the claim: then processes
//! are looked for that name the folder.

use super::{files, liveness::ProcessStamp, port::HostTools, silence::since_boot_ms};
use proximity_protocol::ids::Vmid;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Absolute.
    pub program: PathBuf,
    /// Never secrets: anybody on the machine sees argv.
    pub arguments: Vec<String>,
    /// The container that it changes.
    pub vmid: Option<Vmid>,
    /// Milliseconds since 1970, to tell the task that Proxmox wrote of it.
    pub asked_unix_ms: i64,
    /// Milliseconds since boot, for the deadline, which neither a restart of the agent nor a set clock moves.
    #[serde(default)]
    asked_boot_ms: i64,
    /// Which boot; empty: written by an agent that did not say.
    #[serde(default)]
    boot: String,
}

impl Request {
    /// Of a run that is asked for now.
    pub(crate) fn now(
        tools: &dyn HostTools,
        program: PathBuf,
        arguments: Vec<String>,
        vmid: Option<Vmid>,
    ) -> io::Result<Self> {
        Ok(Self {
            program,
            arguments,
            vmid,
            asked_unix_ms: tools.now_unix_ms(),
            asked_boot_ms: since_boot_ms(tools),
            boot: tools.boot()?,
        })
    }

    /// When it was asked for, milliseconds since boot; `None`: before the machine was started anew.
    pub(crate) fn asked_since_boot_ms(&self, tools: &dyn HostTools) -> Option<i64> {
        tools
            .boot()
            .is_ok_and(|boot| boot == self.boot)
            .then_some(self.asked_boot_ms)
    }

    /// Whether it is a command inside a container (`pct exec`): that ends with the container, and holds no lock of Proxmox.
    pub(crate) fn runs_inside(&self) -> bool {
        self.arguments.first().is_some_and(|word| word == "exec")
    }
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// It could not be started at all.
    pub start_error: Option<String>,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No shim has claimed it: it has not run.
    Unclaimed,
    /// It runs.
    Running,
    /// It ended.
    Ended(Status),
    /// Its processes are gone and nobody wrote down how it ended (power loss, SIGKILL).
    Lost,
}

/// One such folder.
#[derive(Debug, Clone)]
pub(crate) struct ToolDir(pub(crate) PathBuf);

fn malformed(path: &Path, error: &serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
}

/// Takes what cannot be understood for not there.
fn readable<T>(read: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "a file of a tool's run is damaged and counts as not there");
            Ok(None)
        }
        other => other,
    }
}

impl ToolDir {
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let path = self.file(name);
        match files::read_if_there(&path)? {
            Some(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|error| malformed(&path, &error)),
            None => Ok(None),
        }
    }

    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        let path = self.file(name);
        let bytes = serde_json::to_vec(value).map_err(|error| malformed(&path, &error))?;
        files::write_private(&path, &bytes)
    }

    /// Makes the folder with its request. Of two callers one makes it; the other gets `false` and attaches.
    pub(crate) fn create(&self, request: &Request) -> io::Result<bool> {
        match fs::create_dir(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.request()?.is_some() || self.is_claimed() {
                    return Ok(false);
                }
                // An agent was killed between the folder and the request: nothing has run, as no shim starts before.
            }
            Err(error) => return Err(error),
        }
        self.write("request.json", request)?;
        if let Some(parent) = self.0.parent() {
            files::sync_dir(parent)?;
        }
        Ok(true)
    }

    pub(crate) fn request(&self) -> io::Result<Option<Request>> {
        readable(self.read("request.json"))
    }

    pub(crate) fn child(&self) -> io::Result<Option<ProcessStamp>> {
        readable(self.read("child.json"))
    }

    /// Whether a shim has claimed it.
    pub(crate) fn is_claimed(&self) -> bool {
        self.file("claim").exists()
    }

    /// Claims the run for that process; `false` if another has.
    pub(super) fn claim(&self, stamp: &ProcessStamp) -> io::Result<bool> {
        let temporary = self.file(&format!("claim.{}", stamp.pid));
        let bytes = serde_json::to_vec(stamp).map_err(|error| malformed(&temporary, &error))?;
        files::write_private(&temporary, &bytes)?;
        let linked = fs::hard_link(&temporary, self.file("claim"));
        fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => files::sync_dir(&self.0).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn status(&self) -> io::Result<Option<Status>> {
        readable(self.read("status.json"))
    }

    /// Where the run stands. Looks at processes only if there is no status.
    pub(crate) fn phase(&self, tools: &dyn HostTools) -> io::Result<Phase> {
        if let Some(status) = self.status()? {
            return Ok(Phase::Ended(status));
        }
        let lives = match self.read::<ProcessStamp>("claim") {
            Ok(None) => return Ok(Phase::Unclaimed),
            Ok(Some(claim)) => tools.run_lives(&self.0, Some(&claim)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => tools.run_lives(&self.0, None),
            Err(error) => return Err(error),
        };
        if lives {
            return Ok(Phase::Running);
        }
        // It may have ended between the first look and the second.
        Ok(self.status()?.map_or(Phase::Lost, Phase::Ended))
    }

    /// Whether a status is there: the cheap look of whoever waits.
    pub(crate) fn has_ended(&self) -> bool {
        self.file("status.json").exists()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{config::Runner, host::OwnMachine};

    fn own() -> ProcessStamp {
        ProcessStamp::own().unwrap()
    }

    fn machine() -> OwnMachine {
        OwnMachine::new("/bin/false".into(), Runner::Fork)
    }

    fn request() -> Request {
        Request::now(&machine(), "/bin/true".into(), vec![], None).unwrap()
    }

    #[test]
    fn a_damaged_file_counts_as_not_there() {
        let root = tempfile::tempdir().unwrap();
        let dir = ToolDir(root.path().join("unit"));
        dir.create(&request()).unwrap();
        fs::write(dir.file("request.json"), b"{\"program\":\"/bi").unwrap();
        assert_eq!(
            (dir.request().unwrap(), dir.phase(&machine()).unwrap()),
            (None, Phase::Unclaimed)
        );
        assert!(
            dir.create(&request()).unwrap(),
            "nobody has claimed it: it is written anew"
        );
        dir.claim(&own()).unwrap();
        fs::write(dir.file("request.json"), b"").unwrap();
        assert!(!dir.create(&request()).unwrap(), "somebody runs it");
        fs::write(dir.file("claim"), b"").unwrap();
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Lost, "nobody names the folder");
        fs::write(dir.file("status.json"), b"{\"code\":0,").unwrap();
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Lost);
    }

    #[test]
    fn who_names_the_folder_works_on_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = ToolDir(root.path().join("unit"));
        dir.create(&request()).unwrap();
        fs::write(dir.file("claim"), b"{").unwrap();
        let mut shim = std::process::Command::new("sh")
            .args(["-c", "read never", "shim", "--dir"])
            .arg(&dir.0)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The kernel lets the parent go on before the child's words can be read.
        let words = format!("/proc/{}/cmdline", shim.id());
        while fs::read(&words).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Running);
        drop(shim.stdin.take());
        shim.wait().unwrap();
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Lost);
    }

    #[test]
    fn a_request_of_another_boot_has_no_time_of_this_one() {
        assert!(request().asked_since_boot_ms(&machine()).is_some());
        let older: Request =
            serde_json::from_str(r#"{"program":"/bin/true","arguments":[],"vmid":null,"asked_unix_ms":5}"#).unwrap();
        assert_eq!(older.asked_since_boot_ms(&machine()), None);
    }

    #[test]
    fn one_creates_and_one_claims() {
        let root = tempfile::tempdir().unwrap();
        let dir = ToolDir(root.path().join("unit"));
        assert!(dir.create(&request()).unwrap());
        assert!(!dir.create(&request()).unwrap());
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Unclaimed);
        assert!(dir.claim(&own()).unwrap());
        assert!(!dir.claim(&own()).unwrap());
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Running);
    }

    #[test]
    fn a_folder_without_request_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let dir = ToolDir(root.path().join("unit"));
        fs::create_dir(&dir.0).unwrap();
        assert!(dir.create(&request()).unwrap());
    }

    #[test]
    fn a_claim_of_another_boot_is_lost_unless_a_status_says_otherwise() {
        let root = tempfile::tempdir().unwrap();
        let dir = ToolDir(root.path().join("unit"));
        dir.create(&request()).unwrap();
        dir.write(
            "claim",
            &ProcessStamp {
                pid: 1,
                started_ticks: 1,
                boot: "before".into(),
            },
        )
        .unwrap();
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Lost);
        let status = Status {
            code: Some(0),
            signal: None,
            start_error: None,
        };
        dir.write("status.json", &status).unwrap();
        assert_eq!(dir.phase(&machine()).unwrap(), Phase::Ended(status));
    }
}
