//! What an operator is told before a secret is given away: what the coordinator will see, what it will be allowed, and which network is proposed.

use crate::{config::Config, policy::Policy};
use proximity_protocol::observed::{BridgeFact, NodeFacts, proposed_bridge};

pub(super) fn say(config: &Config, facts: &NodeFacts) {
    let names = |names: Vec<String>| names.join(", ");
    eprintln!(
        "The coordinator will see: node {} ({}), Proxmox VE {}, {} processors, {} MiB of memory, its address towards the coordinator,\n  storages {}, bridges {}, and its containers with their figures.",
        facts.node_name,
        facts
            .cluster
            .as_deref()
            .map_or("standalone".to_owned(), |name| format!("cluster {name}")),
        facts.pve_version.as_deref().unwrap_or("of unknown version"),
        facts.cpu_count,
        facts.memory_total_bytes >> 20,
        names(facts.storages.iter().map(|storage| storage.id.to_string()).collect()),
        names(facts.bridges.iter().map(|bridge| bridge.name.to_string()).collect()),
    );
    let path = config.paths.policy.display();
    match Policy::load(&config.paths.policy) {
        Ok(policy) => eprintln!(
            "This node's policy ({path}) will allow: {}.",
            policy.in_words().join("; ")
        ),
        Err(fault) => eprintln!(
            "This node's policy will allow nothing that changes it: {}",
            fault.message
        ),
    }
    eprintln!("{}", proposal(&facts.bridges));
}

/// The network that the host's apps get if the host is new at the coordinator.
fn proposal(bridges: &[BridgeFact]) -> String {
    let Some(bridge) = proposed_bridge(bridges) else {
        return "No bridge of this node has an address, so no network is proposed: an admin chooses the network of the apps at the coordinator."
            .into();
    };
    let subnet = bridge
        .network()
        .map_or(String::new(), |(first, prefix)| format!(", subnet {first}/{prefix}"));
    let gateway = bridge
        .gateway
        .map_or(String::new(), |gateway| format!(", gateway {gateway}"));
    format!(
        "Network for the apps of this host, if it is new there: bridge {}{subnet}{gateway}, addresses by DHCP. \
         An admin changes it at the coordinator: PUT /api/proxmox/hosts/<id>/network.",
        bridge.name
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_proposal_is_told() {
        let bridge = |address: Option<[u8; 4]>, gateway: Option<[u8; 4]>| BridgeFact {
            name: "vmbr1".parse().unwrap(),
            address: address.map(Into::into),
            prefix: address.map(|_| 20),
            gateway: gateway.map(Into::into),
        };
        let outer = proposal(&[bridge(Some([192, 168, 17, 4]), Some([192, 168, 16, 1]))]);
        assert!(
            outer.contains("bridge vmbr1, subnet 192.168.16.0/20, gateway 192.168.16.1, "),
            "{outer}"
        );
        assert!(proposal(&[bridge(None, None)]).contains("No bridge"));
    }
}
