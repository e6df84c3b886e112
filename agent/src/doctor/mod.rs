//! What `proximity-agent doctor` looks at: each check says in one sentence what it found, and what to do if that is not well.
//!
//! One file per family of checks. All run at once, each bounded, and none changes anything on the node. A check that cannot look says so and is a
//! warning or a failure: silence never counts as well.

mod cgroups;
mod clock;
mod cluster;
mod coordinator;
mod own;
mod packet_filter;
mod policy;
mod published;
mod storages;
mod tools;

pub(crate) use tools::missing_tools;

use crate::{config::Config, host::NodeContext, identity::Identity};
use serde::Serialize;
use std::time::Duration;

/// How long one family of checks may take.
const BOUND: Duration = Duration::from_secs(10);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
    Warn,
    /// Something does not work.
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at, stable for scripts.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    /// One sentence.
    pub(crate) says: String,
    /// What to do; `None` if it is well.
    pub(crate) todo: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Ok,
            says: says.into(),
            todo: None,
        }
    }

    fn warn(check: &'static str, says: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            check,
            level: Level::Warn,
            says: says.into(),
            todo: Some(todo.into()),
        }
    }

    fn fail(check: &'static str, says: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(check, says, todo)
        }
    }
}

/// Runs every check.
pub(crate) async fn examine(config: &Config) -> Vec<Finding> {
    // Each of these needs what may be broken; the check that owns the trouble reports it, the others say what they could not look at.
    let identity = Identity::load(&config.paths.state);
    let node = NodeContext::open_to_look(config).ok();
    let (known, node) = (identity.as_ref().ok().and_then(Option::as_ref), node.as_ref());
    let (coordinator, clock, tools, cluster, storages, published, files) = tokio::join!(
        bounded("coordinator", coordinator::check(known)),
        bounded("clock", clock::check(config, known)),
        bounded("tools", tools::check(&config.host)),
        bounded("cluster", async { cluster::check(config) }),
        bounded("storage", storages::check(node)),
        bounded("published_ports", published::check(config, node)),
        bounded("state_folder", own::check(config, &identity)),
    );
    let mut findings = files;
    findings.extend(coordinator);
    findings.extend(clock);
    findings.extend(tools);
    findings.extend(cluster);
    findings.extend(storages);
    findings.extend(published);
    findings.extend(cgroups::check(&config.host.cgroup));
    findings.extend(policy::check(&config.paths.policy));
    findings
}

async fn bounded(check: &'static str, work: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    match tokio::time::timeout(BOUND, work).await {
        Ok(findings) => findings,
        Err(_) => vec![Finding::fail(
            check,
            format!("no result within {} s", BOUND.as_secs()),
            "something that was asked hangs: look at `dmesg` and at network storages, then try again",
        )],
    }
}
