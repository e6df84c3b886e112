//! `<state>/status.json`: what a running agent says of itself to `proximity-agent status`. Nothing else reads it.

use crate::identity::replace_private;
use proximity_protocol::{hello::OpenJob, observed::PublishedObserved};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};
use time::OffsetDateTime;

/// The file's name in the state folder.
const NAME: &str = "status.json";

/// How the link is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum LinkState {
    /// Being dialled.
    Connecting,
    /// Welcome was said.
    Connected {
        /// Where.
        address: String,
    },
    /// Between two tries.
    Waiting,
    /// The agent has stopped in good order.
    Stopped,
}

/// A job that is not committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobLine {
    pub(crate) operation: String,
    pub(crate) step: String,
    pub(crate) finished: bool,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortLine {
    pub(crate) public_port: u16,
    pub(crate) app: String,
    pub(crate) vmid: u32,
    pub(crate) to: String,
}

/// All that the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    pub(crate) agent_version: String,
    pub(crate) link: LinkState,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) link_since: OffsetDateTime,
    /// Why the last try or connection ended; kept until the next one is made.
    pub(crate) problem: Option<String>,
    pub(crate) open_jobs: Vec<JobLine>,
    pub(crate) published: Vec<PortLine>,
}

impl Status {
    /// Reads the file; `None` if there is none or it is of another version.
    pub(crate) fn read(state_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_dir.join(NAME)).ok()?).ok()
    }
}

/// The file of this process.
#[derive(Debug)]
pub(crate) struct StatusFile {
    path: PathBuf,
    status: Mutex<Status>,
}

impl StatusFile {
    /// A file that is written at the first change.
    pub(crate) fn new(state_dir: &Path) -> Self {
        let status = Status {
            pid: std::process::id(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            link: LinkState::Stopped,
            link_since: OffsetDateTime::now_utc(),
            problem: None,
            open_jobs: vec![],
            published: vec![],
        };
        Self {
            path: state_dir.join(NAME),
            status: Mutex::new(status),
        }
    }

    /// The link changed.
    pub(crate) fn link(&self, link: LinkState, problem: Option<String>) {
        self.change(|status| {
            if status.link != link {
                status.link_since = OffsetDateTime::now_utc();
            }
            if problem.is_some() || matches!(link, LinkState::Connected { .. }) {
                status.problem = problem;
            }
            status.link = link;
        });
    }

    /// For the service manager.
    pub(crate) fn link_in_words(&self) -> String {
        let status = self.status.lock().expect("no code panics while it holds the status");
        match (&status.link, &status.problem) {
            (LinkState::Connected { address }, _) => format!("linked to {address}"),
            (LinkState::Connecting, None) => "connecting".to_owned(),
            (LinkState::Stopped, _) => "stopped".to_owned(),
            (_, Some(problem)) => format!("not linked: {problem}"),
            (LinkState::Waiting, None) => "not linked".to_owned(),
        }
    }

    /// The open jobs are these.
    pub(crate) fn open_jobs(&self, jobs: &[OpenJob]) {
        let line = |job: &OpenJob| JobLine {
            operation: job.operation.to_string(),
            step: job.step.to_string(),
            finished: job.finished,
        };
        self.change(|status| status.open_jobs = jobs.iter().map(line).collect());
    }

    /// The published ports are these.
    pub(crate) fn published(&self, ports: &[PublishedObserved]) {
        let line = |port: &PublishedObserved| PortLine {
            public_port: port.public_port,
            app: port.owner.app.to_string(),
            vmid: port.vmid.get(),
            to: format!("{}:{}", port.address, port.port),
        };
        self.change(|status| status.published = ports.iter().map(line).collect());
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().expect("no code panics while it holds the status");
        let before = status.clone();
        change(&mut status);
        if *status == before && self.path.exists() {
            return;
        }
        let written = serde_json::to_vec_pretty(&*status).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|json| replace_private(&self.path, &json)) {
            tracing::warn!(%error, path = %self.path.display(), "cannot write the status file");
        }
    }
}
