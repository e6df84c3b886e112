//! Clusters of a hollow fleet: which nodes share one `/etc/pve`, and what happens to them.

use super::Fleet;
use anyhow::{Context, Result};
use pve_sim::{Cluster, layout::BodyKind};
use std::path::Path;

/// The shared storage of every cluster, an NFS share that takes everything.
pub const SHARED_STORAGE: &str = "nas";
/// How often HA looks, milliseconds. The real one: every 10 s.
const HA_ROUND_MS: u64 = 100;
/// How long until HA takes a node for dead, milliseconds. The real one: 3 min.
const HA_FENCE_MS: u64 = 1_000;

/// One cluster.
#[derive(Debug)]
pub struct SimCluster {
    /// Its name.
    pub name: String,
    /// Its nodes, as indices into [`Fleet::nodes`].
    pub nodes: Vec<usize>,
    /// What can be done to it.
    pub sim: Cluster,
}

impl SimCluster {
    /// Lays an empty one out below `folder`.
    pub(super) fn create(folder: &Path, number: usize, body: BodyKind) -> Result<Self> {
        anyhow::ensure!(
            body == BodyKind::Hollow,
            "real containers are on standalone nodes only: the simulated cluster has hollow ones"
        );
        let name = format!("cluster{}", number + 1);
        let sim = Cluster::create(&folder.join(&name), &name, &[SHARED_STORAGE])?;
        sim.ha_pace(HA_ROUND_MS, HA_FENCE_MS)?;
        Ok(Self {
            name,
            nodes: Vec::new(),
            sim,
        })
    }
}

impl Drop for SimCluster {
    fn drop(&mut self) {
        // Without quorum its folders may not be removed but by root; if it fails, a temporary folder stays.
        if let Err(error) = self.sim.whole_again() {
            eprintln!("{}: {error}", self.name);
        }
    }
}

impl Fleet {
    /// The network of a cluster breaks; each part is a list of indices into [`Fleet::nodes`], and who is in none is alone. Links to the coordinator stay.
    pub fn partition(&self, cluster: usize, parts: &[&[usize]]) -> Result<()> {
        let names: Vec<Vec<&str>> = parts
            .iter()
            .map(|part| part.iter().map(|node| self.nodes[*node].name.as_str()).collect())
            .collect();
        let parts: Vec<&[&str]> = names.iter().map(Vec::as_slice).collect();
        Ok(self.clusters[cluster].sim.partition(&parts)?)
    }

    /// It is whole again.
    pub fn heal(&self, cluster: usize) -> Result<()> {
        Ok(self.clusters[cluster].sim.heal()?)
    }

    /// A machine of a cluster loses its power: agent, containers and all are gone at once.
    pub async fn power_off(&mut self, node: usize) -> Result<()> {
        let sim = self.cluster_of(node)?.sim.clone();
        let node = &mut self.nodes[node];
        node.kill()?;
        Ok(sim.power_off(&node.name)?)
    }

    /// It comes up again, with its agent.
    pub async fn power_on(&mut self, node: usize) -> Result<()> {
        let sim = self.cluster_of(node)?.sim.clone();
        let node = &mut self.nodes[node];
        sim.power_on(&node.name)?;
        node.start_stubs()?;
        node.start_agent()
    }

    fn cluster_of(&self, node: usize) -> Result<&SimCluster> {
        let found = self.clusters.iter().find(|cluster| cluster.nodes.contains(&node));
        found.with_context(|| format!("{} is in no cluster", self.nodes[node].name))
    }
}
