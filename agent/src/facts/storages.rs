//! Storages as facts: what `storage.cfg` says, and how full those are that are folders.

use super::{NodeContext, cluster};
use crate::pve::storage_cfg::Storage;
use proximity_protocol::{fault::Fault, observed::StorageFact};
use std::{path::PathBuf, time::Duration};

/// How long a storage may take to say how full it is.
const BOUND: Duration = Duration::from_secs(2);

/// Its folder as it lies here.
pub(crate) fn folder(node: &NodeContext, storage: &Storage) -> Option<PathBuf> {
    storage.path().map(|path| node.machine_path(&path))
}

/// All of the node.
pub(super) async fn facts(node: &NodeContext) -> Result<Vec<StorageFact>, Fault> {
    let mut facts = Vec::new();
    for storage in cluster::storages(node)? {
        let figures = match folder(node, &storage) {
            Some(folder) => node.usage().now(&folder, BOUND).await,
            None => None,
        };
        facts.push(StorageFact {
            content: storage.content(),
            shared: storage.shared(),
            total_bytes: figures.map(|figures| figures.total_bytes),
            used_bytes: figures.map(|figures| figures.used_bytes),
            id: storage.id,
            kind: storage.kind,
        });
    }
    Ok(facts)
}
