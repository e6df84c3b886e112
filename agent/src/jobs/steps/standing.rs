//! How the agent stands to a container: whether it is here, and ours.

use crate::{
    facts::{cluster, running},
    host::NodeContext,
    ownership::{self, OwnershipRecord},
    pve::{
        argv::TAG,
        cluster::{Guest, GuestKind},
        conf::Conf,
        words,
    },
};
use proximity_protocol::{
    command::{Target, Verb},
    fault::{Fault, FaultKind},
    ids::Vmid,
};

/// A target, looked at.
#[derive(Debug)]
pub(super) enum Standing {
    /// Here and ours.
    Ours(Box<Container>),
    /// A number without a container. Ours was destroyed, or never made; the record, if there is one, is ours.
    Missing(Option<OwnershipRecord>),
}

/// A container of ours on this node.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) vmid: Vmid,
    pub(super) conf: Conf,
    pub(super) record: OwnershipRecord,
}

fn not_ours(vmid: Vmid, why: &str) -> Fault {
    Fault::new(FaultKind::NotOurs, format!("container {vmid} is not touched: {why}"))
}

/// Looks. The faults are: not ours, moved away, or not to be told.
pub(super) fn look(node: &NodeContext, target: &Target) -> Result<Standing, Fault> {
    let vmid = target.vmid;
    let record = ownership::read(node, vmid)?;
    let record_is_ours = record.as_ref().is_some_and(|record| record.owner == target.owner);
    match cluster::guests(node)?.guests.get(&vmid) {
        None => Ok(Standing::Missing(record.filter(|_| record_is_ours))),
        Some(_) if record.is_none() => Err(not_ours(vmid, "it has no ownership record of Proximity")),
        Some(_) if !record_is_ours => Err(not_ours(vmid, "its ownership record names another app or generation")),
        Some(guest) => {
            let record = record.ok_or_else(|| not_ours(vmid, "it has no ownership record of Proximity"))?;
            here(node, vmid, guest, record)
        }
    }
}

fn here(node: &NodeContext, vmid: Vmid, guest: &Guest, record: OwnershipRecord) -> Result<Standing, Fault> {
    if guest.kind == GuestKind::Machine {
        return Err(not_ours(vmid, "it is a virtual machine"));
    }
    if guest.node != node.name().as_str() {
        return Err(Fault::new(
            FaultKind::MovedToOtherNode,
            format!("container {vmid} is on node {} now", guest.node),
        ));
    }
    let conf = cluster::conf(node, vmid)?.ok_or_else(|| {
        Fault::new(
            FaultKind::Internal,
            format!("the configuration of container {vmid} changes just now; try again"),
        )
    })?;
    let nothing_to_compare = conf.is_half_made() || conf.is_half_destroyed();
    if !nothing_to_compare && !record.is_of(&conf) {
        return Err(not_ours(
            vmid,
            "another container was made under its number; remove /etc/pve/priv/proximity/ of that number to forget ours",
        ));
    }
    Ok(Standing::Ours(Box::new(Container { vmid, conf, record })))
}

/// Whether another container was made under the number of ours: the record is ours and complete, and what is there now has another MAC address and is
/// not ours by the other marks (Proxmox names the first volume of each container alike). Then ours is gone for sure, and the record stands for nothing.
pub(super) fn is_replaced(node: &NodeContext, target: &Target) -> Result<bool, Fault> {
    let Some(record) = ownership::read(node, target.vmid)?.filter(|record| record.owner == target.owner) else {
        return Ok(false);
    };
    if record.mac.is_none() {
        return Ok(false);
    }
    let guests = cluster::guests(node)?.guests;
    let here = guests
        .get(&target.vmid)
        .is_some_and(|guest| guest.kind != GuestKind::Machine && guest.node == node.name().as_str());
    if !here {
        return Ok(false);
    }
    Ok(cluster::conf(node, target.vmid)?.is_some_and(|conf| {
        let comparable = !conf.is_half_made() && !conf.is_half_destroyed();
        comparable && !record.is_of(&conf) && conf.mac() != record.mac.as_deref()
    }))
}

/// Whether a container of this node has our tag under the number, but no record says whose it is: it may be ours. Then it can neither be touched nor be
/// said to be gone.
pub(super) fn has_lost_its_record(node: &NodeContext, target: &Target) -> Result<bool, Fault> {
    let vmid = target.vmid;
    if ownership::read(node, vmid)?.is_some() {
        return Ok(false);
    }
    let guests = cluster::guests(node)?.guests;
    let here = guests
        .get(&vmid)
        .is_some_and(|guest| guest.kind == GuestKind::Container && guest.node == node.name().as_str());
    Ok(here && cluster::conf(node, vmid)?.is_some_and(|conf| conf.has_tag(TAG)))
}

/// The container, which must be there.
pub(super) fn require(node: &NodeContext, target: &Target) -> Result<Container, Fault> {
    match look(node, target)? {
        Standing::Ours(container) if container.conf.is_being_destroyed() => Err(Fault::new(
            FaultKind::ContainerMissing,
            format!(
                "the destruction of container {} of app {} has begun: delete the app, which finishes it",
                target.vmid, target.owner.app
            ),
        )),
        Standing::Ours(container) => Ok(*container),
        Standing::Missing(_) => Err(Fault::new(
            FaultKind::ContainerMissing,
            format!(
                "container {} of app {} does not exist any more",
                target.vmid, target.owner.app
            ),
        )),
    }
}

impl Container {
    /// Refuses while Proxmox's own lock is on it.
    pub(super) fn check_unlocked(&self) -> Result<(), Fault> {
        check_lock(self.vmid, &self.conf)
    }

    /// Refuses what is for containers that we made only.
    pub(super) fn check_made(&self, so: &str) -> Result<(), Fault> {
        if !self.record.adopted {
            return Ok(());
        }
        Err(Fault::new(
            FaultKind::PolicyDenied,
            format!("container {} was adopted: {so}", self.vmid),
        ))
    }
}

/// Refuses while Proxmox's own lock is on a container.
pub(super) fn check_lock(vmid: Vmid, conf: &Conf) -> Result<(), Fault> {
    match conf.get("lock") {
        None => Ok(()),
        Some(lock) => Err(Fault::new(
            FaultKind::Locked,
            format!("container {vmid} is locked by {}", words::holder(lock)),
        )),
    }
}

/// Whether it runs; unknown is a fault.
pub(super) fn is_running(node: &NodeContext, vmid: Vmid) -> Result<bool, Fault> {
    running::is_running(node, vmid).map_err(|error| {
        Fault::new(
            FaultKind::Internal,
            format!("it cannot be told whether container {vmid} runs: {error}"),
        )
    })
}

/// Why a step failed on a container that was taken away meanwhile: what its tools said then (stopped, no such configuration, killed) is not the cause.
pub(super) fn explain(node: &NodeContext, verb: &Verb, fault: Fault) -> Fault {
    let explained = matches!(
        fault.kind,
        FaultKind::NotOurs
            | FaultKind::VmidTaken
            | FaultKind::PolicyDenied
            | FaultKind::Malformed
            | FaultKind::MovedToOtherNode
    );
    let Some(vmid) = verb
        .vmid()
        .filter(|_| !verb.reads_only() && !explained && !fault.kind.waits())
    else {
        return fault;
    };
    // What cannot be read explains nothing.
    let guest = cluster::guests(node)
        .ok()
        .and_then(|list| list.guests.get(&vmid).cloned());
    let ours = ownership::read(node, vmid).is_ok_and(|record| record.is_some());
    match guest {
        Some(guest) if ours && guest.node != node.name().as_str() => Fault {
            kind: FaultKind::MovedToOtherNode,
            message: format!(
                "container {vmid} moved to node {} meanwhile ({})",
                guest.node, fault.message
            ),
            ..fault
        },
        Some(_) if ours && cluster::conf(node, vmid).is_ok_and(|conf| is_migrating(conf.as_ref())) => Fault {
            kind: FaultKind::Locked,
            message: format!(
                "container {vmid} is locked by {} ({})",
                words::holder("migrate"),
                fault.message
            ),
            ..fault
        },
        _ => fault,
    }
}

fn is_migrating(conf: Option<&Conf>) -> bool {
    conf.is_some_and(|conf| conf.get("lock") == Some("migrate"))
}

/// The container, which must run.
pub(super) fn require_running(node: &NodeContext, target: &Target) -> Result<Container, Fault> {
    let container = require(node, target)?;
    if is_running(node, target.vmid)? {
        return Ok(container);
    }
    Err(Fault::new(
        FaultKind::ContainerStopped,
        format!("container {} is not running", target.vmid),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;
    use proximity_protocol::ids::{Generation, OperationId, Owner};

    fn target() -> Target {
        let owner = Owner {
            app: "nginx-a1b2c3d4".parse().unwrap(),
            generation: Generation(1),
        };
        Target {
            vmid: Vmid::new(100).unwrap(),
            owner,
        }
    }

    fn list(root: &std::path::Path, node: &str, kind: &str) {
        testing::put(
            root,
            "etc/pve/.vmlist",
            &format!(r#"{{"version":2,"ids":{{"100":{{"node":"{node}","type":"{kind}","version":1}}}}}}"#),
        );
    }

    #[test]
    fn only_the_record_makes_it_ours() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert!(matches!(look(&node, &target()).unwrap(), Standing::Missing(None)));
        assert_eq!(require(&node, &target()).unwrap_err().kind, FaultKind::ContainerMissing);

        list(dir.path(), "pve1", "lxc");
        testing::put(
            dir.path(),
            "etc/pve/nodes/pve1/lxc/100.conf",
            "tags: proximity\nhostname: nginx\nrootfs: local:100/x\n",
        );
        assert_eq!(
            look(&node, &target()).unwrap_err().kind,
            FaultKind::NotOurs,
            "a tag proves nothing"
        );

        let other = Owner {
            generation: Generation(2),
            ..target().owner
        };
        let operation = OperationId(uuid::Uuid::from_u128(1));
        ownership::write(&node, target().vmid, &OwnershipRecord::begin(other, operation, 0)).unwrap();
        assert_eq!(look(&node, &target()).unwrap_err().kind, FaultKind::NotOurs);

        ownership::write(
            &node,
            target().vmid,
            &OwnershipRecord::begin(target().owner, operation, 0),
        )
        .unwrap();
        assert!(matches!(look(&node, &target()).unwrap(), Standing::Ours(_)));
        list(dir.path(), "pve2", "lxc");
        assert_eq!(look(&node, &target()).unwrap_err().kind, FaultKind::MovedToOtherNode);
        list(dir.path(), "pve1", "qemu");
        assert_eq!(look(&node, &target()).unwrap_err().kind, FaultKind::NotOurs);
        testing::put(dir.path(), "etc/pve/.vmlist", "");
        assert_eq!(
            look(&node, &target()).unwrap_err().kind,
            FaultKind::Internal,
            "unknown is not missing"
        );
    }
}
