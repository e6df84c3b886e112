//! What goes wrong by itself, between two moves.

use super::run::Run;
use crate::campaign::profile::Trouble;
use anyhow::{Context, Result};
use std::{collections::BTreeSet, fs, io, path::Path, sync::atomic::Ordering};

/// The line that nightly backups leave in a configuration for as long as they take.
const LOCK: &str = "lock: backup\n";

impl Run {
    pub(super) fn some_node(&self) -> usize {
        self.dice.throw(|dice| dice.below(self.nodes.len()))
    }

    /// Perhaps something goes wrong.
    pub(super) fn stir_up(&mut self) -> Result<()> {
        if self.calm {
            return Ok(());
        }
        if self.happens(Trouble::LinkCut) {
            self.cut_link()?;
        }
        if self.happens(Trouble::AgentKilled) {
            let node = self.some_node();
            if self.nodes[node].lives() {
                self.trouble(format!("the agent of {} is killed", self.nodes[node].name));
                self.kill_agent(node)?;
            }
        }
        if self.happens(Trouble::CoordinatorKilled) && self.coordinator.is_some() {
            self.trouble("the coordinator is killed");
            self.kill_coordinator();
        }
        if self.happens(Trouble::PowerLost) {
            let node = self.some_node();
            if self.nodes[node].powered {
                self.trouble(format!("{} loses its power", self.nodes[node].name));
                self.nodes[node].lose_power()?;
                self.hub.close(node);
            }
        }
        if self.happens(Trouble::DiskFull) {
            let node = self.some_node();
            if !self.nodes[node]
                .ground
                .conditions
                .disk_full
                .swap(true, Ordering::SeqCst)
            {
                self.trouble(format!("the disk of {} is full", self.nodes[node].name));
            }
        }
        if self.happens(Trouble::NoQuorum) && !self.partitioned {
            self.trouble("the nodes of the cluster do not see each other: it has no quorum");
            self.partitioned = true;
            self.cluster.partition(&[])?;
        }
        if self.happens(Trouble::ForeignLock) {
            self.lock()?;
        }
        if self.happens(Trouble::TableFlushed) {
            let node = self.some_node();
            if self.nodes[node].powered {
                self.trouble(format!("the packet filter of {} is flushed", self.nodes[node].name));
                self.nodes[node].by_hand("nft", &["flush", "ruleset"])?;
            }
        }
        if self.happens(Trouble::ByHand) {
            self.by_hand()?;
        }
        if self.happens(Trouble::Migrated) {
            self.migrate()?;
        }
        if self.happens(Trouble::Stranger) {
            self.stranger()?;
        }
        self.settle()
    }

    fn cut_link(&mut self) -> Result<()> {
        let node = self.some_node();
        if self.nodes[node].linked {
            self.trouble(format!("the link of {} is cut", self.nodes[node].name));
            self.nodes[node].linked = false;
            self.hub.close(node);
        }
        Ok(())
    }

    /// Whether anything can be changed on the node: it has power, and its cluster has quorum.
    pub(super) fn is_in_order(&self, node: usize) -> bool {
        // With two nodes there is quorum while both see each other.
        self.nodes[node].powered
            && (node == 0 || (!self.partitioned && self.nodes[1..].iter().all(|node| node.powered)))
    }

    /// Some container of ours on some node on which something can be changed.
    fn some_container(&self) -> Result<Option<(usize, u32)>> {
        let node = self.some_node();
        if !self.is_in_order(node) {
            return Ok(None);
        }
        let theirs = |vmid: &u32| {
            self.strangers
                .containers
                .iter()
                .any(|(at, number, _)| (*at, number) == (node, vmid))
        };
        let mut all: Vec<u32> = self.nodes[node].files().read()?.containers.into_iter().collect();
        all.retain(|vmid| !theirs(vmid));
        if all.is_empty() {
            return Ok(None);
        }
        Ok(Some((node, all[self.dice.throw(|dice| dice.below(all.len()))])))
    }

    /// Somebody else's backup begins, if nobody works on the container.
    fn lock(&mut self) -> Result<()> {
        let Some((node, vmid)) = self.some_container()? else {
            return Ok(());
        };
        let layout = pve_sim::Layout::open(&self.nodes[node].ground.root)?;
        let held = held(&layout.config_lock(vmid))?;
        let Some(_held) = held else { return Ok(()) };
        let path = layout.conf_path(vmid);
        let text = fs::read_to_string(&path)?;
        if text.lines().any(|line| line.starts_with("lock:")) {
            return Ok(());
        }
        replace(&path, &format!("{LOCK}{text}"))?;
        self.strangers.locks.push((node, vmid));
        self.trouble(format!("somebody locks container {vmid} of {}", self.nodes[node].name));
        Ok(())
    }

    /// It ends.
    pub(super) fn unlock(&mut self, at: usize) -> Result<()> {
        let (node, vmid) = self.strangers.locks.remove(at);
        self.note(format!(
            "somebody's lock on container {vmid} of {} goes",
            self.nodes[node].name
        ));
        let layout = pve_sim::Layout::open(&self.nodes[node].ground.root)?;
        remove_lock(&layout.conf_path(vmid))
    }

    /// An operator starts or stops a container behind the coordinator's back.
    fn by_hand(&mut self) -> Result<()> {
        let Some((node, vmid)) = self.some_container()? else {
            return Ok(());
        };
        let act = if self.dice.chance(500) { "stop" } else { "start" };
        if self.nodes[node].by_hand("pct", &[act, &vmid.to_string()])? {
            self.trouble(format!("somebody runs pct {act} {vmid} on {}", self.nodes[node].name));
            self.nodes[node].owes_report = true;
        }
        Ok(())
    }

    /// An operator moves a container to the other node of the cluster.
    fn migrate(&mut self) -> Result<()> {
        let Some((node, vmid)) = self.some_container()? else {
            return Ok(());
        };
        let Some(other) = (1..self.nodes.len()).find(|other| *other != node) else {
            return Ok(());
        };
        if node == 0 || !self.is_in_order(other) {
            return Ok(());
        }
        let target = self.nodes[other].name.clone();
        let words = ["migrate", &vmid.to_string(), &target, "--restart", "1"];
        if self.nodes[node].by_hand("pct", &words)? {
            self.trouble(format!(
                "somebody moves container {vmid} of {} to {target}",
                self.nodes[node].name
            ));
            self.nodes[node].owes_report = true;
            self.nodes[other].owes_report = true;
        }
        Ok(())
    }

    /// Somebody makes a container of their own, under a number that is free there.
    fn stranger(&mut self) -> Result<()> {
        let node = self.some_node();
        if !self.is_in_order(node) {
            return Ok(());
        }
        let vmid = self.free_number(node)?;
        let machine = pve_sim::Node::open(&self.nodes[node].ground.root)?;
        machine.add_stranger(&self.nodes[node].name, "lxc", vmid)?;
        let conf = fs::read_to_string(machine.layout().conf_path(vmid))?;
        self.strangers.containers.push((node, vmid, conf));
        self.trouble(format!("somebody makes container {vmid} on {}", self.nodes[node].name));
        Ok(())
    }

    /// The first number that nobody uses in the node's installation.
    pub(super) fn free_number(&self, node: usize) -> Result<u32> {
        let mut taken = BTreeSet::new();
        for (at, other) in self.nodes.iter().enumerate() {
            if at == node || (at > 0 && node > 0) {
                let found = other.files().read()?;
                taken.extend(found.containers);
                taken.extend(found.records.into_keys());
            }
        }
        (100..)
            .find(|vmid| !taken.contains(vmid))
            .context("every number is taken")
    }

    /// The nodes of the cluster see each other again.
    pub(super) fn whole(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.partitioned, false) {
            self.cluster.heal()?;
        }
        Ok(())
    }

    /// Everything is in order again, all at once.
    pub(super) fn mend(&mut self) -> Result<()> {
        self.whole()?;
        for node in 0..self.nodes.len() {
            if !self.nodes[node].powered {
                self.nodes[node].boot()?;
            }
        }
        while !self.strangers.locks.is_empty() {
            self.unlock(0)?;
        }
        for node in &mut self.nodes {
            node.linked = true;
            node.ground.conditions.disk_full.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The lock of a container's configuration, if nobody has it.
fn held(path: &Path) -> Result<Option<fs::File>> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("beside");
    fs::write(&beside, text)?;
    Ok(fs::rename(&beside, path)?)
}

fn remove_lock(path: &Path) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(text) if text.starts_with(LOCK) => replace(path, &text[LOCK.len()..]),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
