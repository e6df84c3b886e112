//! Files of `/etc/pve`. One that cannot be read, or not be understood, is a fault: never an empty list.

use super::NodeContext;
use crate::{
    host::files,
    pve::{
        cluster::{GuestList, Members, next_id_range},
        conf::Conf,
        ha::{self, Service},
        storage_cfg::{self, Storage},
    },
};
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{StorageId, Vmid},
};
use std::path::Path;

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Fault {
    Fault::new(
        FaultKind::Internal,
        format!(
            "{} cannot be read ({why}): does pve-cluster run on this node?",
            path.display()
        ),
    )
}

fn required(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, error))
}

/// Who is in the cluster.
pub(crate) fn members(node: &NodeContext) -> Result<Members, Fault> {
    let path = node.etc_pve(".members");
    Members::parse(&required(&path)?).map_err(|error| unreadable(&path, error))
}

/// Every guest of the cluster.
pub(crate) fn guests(node: &NodeContext) -> Result<GuestList, Fault> {
    let path = node.etc_pve(".vmlist");
    GuestList::parse(&required(&path)?).map_err(|error| unreadable(&path, error))
}

/// A container of this node; `None` if it has no configuration here.
pub(crate) fn conf(node: &NodeContext, vmid: Vmid) -> Result<Option<Conf>, Fault> {
    Ok(conf_text(node, vmid)?.map(|text| Conf::parse(&text)))
}

/// The same as it is written.
pub(crate) fn conf_text(node: &NodeContext, vmid: Vmid) -> Result<Option<String>, Fault> {
    let path = node.conf_path(vmid);
    files::read_if_there(&path).map_err(|error| unreadable(&path, error))
}

/// Storages that this node has.
pub(crate) fn storages(node: &NodeContext) -> Result<Vec<Storage>, Fault> {
    let path = node.etc_pve("storage.cfg");
    let (mut storages, strange) = storage_cfg::parse(&required(&path)?);
    if !strange.is_empty() {
        tracing::debug!(?strange, "entries of storage.cfg are left out");
    }
    storages.retain(|storage| storage.is_for(node.name().as_str()));
    Ok(storages)
}

/// One storage that this node has.
pub(crate) fn storage(node: &NodeContext, id: &StorageId) -> Result<Storage, Fault> {
    storages(node)?
        .into_iter()
        .find(|storage| storage.id == *id)
        .ok_or_else(|| {
            Fault::new(
                FaultKind::StorageUnavailable,
                format!("this node has no storage {id}: choose another, or add it in Proxmox"),
            )
        })
}

/// What HA's configuration says of a container; `None`: nothing. Without HA there are no such files.
pub(crate) fn ha_service(node: &NodeContext, vmid: Vmid) -> Result<Option<Service>, Fault> {
    let read = |name: &str| {
        let path = node.etc_pve(name);
        files::read_if_there(&path).map_err(|error| unreadable(&path, error))
    };
    let Some(resources) = read("ha/resources.cfg")? else {
        return Ok(None);
    };
    let status = read("ha/manager_status")?;
    Ok(ha::service(&resources, status.as_deref(), vmid))
}

/// The range for new VMIDs. The file may be missing.
pub(crate) fn next_id(node: &NodeContext) -> Result<Option<(u32, u32)>, Fault> {
    let path = node.etc_pve("datacenter.cfg");
    let text = files::read_if_there(&path).map_err(|error| unreadable(&path, error))?;
    Ok(text.and_then(|text| next_id_range(&text)))
}
