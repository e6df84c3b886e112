//! Published ports: the nftables table `inet proximity`, the one desired state that an agent holds by itself.
//!
//! What is wanted lies in `<state>/published.json` (synced, renamed) and is written before the table is. The table is always replaced as a whole, in one
//! transaction of `nft`. It is set again at start, before the link, and whenever a look at it shows something else than what was set: other tools flush
//! the whole ruleset. An entry whose container has gone to another node of the cluster is taken out (`departed`).
//!
//! What a packet filter drops (the Proxmox firewall) is not ours to open; publishing verifies that the port answers and says so if it does not.

mod apply;
mod departed;
mod desired;
mod listening;
mod ruleset;

pub(crate) use desired::{PublishedPort, WayBack};

use crate::host::NodeContext;
use proximity_protocol::{
    fault::{Fault, FaultKind},
    ids::{Owner, Vmid},
    observed::PublishedObserved,
};
use std::{net::SocketAddrV4, time::Duration};
use tokio::sync::mpsc;

/// How often the table is looked at.
const WATCH: Duration = Duration::from_secs(10);
/// How often it is looked whether a container has left: two small files.
const GLANCE: Duration = Duration::from_secs(2);
/// How long a new port may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(250);
/// How long one try to connect may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Sets the table from the stored ports, at start and before the link. Answers how many ports are published.
pub async fn restore(node: &NodeContext) -> Result<u32, Fault> {
    let mut last = node.lock_publishing().await;
    let wanted = load_present(node)?.0;
    // Nothing is wanted, but a table may still stand: the last port was taken back, and the agent or `nft` broke off before the table was.
    if wanted.is_empty() && !apply::is_there(node).await? {
        return Ok(0);
    }
    apply::apply(node, &wanted, &mut last).await?;
    Ok(u32::try_from(wanted.len()).unwrap_or(u32::MAX))
}

/// What is wanted, without the entries whose containers have left: those are forgotten, on the disk too. Answers also whether there were some.
fn load_present(node: &NodeContext) -> Result<(Vec<PublishedPort>, bool), Fault> {
    let mut wanted = desired::load(node)?;
    let gone = departed::take_out(node, &mut wanted);
    for port in &gone {
        tracing::warn!(vmid = %port.vmid, app_id = %port.owner.app, public_port = port.public_port, "the container is on another node now; its port leads there no more from here");
    }
    if !gone.is_empty() {
        desired::store(node, &wanted)?;
    }
    Ok((wanted, !gone.is_empty()))
}

/// Looks every 2 s whether containers have left, and every 10 s whether the table still stands, and sets it again if not; sends how many entries were set
/// again. Ends when `tx` is closed.
pub async fn watch(node: NodeContext, tx: mpsc::Sender<u32>) {
    let mut looked: Option<Duration> = None;
    loop {
        tokio::select! {
            () = tx.closed() => return,
            () = node.tools().sleep(if looked.is_none() { Duration::ZERO } else { GLANCE }) => {}
        }
        let now = node.tools().uptime();
        if looked.is_some_and(|at| now.saturating_sub(at) < WATCH) {
            if let Err(fault) = drop_departed(&node).await {
                tracing::warn!(%fault, "ports of containers that have left could not be taken back; tried again in 2 s");
            }
            continue;
        }
        looked = Some(now);
        match repair(&node).await {
            Ok(0) => {}
            Ok(count) => {
                tracing::warn!(
                    count,
                    "published ports had been removed by another tool and were set again"
                );
                if tx.send(count).await.is_err() {
                    return;
                }
            }
            Err(fault) => tracing::warn!(%fault, "published ports could not be checked; tried again in 10 s"),
        }
    }
}

/// Takes the ports of containers that have left back.
pub(crate) async fn drop_departed(node: &NodeContext) -> Result<(), Fault> {
    let mut last = node.lock_publishing().await;
    match load_present(node)? {
        (_, false) => Ok(()),
        (wanted, true) => apply::apply(node, &wanted, &mut last).await,
    }
}

/// Looks whether the table still stands and sets it again if not; how many entries were set again.
pub(crate) async fn repair(node: &NodeContext) -> Result<u32, Fault> {
    let mut last = node.lock_publishing().await;
    let (wanted, changed) = load_present(node)?;
    if changed {
        apply::apply(node, &wanted, &mut last).await?;
        return Ok(0);
    }
    // Nothing is wanted, and nothing was ever set.
    if (wanted.is_empty() && last.is_none()) || apply::stands(node, &last).await? {
        return Ok(0);
    }
    apply::apply(node, &wanted, &mut last).await?;
    Ok(u32::try_from(wanted.len()).unwrap_or(u32::MAX))
}

/// Ports that lead to our containers, as they are wanted and watched.
pub(crate) fn observed(node: &NodeContext) -> Result<Vec<PublishedObserved>, Fault> {
    let observed = |port: PublishedPort| PublishedObserved {
        public_port: port.public_port,
        owner: port.owner,
        vmid: port.vmid,
        address: port.address,
        port: port.port,
    };
    Ok(desired::load(node)?.into_iter().map(observed).collect())
}

/// Whether the port can be published for this owner: nobody else publishes it or listens there.
pub(crate) async fn check_free(node: &NodeContext, public_port: u16, owner: &Owner) -> Result<(), Fault> {
    let _alone = node.lock_publishing().await;
    check_free_locked(node, &desired::load(node)?, public_port, owner).await
}

async fn check_free_locked(
    node: &NodeContext,
    wanted: &[PublishedPort],
    public_port: u16,
    owner: &Owner,
) -> Result<(), Fault> {
    let taken = |by: String| {
        Err(Fault::new(
            FaultKind::PortTaken,
            format!("port {public_port} of the node is taken by {by}"),
        ))
    };
    match wanted.iter().find(|port| port.public_port == public_port) {
        // It is ours: who listens there now may well be the container's own port.
        Some(port) if port.owner == *owner => return Ok(()),
        Some(port) => return taken(format!("app {}", port.owner.app)),
        None => {}
    }
    if listening::is_taken(node, public_port)? {
        return taken("a program that listens there".into());
    }
    if let Some(table) = apply::other_table_with(node, public_port).await? {
        return taken(format!("the nftables table {table:?}"));
    }
    Ok(())
}

/// The port leads to the container. Repeating it changes nothing.
pub(crate) async fn publish(node: &NodeContext, port: PublishedPort) -> Result<(), Fault> {
    {
        let mut last = node.lock_publishing().await;
        let mut wanted = desired::load(node)?;
        check_free_locked(node, &wanted, port.public_port, &port.owner).await?;
        if !wanted.contains(&port) {
            wanted.retain(|other| other.public_port != port.public_port);
            wanted.push(port.clone());
            desired::store(node, &wanted)?;
        }
        apply::forward_packets(node)?;
        apply::apply(node, &wanted, &mut last).await?;
    }
    answers(node, &port).await
}

async fn answers(node: &NodeContext, port: &PublishedPort) -> Result<(), Fault> {
    let tools = node.tools();
    let limit = tools.uptime() + ANSWER;
    loop {
        let address = SocketAddrV4::new(node.address(), port.public_port);
        let Err(why) = tools.connect(address, CONNECT).await else {
            return Ok(());
        };
        if tools.uptime() >= limit {
            return Err(Fault::new(
                FaultKind::Unhealthy,
                format!(
                    "{}:{} does not answer ({why}) although it leads to {}:{}: is the app listening there, and does the Proxmox firewall let it through?",
                    node.address(),
                    port.public_port,
                    port.address,
                    port.port
                ),
            ));
        }
        tools.sleep(RETRY).await;
    }
}

/// The owner's ports of this container, or just one of them, lead nowhere any more.
pub(crate) async fn unpublish(
    node: &NodeContext,
    vmid: Vmid,
    owner: &Owner,
    public_port: Option<u16>,
) -> Result<(), Fault> {
    let mut last = node.lock_publishing().await;
    let mut wanted = desired::load(node)?;
    let before = wanted.len();
    wanted.retain(|port| {
        port.vmid != vmid || port.owner != *owner || public_port.is_some_and(|number| number != port.public_port)
    });
    if wanted.len() < before {
        desired::store(node, &wanted)?;
    } else if wanted.is_empty() && !apply::is_there(node).await? {
        // Nothing is published and nothing was: the table need not exist.
        return Ok(());
    }
    apply::apply(node, &wanted, &mut last).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;
    use proximity_protocol::ids::Generation;
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    /// Keeps the table in a file, and refuses to change it while `busy` is there.
    const NFT: &str = r#"#!/bin/sh
root=$(dirname "$0")/../..
case "$*" in
*"-f -"*)
    if [ -e "$root/busy" ]; then echo "Error: Device or resource busy" >&2; exit 1; fi
    cat > "$root/table" ;;
*)
    if [ ! -e "$root/table" ]; then echo "Error: No such file or directory" >&2; exit 1; fi
    cat "$root/table" ;;
esac
"#;

    fn node(root: &Path) -> NodeContext {
        testing::put(root, "usr/bin/nft", NFT);
        fs::set_permissions(root.join("usr/bin/nft"), fs::Permissions::from_mode(0o755)).unwrap();
        let node = testing::node(root);
        let port = PublishedPort {
            public_port: 8000,
            vmid: Vmid::new(100).unwrap(),
            owner: Owner {
                app: "nginx-a1b2c3d4".parse().unwrap(),
                generation: Generation(1),
            },
            address: [10, 0, 0, 5].into(),
            port: 80,
            way_back: WayBack::Elsewhere,
        };
        desired::store(&node, &[port]).unwrap();
        node
    }

    #[tokio::test]
    async fn a_table_that_could_not_be_changed_is_changed_at_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path());
        let leads = || {
            fs::read_to_string(dir.path().join("table"))
                .unwrap()
                .contains("10.0.0.5")
        };
        assert_eq!(restore(&node).await.unwrap(), 1);
        assert!(leads());
        // The container moves to another node just when somebody else changes the packet filter.
        let members = r#"{"nodename":"pve1","cluster":{"name":"c","quorate":1}}"#;
        testing::put(dir.path(), "etc/pve/.members", members);
        let list = r#"{"version":2,"ids":{"100":{"node":"pve2","type":"lxc","version":1}}}"#;
        testing::put(dir.path(), "etc/pve/.vmlist", list);
        testing::put(dir.path(), "busy", "");
        drop_departed(&node).await.unwrap_err();
        assert!(leads(), "it could not be changed");
        fs::remove_file(dir.path().join("busy")).unwrap();
        repair(&node).await.unwrap();
        assert!(!leads(), "the port leads to a container that is not here any more");
    }
}
