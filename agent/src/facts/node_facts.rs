//! What the node is, put together.

use super::{NodeContext, bridges, cluster, fingerprint, node_figures, storages};
use crate::policy::Policy;
use proximity_protocol::{
    fault::{Fault, FaultKind},
    observed::NodeFacts,
};

impl NodeContext {
    /// What the node is. The fault says which file could not be read.
    pub async fn facts(&self) -> Result<NodeFacts, Fault> {
        let members = cluster::members(self)?;
        let unread = |what: &str| {
            Fault::new(
                FaultKind::Internal,
                format!("the node's {what} cannot be read from {}", self.host().proc.display()),
            )
        };
        let bridges = bridges::facts(self).map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format!("{} cannot be read: {error}", self.host().sys_class_net.display()),
            )
        })?;
        Ok(NodeFacts {
            node_name: self.name().clone(),
            address: self.address(),
            cluster: members.cluster,
            quorate: members.quorate,
            host_fingerprint: fingerprint::host_fingerprint(self)?,
            pve_version: self.pve_version().await,
            kernel: node_figures::kernel(self).ok_or_else(|| unread("kernel version"))?,
            cpu_count: node_figures::cpu_count(self).ok_or_else(|| unread("number of processors"))?,
            memory_total_bytes: node_figures::Memory::read(self).ok_or_else(|| unread("memory"))?.total,
            storages: storages::facts(self).await?,
            bridges,
            next_id: cluster::next_id(self)?,
            policy: Policy::fact(&Policy::load(&self.config().paths.policy)),
        })
    }
}
