//! Whether something about the guests has changed: who is where, who runs, whether the cluster has quorum, which numbers are for new ones. Some small files, so that it can be looked at every
//! few seconds; what has changed is for an inventory to tell.

use super::{NodeContext, running};
use proximity_protocol::ids::Vmid;
use std::collections::BTreeSet;

/// What is compared. What could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    guests: Option<Vec<u8>>,
    members: Option<Vec<u8>>,
    datacenter: Option<Vec<u8>>,
    running: Option<BTreeSet<Vmid>>,
}

impl NodeContext {
    /// How it is now.
    pub async fn pulse(&self) -> Pulse {
        let node = self.clone();
        let read = move || Pulse {
            guests: std::fs::read(node.etc_pve(".vmlist")).ok(),
            members: std::fs::read(node.etc_pve(".members")).ok(),
            datacenter: std::fs::read(node.etc_pve("datacenter.cfg")).ok(),
            running: running::running(&node).ok(),
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::facts::testing;

    #[tokio::test]
    async fn a_move_a_start_and_a_loss_of_quorum_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let mut seen = vec![node.pulse().await];
        assert_eq!(node.pulse().await, seen[0]);
        for (path, text) in [
            (
                "etc/pve/.vmlist",
                r#"{"version":2,"ids":{"100":{"node":"pve2","type":"lxc","version":1}}}"#,
            ),
            ("proc/net/unix", "0: 0 0 0 0 0 1 @/var/lib/lxc/100/command\n"),
            (
                "etc/pve/.members",
                r#"{"nodename":"pve1","cluster":{"name":"c","quorate":0}}"#,
            ),
        ] {
            testing::put(dir.path(), path, text);
            let now = node.pulse().await;
            assert!(!seen.contains(&now), "{path}");
            seen.push(now);
        }
    }
}
