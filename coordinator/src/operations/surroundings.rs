//! What a reservation has to fit into: a host's network, a node's ranges, and what its inventories show to be in use.

use super::params::{FixedParams, NetworkParams};
use crate::{
    domain::{
        address_pool::{AddressPool, AddressPoolError},
        network::Ipv4Net,
        port_pool::PortRange,
        settings::{FeatureSettings, Group as _, NetworkSettings},
        vmid_pool::VmidRange,
    },
    nodes::inventories::Inventories,
    store::{Connection, StoreError, fleet, settings},
};
use proximity_protocol::{ids::BridgeName, observed::NodeFacts};
use std::{collections::BTreeSet, net::Ipv4Addr};

/// Why nothing can be reserved on a host.
#[derive(Debug, thiserror::Error)]
pub enum SurroundingsError {
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The host's network is not usable; the text names the field.
    #[error("the network of host {host} cannot be used: {why}")]
    Network {
        /// The host.
        host: String,
        /// Why.
        why: String,
    },
}

/// A host's network for its apps.
#[derive(Debug, Clone, PartialEq)]
pub struct AppNetwork {
    /// What goes into each container's configuration.
    pub params: NetworkParams,
    /// Where static addresses come from; `None`: DHCP.
    pub pool: Option<AddressPool>,
}

/// What is in use on a host as far as its inventories show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// VMIDs of guests.
    pub vmids: BTreeSet<u32>,
    /// Published ports.
    pub ports: BTreeSet<u16>,
    /// Addresses of containers.
    pub addresses: BTreeSet<Ipv4Addr>,
}

/// Everything that a reservation on one node has to fit into.
#[derive(Debug, Clone, PartialEq)]
pub struct Surroundings {
    /// The host.
    pub host_id: i64,
    /// VMIDs that may be made; `None` if policy and datacenter.cfg share none.
    pub vmids: Option<VmidRange>,
    /// Ports that may be published; `None` if policy and settings share none.
    pub ports: Option<PortRange>,
    /// The network.
    pub network: AppNetwork,
    /// What is in use.
    pub seen: Seen,
}

/// The public ports of the settings.
pub async fn port_setting(tx: &mut Connection) -> Result<PortRange, StoreError> {
    let features: FeatureSettings = settings::get(tx, FeatureSettings::NAME).await?.unwrap_or_default();
    Ok(PortRange {
        first: features.public_port_first,
        last: features.public_port_last,
    })
}

/// A host's network, its gaps filled from the settings. `nodes`: facts of the host's nodes, whose own addresses are not given out.
pub async fn app_network(
    tx: &mut Connection,
    host_id: i64,
    host: &str,
    nodes: &[&NodeFacts],
) -> Result<AppNetwork, SurroundingsError> {
    let bad = |why: String| SurroundingsError::Network { host: host.into(), why };
    let Some(row) = fleet::host_network(&mut *tx, host_id).await? else {
        return Err(bad("the host is not in the registry".into()));
    };
    let defaults: NetworkSettings = settings::get(tx, NetworkSettings::NAME).await?.unwrap_or_default();
    let bridge = row.bridge.unwrap_or(defaults.default_bridge);
    let bridge = BridgeName::new(bridge).map_err(|e| bad(e.to_string()))?;
    let mut params = NetworkParams {
        bridge,
        vlan: row.vlan,
        dns: row.dns,
        fixed: None,
    };
    if !row.is_static {
        return Ok(AppNetwork { params, pool: None });
    }
    let subnet: Ipv4Net = row.subnet.unwrap_or(defaults.default_subnet).parse().map_err(bad)?;
    let (Some(first), Some(last)) = (row.pool_first, row.pool_last) else {
        return Err(bad(
            "address_mode is static, but pool_first or pool_last is not set".into()
        ));
    };
    if params.dns.is_empty() {
        params.dns = vec![defaults.default_dns_primary, defaults.default_dns_secondary];
    }
    let mut excluded = BTreeSet::new();
    for exclusion in &row.exclusions {
        exclude(&mut excluded, exclusion).map_err(|e| bad(e.to_string()))?;
    }
    excluded.extend(row.gateway);
    for facts in nodes {
        excluded.insert(facts.address);
        excluded.extend(facts.bridges.iter().filter_map(|b| b.address));
        excluded.extend(facts.bridges.iter().filter_map(|b| b.gateway));
    }
    let pool = AddressPool::new(subnet, first, last, excluded).map_err(|e| bad(e.to_string()))?;
    params.fixed = Some(FixedParams {
        prefix: subnet.prefix(),
        gateway: row.gateway,
    });
    Ok(AppNetwork {
        params,
        pool: Some(pool),
    })
}

/// An exclusion is an address or `first-last`.
fn exclude(into: &mut BTreeSet<Ipv4Addr>, text: &str) -> Result<(), AddressPoolError> {
    let address = |t: &str| {
        t.trim()
            .parse::<Ipv4Addr>()
            .map_err(|_| AddressPoolError::NotAnAddress(t.into()))
    };
    match text.split_once('-') {
        None => {
            into.insert(address(text)?);
        }
        Some((first, last)) => {
            let (first, last) = (address(first)?, address(last)?);
            // A range longer than any pool is a slip of the pen, not a reason to fill the memory.
            if first > last || u32::from(last) - u32::from(first) > 0xffff {
                return Err(AddressPoolError::BadRange(first, last));
            }
            into.extend((u32::from(first)..=u32::from(last)).map(Ipv4Addr::from));
        }
    }
    Ok(())
}

/// Puts together what a reservation on `node` has to fit into. `fleet`: every node of the registry.
pub async fn of_node(
    tx: &mut Connection,
    node: &fleet::FleetNode,
    facts: &NodeFacts,
    fleet: &[fleet::FleetNode],
    inventories: &Inventories,
) -> Result<Surroundings, SurroundingsError> {
    let siblings: Vec<&fleet::FleetNode> = fleet.iter().filter(|n| n.host_id == node.host_id).collect();
    let sibling_facts: Vec<&NodeFacts> = siblings.iter().filter_map(|n| n.facts.as_ref()).collect();
    let network = app_network(&mut *tx, node.host_id, &node.host_name, &sibling_facts).await?;
    let setting = port_setting(tx).await?;
    let mut seen = Seen::default();
    for sibling in siblings {
        let Some((_, inventory)) = inventories.get(sibling.id) else {
            continue;
        };
        seen.vmids.extend(inventory.containers.iter().map(|c| c.vmid.get()));
        seen.vmids
            .extend(inventory.elsewhere.iter().map(|(vmid, _)| vmid.get()));
        seen.ports.extend(inventory.published.iter().map(|p| p.public_port));
        seen.addresses
            .extend(inventory.containers.iter().flat_map(|c| c.addresses.iter().copied()));
    }
    let policy = &facts.policy;
    Ok(Surroundings {
        host_id: node.host_id,
        vmids: VmidRange::of_node((policy.vmid_first, policy.vmid_last), facts.next_id),
        ports: setting.and(PortRange {
            first: policy.port_first,
            last: policy.port_last,
        }),
        network,
        seen,
    })
}
