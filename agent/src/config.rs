//! `/etc/proximity/agent.toml`. Every path can be set, so that an agent can be pointed at another root.

use serde::Deserialize;
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/proximity/agent.toml";

/// The whole file. All keys are optional; unknown ones are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Files of the agent's own.
    pub paths: Paths,
    /// The machine that it looks after.
    pub host: Host,
    /// What it says of the node.
    pub node: Node,
}

/// Files of the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Identity, journal, published ports, tool results; mode 0700.
    pub state: PathBuf,
    /// The node's own policy.
    pub policy: PathBuf,
}
impl Default for Paths {
    fn default() -> Self {
        Self {
            state: "/var/lib/proximity-agent".into(),
            policy: "/etc/proximity/policy.toml".into(),
        }
    }
}

/// How tools are started so that they outlive the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// Transient systemd services where systemd is PID 1, else `fork`.
    #[default]
    Auto,
    /// Transient systemd services.
    Systemd,
    /// Double fork.
    Fork,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Folder with `pct`, `vzdump`, `pvesm`, `pveam`, `pveversion`.
    pub pve_tools: PathBuf,
    /// The `nft` executable.
    pub nft: PathBuf,
    /// The cluster file system.
    pub etc_pve: PathBuf,
    /// procfs.
    pub proc: PathBuf,
    /// cgroup file systems.
    pub cgroup: PathBuf,
    /// Path of the containers' cgroups below a hierarchy; Proxmox uses `lxc`.
    pub cgroup_parent: String,
    /// LXC's path, part of the name of each container's command socket.
    pub lxc: PathBuf,
    /// Task logs.
    pub task_log: PathBuf,
    /// `/run`, for lock files.
    pub run: PathBuf,
    /// sysfs class folder of network interfaces.
    pub sys_class_net: PathBuf,
    /// How tools are started.
    pub runner: Runner,
}
impl Default for Host {
    fn default() -> Self {
        Self {
            pve_tools: "/usr/sbin".into(),
            nft: "/usr/sbin/nft".into(),
            etc_pve: "/etc/pve".into(),
            proc: "/proc".into(),
            cgroup: "/sys/fs/cgroup".into(),
            cgroup_parent: "lxc".into(),
            lxc: "/var/lib/lxc".into(),
            task_log: "/var/log/pve".into(),
            run: "/run".into(),
            sys_class_net: "/sys/class/net".into(),
            runner: Runner::Auto,
        }
    }
}

/// What the agent says of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// The address under which published ports answer; unset means the one that the link to the coordinator uses.
    pub address: Option<Ipv4Addr>,
    /// The node's Proxmox name; unset means `nodename` of `/etc/pve/.members`.
    pub name: Option<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is there but cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not valid; the message names line and key.
    #[error("{path} is not valid: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
}

impl Config {
    /// Reads `path`. Without one, the default path is read if it exists, and otherwise everything is as on a plain Proxmox node.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, must_exist) = match path {
            Some(path) => (path, true),
            None => (Path::new(DEFAULT_PATH), false),
        };
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| ConfigError::Parse {
                path: path.into(),
                message: error.to_string(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read {
                path: path.into(),
                source,
            }),
        }
    }
}
