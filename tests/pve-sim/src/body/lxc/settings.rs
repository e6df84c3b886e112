//! What `node.json` says under `lab`, and commands that run in the node's network namespace.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::body::BodyError;
use crate::layout::Layout;

/// First user id of the machine that containers are mapped to, and how many; Proxmox's own range.
pub(super) const ID_FIRST: u32 = 100_000;
pub(super) const ID_COUNT: u32 = 65_536;
/// LXC insists on `/etc/subuid` when it finds `newuidmap`; as root it needs neither, and here it finds nothing.
pub(super) const NO_PATH: &str = "/nonexistent";

/// Settings of the lxc body; [`crate::lab::LabNode::settings`] makes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Settings {
    /// The network namespace that is the node's; none: the caller's.
    pub(super) netns: Option<String>,
    /// Path of the containers' cgroups below each hierarchy; as on Proxmox `lxc` unless set.
    pub(super) cgroup_parent: Option<String>,
    /// Name servers of containers that have none of their own; those of the machine unless set.
    pub(super) dns: Vec<String>,
}

impl Settings {
    pub(super) fn of(layout: &Layout) -> Result<Self, BodyError> {
        let value = layout.info().lab.clone();
        if value.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(value)
            .map_err(|error| BodyError::Failed(format!("pve-sim: `lab` in node.json: {error}")))
    }

    /// The cgroup of a container.
    pub(super) fn cgroup(&self, vmid: u32) -> String {
        format!("{}/{vmid}", self.parent())
    }

    /// The cgroup of the process that watches it.
    pub(super) fn monitor_cgroup(&self, vmid: u32) -> String {
        format!("{}.monitor/{vmid}", self.parent())
    }

    fn parent(&self) -> &str {
        self.cgroup_parent.as_deref().unwrap_or("lxc")
    }

    /// Where name servers come from.
    pub(super) fn name_servers(&self) -> Vec<String> {
        if !self.dns.is_empty() {
            return self.dns.clone();
        }
        let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix("nameserver "))
            .map(|word| word.trim().to_owned())
            .collect()
    }

    /// A command in the node's namespace, which may be the one that this process is in.
    pub(super) fn command(&self, program: &str) -> Command {
        match &self.netns {
            Some(name) if !is_ours(name) => {
                let mut command = Command::new("/usr/bin/nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg("--").arg(program);
                command
            }
            _ => Command::new(program),
        }
    }

    /// `/proc/net/unix` of the node's namespace.
    pub(super) fn sockets(&self) -> String {
        match &self.netns {
            Some(name) if !is_ours(name) => self
                .command("/bin/cat")
                .arg("/proc/self/net/unix")
                .output()
                .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
                .unwrap_or_default(),
            _ => fs::read_to_string("/proc/self/net/unix").unwrap_or_default(),
        }
    }
}

fn is_ours(netns: &str) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let named = id(&Path::new("/run/netns").join(netns));
    named.is_some() && named == id(Path::new("/proc/self/ns/net"))
}

/// LXC's path: the folder of all containers.
pub(super) fn lxc_path(layout: &Layout) -> PathBuf {
    layout.root().join("var/lib/lxc")
}

/// An LXC tool for one container.
pub(super) fn tool(settings: &Settings, layout: &Layout, vmid: u32, name: &str) -> Command {
    let mut command = settings.command(&format!("/usr/bin/{name}"));
    command
        .arg("-P")
        .arg(lxc_path(layout))
        .arg("-n")
        .arg(vmid.to_string())
        .current_dir("/");
    command
}
