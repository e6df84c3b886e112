//! What every room of the node's side is handed: paths, names, locks.

use super::{
    files, forget,
    own_machine::OwnMachine,
    port::{HostTools, SharedTools},
    short::Short,
    usage::StorageUsage,
};
use crate::{
    config::{Config, Host},
    pve::cluster::Members,
};
use proximity_protocol::ids::{InvalidId, NodeName, StorageId, Vmid};
use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Why the node cannot be looked after.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file or folder.
    #[error("cannot {act} {path}: {source}")]
    Io {
        /// What was attempted.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a Proxmox node, or `/etc/pve` is not mounted.
    #[error("{path} cannot be understood: {message}; is this a Proxmox VE node, and does pve-cluster run?")]
    Members {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Not a Proxmox node.
    #[error("there is no {path}: this is no Proxmox VE node, and the agent is for nothing else")]
    NoProxmox {
        /// What is missing.
        path: PathBuf,
    },
    /// The node's name is not one that Proxmox allows.
    #[error("the node's name: {0}; set `name` in [node] of the configuration")]
    Name(InvalidId),
    /// Where published ports answer is not known.
    #[error("the address of this node is not known: set `address` in [node] of the configuration")]
    Address,
    /// The agent's own executable.
    #[error("cannot find the agent's own executable: {0}")]
    Executable(io::Error),
}

/// The published ports' table as it was listed after it was last set; `None`: not set in this run of the agent.
pub(crate) type TableLastSeen = Option<serde_json::Value>;

/// One node as its agent sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    tools: SharedTools,
    name: NodeName,
    address: Ipv4Addr,
    storage_locks: Mutex<HashMap<StorageId, Arc<tokio::sync::Mutex<()>>>>,
    publishing: tokio::sync::Mutex<TableLastSeen>,
    pve_version: tokio::sync::OnceCell<Option<String>>,
    usage: StorageUsage,
}

impl NodeContext {
    /// Makes the folders of the agent's own and finds the node's name. `link_address` is the local address of the link to the coordinator: published
    /// ports answer there unless the configuration names another.
    pub fn open(config: &Config, link_address: Option<Ipv4Addr>) -> Result<Self, HostError> {
        Self::open_on(config, link_address, own_machine(config)?)
    }

    /// As [`NodeContext::open`], on another machine.
    pub fn open_on(config: &Config, link_address: Option<Ipv4Addr>, tools: SharedTools) -> Result<Self, HostError> {
        for folder in ["tools", "tmp"] {
            let path = config.paths.state.join(folder);
            files::private_dir(&path).map_err(|source| HostError::Io {
                act: "make",
                path,
                source,
            })?;
        }
        let node = Self::assemble(config, config.node.address.or(link_address), tools)?;
        forget::sweep(&node);
        Ok(node)
    }

    /// The same node for somebody who only looks: nothing is made and nothing is removed.
    pub(crate) fn open_to_look(config: &Config) -> Result<Self, HostError> {
        let address = config.node.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        Self::assemble(config, Some(address), own_machine(config)?)
    }

    fn assemble(config: &Config, address: Option<Ipv4Addr>, tools: SharedTools) -> Result<Self, HostError> {
        let name = match &config.node.name {
            Some(name) => name.clone(),
            None => node_name(&config.host)?,
        };
        let name = NodeName::new(name).map_err(HostError::Name)?;
        let address = address.ok_or(HostError::Address)?;
        Ok(Self(Arc::new(Inner {
            config: config.clone(),
            tools,
            name,
            address,
            storage_locks: Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            pve_version: tokio::sync::OnceCell::new(),
            usage: StorageUsage::default(),
        })))
    }

    /// The node's Proxmox name.
    pub fn name(&self) -> &NodeName {
        &self.0.name
    }

    /// Where published ports answer.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn host(&self) -> &Host {
        &self.0.config.host
    }

    /// The machine.
    pub(crate) fn tools(&self) -> &dyn HostTools {
        self.0.tools.as_ref()
    }

    pub(crate) fn usage(&self) -> &StorageUsage {
        &self.0.usage
    }

    /// A file or folder of the agent's state.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.0.config.paths.state.join(name)
    }

    /// A file of the cluster file system.
    pub(crate) fn etc_pve(&self, name: &str) -> PathBuf {
        self.host().etc_pve.join(name)
    }

    /// A file of procfs.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        self.host().proc.join(name)
    }

    /// The configuration file of a container of this node.
    pub(crate) fn conf_path(&self, vmid: Vmid) -> PathBuf {
        self.etc_pve(&format!("nodes/{}/lxc/{vmid}.conf", self.name()))
    }

    /// A Proxmox tool by name.
    pub(crate) fn pve_tool(&self, name: &str) -> PathBuf {
        self.host().pve_tools.join(name)
    }

    /// A program of the machine by name: beside Proxmox's tools, else where Debian has it.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let beside = self.pve_tool(name);
        if beside.exists() {
            beside
        } else {
            Path::new("/usr/bin").join(name)
        }
    }

    /// An absolute path that a file of the node names (`path` in `storage.cfg`), as it lies here. `/etc/pve` tells where the machine's root is: it is
    /// `/` unless the agent is pointed at a machine that lies below a folder.
    pub(crate) fn machine_path(&self, path: &str) -> PathBuf {
        let etc_pve = &self.host().etc_pve;
        let root = etc_pve
            .ancestors()
            .nth(2)
            .filter(|_| etc_pve.ends_with("etc/pve"))
            .unwrap_or(std::path::Path::new("/"));
        root.join(path.trim_start_matches('/'))
    }

    /// One download to a storage at a time.
    pub(crate) async fn lock_storage(&self, storage: &StorageId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.storage_locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(storage.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// One change of the published ports at a time.
    pub(crate) async fn lock_publishing(&self) -> tokio::sync::MutexGuard<'_, TableLastSeen> {
        self.0.publishing.lock().await
    }

    /// e.g. `8.4.1`. Asked of `pveversion` once in the agent's life; `None` if it does not say.
    pub(crate) async fn pve_version(&self) -> Option<String> {
        let ask = || async {
            let arguments: [OsString; 0] = [];
            let command = Short {
                program: &self.pve_tool("pveversion"),
                arguments: &arguments,
                stdin: None,
                bound: Duration::from_secs(30),
            };
            let end = self.tools().short(command).await;
            match end {
                // pve-manager/8.4.1/2a5fa54a8503f96d (running kernel: 6.8.12-9-pve)
                Ok(end) if end.success => end.stdout.split('/').nth(1).map(|version| version.trim().to_owned()),
                Ok(end) => {
                    tracing::warn!(
                        stderr = end.stderr,
                        "pveversion failed; the version is reported as unknown"
                    );
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "pveversion could not be run; the version is reported as unknown");
                    None
                }
            }
        };
        self.0.pve_version.get_or_init(ask).await.clone()
    }
}

fn own_machine(config: &Config) -> Result<SharedTools, HostError> {
    let executable = std::env::current_exe().map_err(HostError::Executable)?;
    Ok(Arc::new(OwnMachine::new(executable, config.host.runner)))
}

fn node_name(host: &Host) -> Result<String, HostError> {
    let path = host.etc_pve.join(".members");
    let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound if !host.etc_pve.exists() => HostError::NoProxmox {
            path: host.etc_pve.clone(),
        },
        std::io::ErrorKind::NotFound => HostError::Members {
            path: path.clone(),
            message: "it is not there".into(),
        },
        _ => HostError::Io {
            act: "read",
            path: path.clone(),
            source,
        },
    })?;
    Members::parse(&text)
        .map(|members| members.nodename)
        .map_err(|message| HostError::Members { path, message })
}
