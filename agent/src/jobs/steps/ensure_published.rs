//! The node's port leads to the container, or leads there no more.

use super::{
    act::Act,
    standing::{self, Standing},
};
use crate::{
    facts::{addresses, bridges},
    publish::{self, PublishedPort, WayBack},
    pve::conf::Conf,
};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};
use std::net::Ipv4Addr;

pub(super) async fn run(
    act: &Act<'_>,
    target: &Target,
    public_port: u16,
    address: Ipv4Addr,
    port: u16,
) -> Result<Outcome, Fault> {
    let container = standing::require_running(act.node, target)?;
    let network = addresses::network(act.node, target.vmid)
        .map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format!("the addresses of container {} cannot be read: {error}", target.vmid),
            )
        })?
        .unwrap_or_default();
    // A port must not be made to lead to machines that are not ours.
    if !network.addresses.contains(&address) {
        return Err(Fault::new(
            FaultKind::NotOurs,
            format!("{address} is not an address of container {}", target.vmid),
        ));
    }
    let gateway = network.gateway.or_else(|| container.conf.net0("gw")?.parse().ok());
    let way_back = way_back(&container.conf, address, gateway);
    act.say(&format!("publishing {}:{public_port}", act.node.address()));
    publish::publish(
        act.node,
        PublishedPort {
            public_port,
            vmid: target.vmid,
            owner: target.owner.clone(),
            address,
            port,
            way_back,
        },
    )
    .await?;
    Ok(Outcome::Published {
        address: act.node.address(),
    })
}

/// The port leads to this container no more. Of whom it is else, it stays.
pub(super) async fn undo(act: &Act<'_>, target: &Target, public_port: u16) -> Result<Outcome, Fault> {
    // A port is closed before its container is stopped. While somebody's lock forbids that (a backup of hours), the app goes on serving.
    if let Ok(Standing::Ours(container)) = standing::look(act.node, target)
        && !container.conf.is_half_made()
        && standing::is_running(act.node, target.vmid)?
    {
        container.check_unlocked()?;
    }
    publish::unpublish(act.node, target.vmid, &target.owner, Some(public_port)).await?;
    Ok(Outcome::Done)
}

fn way_back(conf: &Conf, address: Ipv4Addr, gateway: Option<Ipv4Addr>) -> WayBack {
    // Not to be told is the same as elsewhere: translating too much costs the client's address in the app's log, too little the connection.
    let Ok(own) = bridges::own_addresses() else {
        return WayBack::Elsewhere;
    };
    let through_node = gateway.is_some_and(|gateway| own.iter().any(|(_, address, _)| *address == gateway));
    let prefix = conf
        .static_addresses()
        .into_iter()
        .find(|(ip, _)| *ip == address)
        .map(|(_, prefix)| prefix)
        .or_else(|| {
            own.iter()
                .find(|(_, own, _)| Some(*own) == gateway)
                .map(|(_, _, prefix)| *prefix)
        });
    match prefix {
        Some(prefix @ 1..=32) if through_node => {
            let network = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - u32::from(prefix))));
            WayBack::ThroughNode { network, prefix }
        }
        _ => WayBack::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_with_the_node_as_gateway_answers_come_back_by_themselves() {
        let conf = Conf::parse("net0: name=eth0,bridge=vmbr0,ip=127.0.5.9/16,gw=127.0.0.1\n");
        let address = Ipv4Addr::new(127, 0, 5, 9);
        assert_eq!(
            way_back(&conf, address, Some(Ipv4Addr::LOCALHOST)),
            WayBack::ThroughNode {
                network: Ipv4Addr::new(127, 0, 0, 0),
                prefix: 16
            }
        );
        assert_eq!(
            way_back(&conf, address, Some(Ipv4Addr::new(203, 0, 113, 1))),
            WayBack::Elsewhere
        );
        assert_eq!(way_back(&conf, address, None), WayBack::Elsewhere);
    }
}
