//! Whether reservations hold on the node, before anything is made. Reads only.

use super::{act::Act, address_probe};
use crate::{
    facts::{addresses, backups, bridges, cluster},
    ownership, publish,
    pve::conf::Conf,
};
use proximity_protocol::{
    command::{Confirm, Outcome},
    fault::{Fault, FaultKind},
    ids::{Owner, Vmid},
};
use std::{fs, io, net::Ipv4Addr, path::Path};

pub(super) async fn run(act: &Act<'_>, confirm: &Confirm) -> Result<Outcome, Fault> {
    if !cluster::members(act.node)?.quorate {
        return Err(Fault::new(
            FaultKind::NotQuorate,
            "the cluster has no quorum: its list of guests is of before, and what is free by it may be taken by now",
        ));
    }
    check_number(act, &confirm.owner, confirm.vmid)?;
    if !cluster::storage(act.node, &confirm.storage)?.takes("rootdir") {
        return Err(Fault::new(
            FaultKind::StorageUnavailable,
            format!("storage {} does not take containers (content rootdir)", confirm.storage),
        ));
    }
    if !bridges::exists(act.node, &confirm.bridge) {
        return Err(Fault::new(
            FaultKind::BridgeMissing,
            format!("bridge {} does not exist on this node", confirm.bridge),
        ));
    }
    publish::check_free(act.node, confirm.public_port, &confirm.owner).await?;
    if let Some(address) = confirm.address {
        check_address(act, confirm, address).await?;
    }
    Ok(Outcome::Confirmed)
}

/// Whether the number is free, or this owner's already.
pub(super) fn check_number(act: &Act<'_>, owner: &Owner, vmid: Vmid) -> Result<(), Fault> {
    let taken = |by: String| Err(Fault::new(FaultKind::VmidTaken, format!("VMID {vmid} {by}")));
    let record = ownership::read(act.node, vmid)?;
    if record.as_ref().is_some_and(|record| record.owner == *owner) {
        return Ok(());
    }
    if let Some(record) = record {
        return taken(format!("belongs to app {}", record.owner.app));
    }
    if let Some(guest) = cluster::guests(act.node)?.guests.get(&vmid) {
        return taken(format!("is taken by a guest on node {}", guest.node));
    }
    if let Some((first, last)) = cluster::next_id(act.node)?
        && !(first..=last).contains(&vmid.get())
    {
        return taken(format!(
            "is outside the range {first} to {last} that datacenter.cfg gives for new guests (next-id)"
        ));
    }
    // Under a number that is given out again, archives of another guest would look like its own.
    if let Some(storage) = backups::has_archives(act.node, vmid)? {
        return taken(format!("has backups of an earlier guest on storage {storage}"));
    }
    Ok(())
}

async fn check_address(act: &Act<'_>, confirm: &Confirm, address: Ipv4Addr) -> Result<(), Fault> {
    let taken = |by: String| {
        Err(Fault::new(
            FaultKind::AddressTaken,
            format!("address {address} is taken by {by}"),
        ))
    };
    if let Some(vmid) = configured_for(act, confirm, address)? {
        return taken(format!("guest {vmid}"));
    }
    let own = bridges::own_addresses().map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("the node's addresses cannot be read: {error}"),
        )
    })?;
    if own.iter().any(|(_, own, _)| *own == address) && !address.is_loopback() {
        return taken("the node itself".into());
    }
    if ownership::read(act.node, confirm.vmid)?.is_some() {
        // Our own container answers there, perhaps.
        return Ok(());
    }
    match address_probe::probe(act.node, &confirm.bridge, address).await? {
        Some(mac) => taken(format!("a machine on {} ({mac})", confirm.bridge)),
        None => Ok(()),
    }
}

/// Another guest of the cluster that has the address: by its configuration, or on this node by its network namespace.
fn configured_for(act: &Act<'_>, confirm: &Confirm, address: Ipv4Addr) -> Result<Option<Vmid>, Fault> {
    for (vmid, guest) in cluster::guests(act.node)?.guests {
        if vmid == confirm.vmid {
            continue;
        }
        for folder in ["lxc", "qemu-server"] {
            let path = act.node.etc_pve(&format!("nodes/{}/{folder}/{vmid}.conf", guest.node));
            if read(&path)?.is_some_and(|text| has_address(&text, address)) {
                return Ok(Some(vmid));
            }
        }
        if guest.node == act.node.name().as_str()
            && let Ok(Some(network)) = addresses::network(act.node, vmid)
            && network.addresses.contains(&address)
        {
            return Ok(Some(vmid));
        }
    }
    Ok(None)
}

fn has_address(text: &str, address: Ipv4Addr) -> bool {
    // `ipconfigN` is what cloud-init gives a virtual machine.
    Conf::parse(&text.replace("ipconfig", "net"))
        .static_addresses()
        .iter()
        .any(|(ip, _)| *ip == address)
}

fn read(path: &Path) -> Result<Option<String>, Fault> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::new(
            FaultKind::Internal,
            format!("{} cannot be read: {error}", path.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;
    use proximity_protocol::ids::{Generation, OperationId, Owner, StepKey, StepName};

    fn confirm(address: Option<Ipv4Addr>) -> Confirm {
        Confirm {
            owner: Owner {
                app: "nginx-a1b2c3d4".parse().unwrap(),
                generation: Generation(1),
            },
            vmid: Vmid::new(150).unwrap(),
            public_port: 8001,
            address,
            bridge: "vmbr0".parse().unwrap(),
            storage: "local".parse().unwrap(),
        }
    }

    #[test]
    fn a_stranger_with_the_number_or_the_address_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let step = StepKey {
            name: StepName::new("confirm").unwrap(),
            undo: false,
            attempt: 1,
        };
        let (progress, _listen) = tokio::sync::mpsc::unbounded_channel();
        let act = Act {
            node: &node,
            operation: OperationId(uuid::Uuid::from_u128(1)),
            step: &step,
            progress: &progress,
        };
        let check_vmid = |act: &Act<'_>, confirm: &Confirm| check_number(act, &confirm.owner, confirm.vmid);
        check_vmid(&act, &confirm(None)).unwrap();
        testing::put(dir.path(), "etc/pve/datacenter.cfg", "next-id: lower=1000,upper=2000\n");
        assert_eq!(check_vmid(&act, &confirm(None)).unwrap_err().kind, FaultKind::VmidTaken);
        testing::put(dir.path(), "etc/pve/datacenter.cfg", "");
        testing::put(
            dir.path(),
            "etc/pve/storage.cfg",
            "dir: local\n\tpath /var/lib/vz\n\tcontent rootdir,backup\n",
        );
        let archive = "var/lib/vz/dump/vzdump-qemu-150-2026_11_22-21_11_12.tar.zst";
        testing::put(dir.path(), archive, "");
        let fault = check_vmid(&act, &confirm(None)).unwrap_err();
        assert!(
            fault.kind == FaultKind::VmidTaken && fault.message.contains("backups"),
            "{fault}"
        );
        std::fs::remove_file(dir.path().join(archive)).unwrap();
        check_vmid(&act, &confirm(None)).unwrap();
        testing::put(
            dir.path(),
            "etc/pve/.vmlist",
            r#"{"version":2,"ids":{"150":{"node":"pve2","type":"qemu","version":1},"151":{"node":"pve2","type":"lxc","version":1}}}"#,
        );
        assert_eq!(check_vmid(&act, &confirm(None)).unwrap_err().kind, FaultKind::VmidTaken);
        testing::put(
            dir.path(),
            "etc/pve/nodes/pve2/lxc/151.conf",
            "net0: name=eth0,ip=10.0.0.7/24\n",
        );
        assert_eq!(
            configured_for(&act, &confirm(None), [10, 0, 0, 7].into()).unwrap(),
            Vmid::new(151).ok()
        );
        assert_eq!(
            configured_for(&act, &confirm(None), [10, 0, 0, 8].into()).unwrap(),
            None
        );
        testing::put(
            dir.path(),
            "etc/pve/nodes/pve2/qemu-server/151.conf",
            "ipconfig0: gw=10.0.0.1,ip=10.0.0.8/24\n",
        );
        assert_eq!(
            configured_for(&act, &confirm(None), [10, 0, 0, 8].into()).unwrap(),
            Vmid::new(151).ok()
        );
    }
}
