//! The tools that the agent runs.

use super::Finding;
use crate::{config::Host, host::short};
use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

const CHECK: &str = "tools";
const BOUND: Duration = Duration::from_secs(9);
/// Major versions of Proxmox VE that this agent was made for.
const VERSIONS: [u32; 2] = [8, 9];

/// What is missing, and what to do about each.
pub(crate) fn missing_tools(host: &Host) -> Vec<(String, String)> {
    let findings = look(host).into_iter();
    findings
        .filter_map(|finding| Some((finding.says, finding.todo?)))
        .collect()
}

fn look(host: &Host) -> Vec<Finding> {
    let mut paths: Vec<_> = ["pct", "pveam", "vzdump", "pveversion"]
        .iter()
        .map(|name| (host.pve_tools.join(name), "pve-container and pve-manager"))
        .collect();
    paths.push((host.nft.clone(), "nftables"));
    paths
        .iter()
        .filter_map(|(path, package)| missing(path, package))
        .collect()
}

pub(super) async fn check(host: &Host) -> Vec<Finding> {
    let mut findings = look(host);
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("all are in {} and can be run", host.pve_tools.display()),
        ));
    }
    let nothing: [std::ffi::OsString; 0] = [];
    let said = short::run(&host.pve_tools.join("pveversion"), &nothing, None, BOUND).await;
    findings.push(version(
        said.ok().filter(|end| end.success).map(|end| end.stdout).as_deref(),
    ));
    findings
}

fn missing(path: &Path, package: &str) -> Option<Finding> {
    let trouble = match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => return None,
        Ok(_) => "cannot be run".to_owned(),
        Err(error) => format!("is not there ({error})"),
    };
    Some(Finding::fail(
        CHECK,
        format!("{} {trouble}", path.display()),
        format!("install the package {package}, or set the path in [host] of the agent's configuration"),
    ))
}

/// `pve-manager/8.4.1/2a5fa54a8503f96d (running kernel: 6.8.12-9-pve)`
fn version(said: Option<&str>) -> Finding {
    let version = said.and_then(|text| text.split('/').nth(1));
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match (version, major) {
        (Some(version), Some(major)) if VERSIONS.contains(&major) => {
            Finding::ok("pve_version", format!("Proxmox VE {version}"))
        }
        (Some(version), Some(_)) => Finding::warn(
            "pve_version",
            format!("Proxmox VE {version} is not one that this agent was tested with (8 and 9)"),
            "update Proxmox VE or the agent",
        ),
        _ => Finding::warn(
            "pve_version",
            "pveversion does not say which version this is",
            "run `pveversion` by hand and see what it says",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_tool_must_be_there_and_be_runnable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pct");
        assert!(missing(&path, "p").unwrap().says.contains("not there"));
        std::fs::write(&path, "").unwrap();
        assert!(missing(&path, "p").unwrap().says.contains("cannot be run"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(missing(&path, "p"), None);
    }

    #[test]
    fn the_version_is_read() {
        let level = |text| version(text).level;
        assert_eq!(level(Some("pve-manager/8.4.1/2a5f (running kernel: 6.8)")), Level::Ok);
        assert_eq!(level(Some("pve-manager/7.4-3/9002ab8a")), Level::Warn);
        assert_eq!((level(Some("what")), level(None)), (Level::Warn, Level::Warn));
    }
}
