//! One look of both managers on a node, and the thread of `pve-sim serve` that looks again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::manager::{Deed, Known, manage};
use super::{COMMANDS, RESOURCES, STATUS, local, resources::Resources};
use crate::clock::{Clock, SystemClock, now_s};
use crate::cluster::{Cluster, ClusterInfo};
use crate::conf::CtConfig;
use crate::layout::{Layout, write_atomically};
use crate::locks::try_lock;
use crate::node::Node;
use crate::pmxcfs;
use crate::storage::random_uuid;

/// What may be removed from the configuration of a dead node's container, so that it can be started.
const LEFTOVER_LOCKS: [&str; 2] = ["backup", "mounted"];

/// Since when, in milliseconds, which nodes are away, and since when this one has no quorum. Kept from round to round by one node's managers.
#[derive(Debug, Default)]
pub struct Patience {
    away_since: BTreeMap<String, u64>,
    quorum_lost: Option<u64>,
}

/// What the managers of this node do in one round. Only one node's manager of the cluster acts; who that is does not matter.
///
/// # Errors
/// When a file of the cluster cannot be read or written.
pub fn round(node: &Node, patience: &mut Patience) -> io::Result<()> {
    let layout = node.layout();
    let Some(cluster) = Cluster::of(layout) else {
        return Ok(());
    };
    let (info, now_ms) = (cluster.info()?, node.clock.now_ms());
    let name = layout.info().name.clone();
    if !info.is_quorate(&name) {
        patience.away_since.clear();
        let since = *patience.quorum_lost.get_or_insert(now_ms);
        let fenced = info.member(&name).is_none_or(|member| member.fenced || !member.powered);
        if !fenced && local::was_active(layout) && now_ms.saturating_sub(since) >= info.ha_fence_ms / 2 {
            cluster.fence(layout)?;
        }
        return Ok(());
    }
    patience.quorum_lost = None;
    let (mut online, mut dead) = (BTreeSet::new(), BTreeSet::new());
    for member in &info.members {
        if info.sees(&name, &member.name) {
            patience.away_since.remove(&member.name);
            online.insert(member.name.clone());
            continue;
        }
        let since = *patience.away_since.entry(member.name.clone()).or_insert(now_ms);
        // What the real manager concludes from a lock that ran out is known here, so that no clock of a test can make two of one container.
        if now_ms.saturating_sub(since) >= info.ha_fence_ms && (!member.powered || member.fenced) {
            dead.insert(member.name.clone());
        }
    }
    if let Some(_master) = try_lock(&cluster.folder().join("ha-manager.lock"))? {
        master(node, &info, &online, &dead)?;
    }
    let resources = Resources::parse(&super::read(layout, RESOURCES)?);
    let status = super::status(layout).map_err(|stop| io::Error::other(stop.text()))?;
    let hand = Node::open(layout.root())?.with_clock(node.clock.clone()).by_ha();
    local::work(&hand, &status, &resources, now_s(node.clock.as_ref()))
}

/// The manager's part. It stays where it is for as long as that node is there.
fn master(node: &Node, info: &ClusterInfo, online: &BTreeSet<String>, dead: &BTreeSet<String>) -> io::Result<()> {
    let layout = node.layout();
    let failed = |stop: crate::call::Stop| io::Error::other(stop.text());
    let resources = Resources::parse(&super::read(layout, RESOURCES)?);
    let mut status = super::status(layout).map_err(failed)?;
    let name = &layout.info().name;
    if status.master_node != *name && online.contains(&status.master_node) {
        return Ok(());
    }
    if resources.0.is_empty() && status.service_status.is_empty() {
        return Ok(());
    }
    let mut results = BTreeMap::new();
    for member in &info.members {
        let text = super::read(layout, &format!("nodes/{}/lrm_status", member.name))?;
        let local: local::LocalStatus = serde_json::from_str(&text).unwrap_or_default();
        results.extend(local.results.into_iter().map(|(uid, done)| (uid, done.exit_code == 0)));
    }
    let places = pmxcfs::guests(layout)?
        .into_iter()
        .filter(|(_, (_, kind))| *kind == "lxc")
        .map(|(vmid, (node, _))| (super::sid(vmid), node))
        .collect();
    let mut commands = String::new();
    if !super::read(layout, COMMANDS)?.is_empty() {
        pmxcfs::edit(layout, COMMANDS, |text| {
            text.clone_into(&mut commands);
            Ok(String::new())
        })
        .map_err(failed)?;
    }
    let before = status.clone();
    let known = Known {
        master: name,
        now_s: now_s(node.clock.as_ref()),
        resources: &resources,
        places: &places,
        online,
        dead,
        results: &results,
        commands: &commands,
    };
    let deeds = manage(&mut status, &known, &mut random_uuid);
    for deed in &deeds {
        match deed {
            Deed::AskStopped(sid) => pmxcfs::edit(layout, RESOURCES, |text| {
                let mut resources = Resources::parse(text);
                if let Some(resource) = resources.0.get_mut(sid) {
                    resource.set("state", "stopped");
                }
                Ok(resources.render())
            })
            .map_err(failed)?,
            Deed::Steal { sid, from, to } => steal(layout, sid, from, to)?,
        }
    }
    status.timestamp = before.timestamp;
    if status != before {
        status.timestamp = known.now_s;
        let text = serde_json::to_string(&status)?;
        pmxcfs::edit(layout, STATUS, |_| Ok(text)).map_err(failed)?;
    }
    Ok(())
}

/// The container of a dead node goes to another one.
fn steal(layout: &Layout, sid: &str, from: &str, to: &str) -> io::Result<()> {
    let Some(vmid) = sid.strip_prefix("ct:").and_then(|id| id.parse::<u32>().ok()) else {
        return Ok(());
    };
    let path = layout.pve_files().join(format!("nodes/{from}/lxc/{vmid}.conf"));
    let mut config = CtConfig::parse(&std::fs::read_to_string(&path)?);
    if config
        .current
        .get("lock")
        .is_some_and(|lock| LEFTOVER_LOCKS.contains(&lock))
    {
        config.current.remove("lock");
        write_atomically(&path, config.render().as_bytes())?;
    }
    pmxcfs::give_to(layout, vmid, from, to)
}

/// How often a waiting node looks whether the pace has changed, at most.
const GLANCE_MS: u64 = 50;

/// The rounds of one node at its cluster's pace.
#[derive(Debug)]
struct Rounds {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    patience: Patience,
    looked_ms: Option<u64>,
}

impl Rounds {
    fn new(root: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            root,
            clock,
            patience: Patience::default(),
            looked_ms: None,
        }
    }

    /// One round if the pace as it is *now* says so, not as it was at the last one; how many milliseconds to wait before the next call. The pace is read and
    /// the round made under a lock that [`Cluster::ha_pace`] waits for: once that has returned, no round at the old pace is under way or to come.
    fn go_on(&mut self) -> io::Result<u64> {
        let node = Node::open(&self.root)?.with_clock(self.clock.clone());
        let Some(cluster) = Cluster::of(node.layout()) else {
            return Ok(10_000);
        };
        let _held = cluster.hold_ha(&node.layout().info().name)?;
        let (pace, now) = (cluster.info()?.ha_round_ms, self.clock.now_ms());
        if self.looked_ms.is_none_or(|looked| now.saturating_sub(looked) >= pace) {
            self.looked_ms = Some(now);
            round(&node, &mut self.patience)?;
        }
        Ok(pace.min(GLANCE_MS))
    }
}

/// Rounds at the cluster's pace, for as long as the process lives. A standalone node has no HA.
pub(crate) fn run_in_serve(root: PathBuf) -> io::Result<()> {
    if Layout::open(&root)?.info().cluster.is_none() {
        return Ok(());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    std::thread::Builder::new().name("ha".to_owned()).spawn(move || {
        let mut rounds = Rounds::new(root, clock.clone());
        loop {
            let wait_ms = rounds.go_on().unwrap_or_else(|error| {
                // A node that is being removed under us is no reason to fail.
                eprintln!("pve-sim ha: {}: {error}", rounds.root.display());
                1000
            });
            clock.sleep(Duration::from_millis(wait_ms));
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{NodeSpec, ha::resources::Resources};
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Default)]
    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
        fn sleep(&self, duration: Duration) {
            self.0
                .fetch_add(u64::try_from(duration.as_millis()).unwrap(), Ordering::SeqCst);
        }
    }

    /// Put at rest in the middle of a pause, HA did one round more, and started what had been stopped and given to it since.
    #[test]
    fn ha_that_was_put_at_rest_does_not_look_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::create(&folder.path().join("cluster"), "lab", &[]).unwrap();
        cluster.ha_pace(100, 1000).unwrap();
        let mut spec = NodeSpec::new("pve1", Ipv4Addr::new(127, 9, 1, 1));
        spec.cluster = Some(cluster.clone());
        let (root, clock) = (folder.path().join("pve1"), Arc::new(HandClock::default()));
        Node::create_with_clock(&root, &spec, clock.clone()).unwrap();
        let mut rounds = Rounds::new(root.clone(), clock.clone());
        let mut pass = |ms: u64| {
            let until = clock.now_ms() + ms;
            while clock.now_ms() < until {
                let wait_ms = rounds.go_on().unwrap();
                clock.sleep(Duration::from_millis(wait_ms));
            }
            rounds.looked_ms
        };
        assert_eq!(pass(250), Some(200));
        cluster.ha_pace(3_600_000, 3_600_000).unwrap();
        let asked = || Resources::parse(&cluster.read("ha/resources.cfg").unwrap().unwrap_or_default());
        cluster.write("ha/resources.cfg", "ct: 100\n\tstate started\n").unwrap();
        assert_eq!(asked().0.len(), 1);
        assert_eq!(pass(60_000), Some(200));
        assert_eq!(
            cluster.read("ha/manager_status").unwrap(),
            None,
            "the manager has not looked"
        );
        cluster.ha_pace(100, 1000).unwrap();
        assert!(pass(100) > Some(200), "it goes on at once at a quicker pace");
        assert!(cluster.read("ha/manager_status").unwrap().is_some());
    }
}
