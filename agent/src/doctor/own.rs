//! The agent's own: its state folder, identity, certificate, and whether it runs and is linked.

use super::Finding;
use crate::{
    config::Config,
    host::usage::StorageUsage,
    identity::{self, Identity, IdentityError},
    link::status::{LinkState, Status},
};
use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};
use time::OffsetDateTime;

const BOUND: Duration = Duration::from_secs(5);
const FREE_LEAST_BYTES: u64 = 16 << 20;
const FREE_GOOD_BYTES: u64 = 256 << 20;
const INODES_LEAST: u64 = 64;
const INODES_GOOD: u64 = 1024;

pub(super) async fn check(config: &Config, identity: &Result<Option<Identity>, IdentityError>) -> Vec<Finding> {
    let state = &config.paths.state;
    let mut findings = modes(state);
    findings.push(space(state).await);
    match identity {
        Ok(Some(identity)) => {
            findings.push(certificate(identity.not_after, OffsetDateTime::now_utc()));
            findings.push(agent(state));
        }
        Ok(None) => findings.push(Finding::fail(
            "identity",
            "this machine has not joined a coordinator",
            "make a join token there and run `proximity-agent join`",
        )),
        Err(error) => findings.push(Finding::fail(
            "identity",
            error.to_string(),
            "run this as root; if the file is damaged, join again with a new join token and --take-over",
        )),
    }
    findings
}

/// Nobody but root may read the state: the key is there.
fn modes(state: &Path) -> Vec<Finding> {
    const CHECK: &str = "state_folder";
    let look = |path: &Path| match std::fs::metadata(path) {
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            let own = found.uid() == nix::unistd::geteuid().as_raw();
            (mode & 0o077 != 0 || !own).then(|| {
                Finding::fail(
                    CHECK,
                    format!(
                        "{} belongs to user {} with mode {mode:o}: others may get at the key",
                        path.display(),
                        found.uid()
                    ),
                    format!(
                        "chown root: {0} && chmod go= {0}, and join anew if somebody may have read it",
                        path.display()
                    ),
                )
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Finding::fail(
            CHECK,
            format!("{} cannot be looked at: {error}", path.display()),
            "run this as root",
        )),
    };
    let mut found: Vec<Finding> = [
        state.to_path_buf(),
        state.join("identity"),
        state.join("identity/identity.json"),
    ]
    .iter()
    .filter_map(|path| look(path))
    .collect();
    if found.is_empty() {
        found.push(Finding::ok(
            CHECK,
            format!("{} is for the agent's user alone", state.display()),
        ));
    }
    found
}

async fn space(state: &Path) -> Finding {
    const CHECK: &str = "disk";
    // Before the first join the folder is not there: what holds it counts.
    let there = state.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match StorageUsage::default().now(there, BOUND).await {
        Some(figures) => {
            let free_bytes = figures.total_bytes.saturating_sub(figures.used_bytes);
            of_space(there, free_bytes, figures.inodes_free)
        }
        None => Finding::warn(
            CHECK,
            format!("{} does not say how full it is", there.display()),
            "look at `df` and at the file system below it",
        ),
    }
}

fn of_space(path: &Path, free_bytes: u64, inodes_free: Option<u64>) -> Finding {
    let files = match inodes_free {
        Some(count) => format!("room for {count} more files"),
        None => "room for as many files as fit".to_owned(),
    };
    let says = format!("{} MiB are free at {}, and {files}", free_bytes >> 20, path.display());
    let count = inodes_free.unwrap_or(u64::MAX);
    if free_bytes < FREE_GOOD_BYTES || count < INODES_GOOD {
        let todo = "make room (`df -h`, `df -i`): without it the agent cannot write its journal and refuses work";
        return if free_bytes < FREE_LEAST_BYTES || count < INODES_LEAST {
            Finding::fail("disk", says, todo)
        } else {
            Finding::warn("disk", says, todo)
        };
    }
    Finding::ok("disk", says)
}

fn certificate(not_after: OffsetDateTime, now: OffsetDateTime) -> Finding {
    const CHECK: &str = "certificate";
    let days = (not_after - now).whole_days();
    if now >= not_after {
        return Finding::fail(
            CHECK,
            format!("ended on {not_after}"),
            "look at this clock; if it is right, join again with a new join token and --take-over",
        );
    }
    if days < 14 {
        return Finding::warn(
            CHECK,
            format!("ends on {not_after}, in {days} days, and has not been renewed"),
            "a running and linked agent renews it: see the checks `agent` and `coordinator`",
        );
    }
    Finding::ok(CHECK, format!("valid until {not_after}, for {days} days"))
}

fn agent(state: &Path) -> Finding {
    const CHECK: &str = "agent";
    let start = "systemctl enable --now proximity-agent";
    match identity::lock_state_dir(state) {
        Ok(_free) => Finding::warn(
            CHECK,
            "joined, but not running: apps run, nobody looks after them",
            start,
        ),
        Err(IdentityError::InUse(_)) => linked(Status::read(state)),
        Err(error) => Finding::warn(CHECK, error.to_string(), "run this as root"),
    }
}

fn linked(status: Option<Status>) -> Finding {
    const CHECK: &str = "agent";
    let Some(status) = status else {
        return Finding::warn(
            CHECK,
            "running, but its status cannot be read",
            "journalctl -u proximity-agent",
        );
    };
    match (&status.link, &status.problem) {
        (LinkState::Connected { address }, _) => {
            Finding::ok(CHECK, format!("running (process {}), linked to {address}", status.pid))
        }
        (_, problem) => Finding::warn(
            CHECK,
            format!(
                "running (process {}), not linked since {}: {}",
                status.pid,
                status.link_since,
                problem.as_deref().unwrap_or("no try has ended yet")
            ),
            "see the check `coordinator`; the agent tries again by itself",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{doctor::Level, link::status::StatusFile};
    use std::fs;

    #[test]
    fn a_readable_state_folder_fails() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(modes(&state)[0].level, Level::Ok);
        fs::create_dir(state.join("identity")).unwrap();
        fs::set_permissions(state.join("identity"), fs::Permissions::from_mode(0o750)).unwrap();
        let found = modes(&state);
        assert!(
            found[0].level == Level::Fail && found[0].says.contains("750"),
            "{found:?}"
        );
    }

    #[test]
    fn space_and_certificate_are_judged() {
        let level = |free, inodes| of_space(Path::new("/x"), free, inodes).level;
        assert_eq!(
            (level(0, None), level(100 << 20, None), level(1 << 40, None)),
            (Level::Fail, Level::Warn, Level::Ok)
        );
        assert_eq!(
            (
                level(1 << 40, Some(3)),
                level(1 << 40, Some(500)),
                level(1 << 40, Some(9_999))
            ),
            (Level::Fail, Level::Warn, Level::Ok)
        );
        let now = OffsetDateTime::UNIX_EPOCH;
        let level = |days| certificate(now + time::Duration::days(days), now).level;
        assert_eq!((level(-1), level(3), level(60)), (Level::Fail, Level::Warn, Level::Ok));
    }

    #[test]
    fn running_and_linked_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(agent(dir.path()).says.contains("not running"));
        let _held = identity::lock_state_dir(dir.path()).unwrap();
        assert!(agent(dir.path()).says.contains("status cannot be read"));
        let file = StatusFile::new(dir.path());
        file.link(LinkState::Waiting, Some("no answer".into()));
        assert!(linked(Status::read(dir.path())).says.contains("no answer"));
        file.link(LinkState::Connected { address: "c:1".into() }, None);
        assert_eq!(linked(Status::read(dir.path())).level, Level::Ok);
    }
}
