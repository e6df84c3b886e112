//! What is on the node: containers, guests elsewhere, published ports. Whatever could not be read is named, so that its absence proves nothing.

use super::{NodeContext, addresses, cluster, running};
use crate::{
    ownership::{self, OwnershipRecord},
    publish,
    pve::cluster::GuestKind,
};
use proximity_protocol::{
    fault::Fault,
    ids::Vmid,
    observed::{ContainerObserved, Inventory, RecordObserved, RunState},
};
use std::collections::BTreeSet;

impl NodeContext {
    /// What is on the node. What could not be read is named in it.
    pub async fn inventory(&self) -> Inventory {
        let node = self.clone();
        match tokio::task::spawn_blocking(move || collect(&node)).await {
            Ok(inventory) => inventory,
            Err(error) => Inventory {
                quorate: false,
                unreadable: vec![format!("everything: {error}")],
                containers: vec![],
                elsewhere: vec![],
                published: vec![],
            },
        }
    }
}

impl NodeContext {
    /// Every ownership record that this node sees. One that cannot be read is a fault: a list that lacks it would say that it does not exist.
    pub(crate) fn records(&self) -> Result<Vec<RecordObserved>, Fault> {
        let observed = |(vmid, record): (Vmid, OwnershipRecord)| RecordObserved {
            vmid,
            owner: record.owner,
            operation: record.operation,
            began_unix_s: record.began_unix_s,
        };
        Ok(ownership::all(self)?.into_iter().map(observed).collect())
    }
}

fn collect(node: &NodeContext) -> Inventory {
    let mut unreadable = Vec::new();
    let quorate =
        cluster::members(node).map_or_else(|fault| note(&mut unreadable, fault, false), |members| members.quorate);
    let guests = cluster::guests(node).map_or_else(
        |fault| note(&mut unreadable, fault, Default::default()),
        |list| list.guests,
    );
    let running = running::running(node)
        .map(Some)
        .unwrap_or_else(|error| note(&mut unreadable, format!("which containers run: {error}"), None));
    let (mut containers, mut elsewhere) = (Vec::new(), Vec::new());
    for (vmid, guest) in guests {
        if guest.node == node.name().as_str() && guest.kind == GuestKind::Container {
            containers.extend(container(node, vmid, running.as_ref(), &mut unreadable));
        } else {
            elsewhere.push((vmid, guest.node));
        }
    }
    let published = publish::observed(node).unwrap_or_else(|fault| note(&mut unreadable, fault, Vec::new()));
    Inventory {
        quorate,
        unreadable,
        containers,
        elsewhere,
        published,
    }
}

fn note<T>(unreadable: &mut Vec<String>, what: impl ToString, instead: T) -> T {
    unreadable.push(what.to_string());
    instead
}

fn container(
    node: &NodeContext,
    vmid: Vmid,
    running: Option<&BTreeSet<Vmid>>,
    unreadable: &mut Vec<String>,
) -> Option<ContainerObserved> {
    let conf = match cluster::conf(node, vmid) {
        Ok(Some(conf)) => conf,
        // Destroyed, or moved away, since the list was read: the next inventory says which.
        Ok(None) => return note(unreadable, format!("container {vmid} changes just now"), None),
        Err(fault) => return note(unreadable, fault, None),
    };
    let record = ownership::read(node, vmid).unwrap_or_else(|fault| note(unreadable, fault, None));
    let state = match running {
        None => RunState::Unknown,
        Some(running) if running.contains(&vmid) => RunState::Running,
        Some(_) => RunState::Stopped,
    };
    let addresses = match state {
        RunState::Running => match addresses::network(node, vmid) {
            Ok(network) => network.map(|network| network.addresses).unwrap_or_default(),
            Err(error) => note(
                unreadable,
                format!("addresses of container {vmid}: {error}"),
                Vec::new(),
            ),
        },
        _ => Vec::new(),
    };
    Some(ContainerObserved {
        vmid,
        hostname: conf.get("hostname").map(str::to_owned),
        state,
        lock: conf.get("lock").map(str::to_owned),
        // While it is being made there is nothing to compare yet, and after its volumes went nothing any more.
        owner: record
            .filter(|record| conf.is_half_made() || conf.is_half_destroyed() || record.is_of(&conf))
            .map(|record| record.owner),
        addresses,
        memory_mb: Some(conf.memory_mb()),
        cpu_cores: conf.cores(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[tokio::test]
    async fn what_cannot_be_read_is_named_and_is_no_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        testing::put(
            dir.path(),
            "proc/net/unix",
            "Num\n0: 0 0 0 0 0 1 @/var/lib/lxc/100/command\n",
        );
        testing::put(
            dir.path(),
            "etc/pve/.vmlist",
            r#"{"version":2,"ids":{"100":{"node":"pve1","type":"lxc","version":1},"101":{"node":"pve2","type":"lxc","version":1},"102":{"node":"pve1","type":"qemu","version":1}}}"#,
        );
        testing::put(
            dir.path(),
            "etc/pve/nodes/pve1/lxc/100.conf",
            "hostname: web\nmemory: 256\ncores: 2\nlock: backup\n",
        );
        let inventory = node.inventory().await;
        assert!(inventory.is_evidence_of_absence(), "{:?}", inventory.unreadable);
        let container = &inventory.containers[0];
        assert_eq!(
            (
                container.state,
                container.hostname.as_deref(),
                container.lock.as_deref()
            ),
            (RunState::Running, Some("web"), Some("backup"))
        );
        assert_eq!(
            (container.owner.clone(), container.memory_mb, container.cpu_cores),
            (None, Some(256), Some(2))
        );
        assert_eq!(
            inventory
                .elsewhere
                .iter()
                .map(|(vmid, _)| vmid.get())
                .collect::<Vec<_>>(),
            [101, 102]
        );

        testing::put(dir.path(), "etc/pve/.vmlist", "{ half");
        let inventory = node.inventory().await;
        assert!(!inventory.is_evidence_of_absence());
        assert_eq!(inventory.unreadable.len(), 1);
    }
}
