//! The agent's own service, as the package installs it: whether it is there, starting it, stopping it.

use super::short;
use std::{ffi::OsString, path::Path, time::Duration};

/// Its name.
pub(crate) const UNIT: &str = "proximity-agent.service";
/// A start waits until the published ports stand, a stop until the link has said goodbye.
const BOUND: Duration = Duration::from_secs(90);

/// What there is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// systemd does not run here.
    NoSystemd,
    /// systemd does not know the unit.
    NotInstalled,
    /// It is there.
    Installed {
        /// It runs, or is about to.
        active: bool,
    },
}

/// Looks.
pub(crate) async fn look() -> Result<Service, String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Ok(Service::NoSystemd);
    }
    let said = systemctl(&["show", "--property=LoadState,ActiveState", UNIT]).await?;
    Ok(standing(&said))
}

fn standing(said: &str) -> Service {
    let value = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match value("LoadState") {
        None | Some("not-found") => Service::NotInstalled,
        Some(_) => Service::Installed {
            active: matches!(value("ActiveState"), Some("active" | "activating" | "reloading")),
        },
    }
}

/// Has it started now and at each boot; one that runs is started anew.
pub(crate) async fn start() -> Result<(), String> {
    systemctl(&["enable", "--quiet", UNIT]).await?;
    systemctl(&["restart", UNIT]).await.map(drop)
}

/// Stops it.
pub(crate) async fn stop() -> Result<(), String> {
    systemctl(&["stop", UNIT]).await.map(drop)
}

async fn systemctl(words: &[&str]) -> Result<String, String> {
    let arguments: Vec<OsString> = words.iter().map(Into::into).collect();
    let end = short::run(Path::new("systemctl"), &arguments, None, BOUND)
        .await
        .map_err(|error| error.to_string())?;
    if end.success {
        return Ok(end.stdout);
    }
    let why = end.stderr.trim();
    Err(format!("systemctl {}: {why}", words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_shows_is_understood() {
        let installed = |active| Service::Installed { active };
        for (said, there) in [
            ("LoadState=loaded\nActiveState=active\n", installed(true)),
            ("ActiveState=activating\nLoadState=loaded\n", installed(true)),
            ("LoadState=loaded\nActiveState=inactive\n", installed(false)),
            ("LoadState=masked\nActiveState=failed\n", installed(false)),
            ("LoadState=not-found\nActiveState=inactive\n", Service::NotInstalled),
            ("", Service::NotInstalled),
        ] {
            assert_eq!(standing(said), there, "{said}");
        }
    }
}
