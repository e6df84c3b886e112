//! The container has its address and a way out.

use super::{act::Act, standing};
use crate::facts::addresses::{self, Network};
use proximity_protocol::{
    command::{Outcome, Target},
    fault::{Fault, FaultKind},
};
use std::{net::Ipv4Addr, time::Duration};

/// Between two looks: some small files.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn run(
    act: &Act<'_>,
    target: &Target,
    expect: Option<Ipv4Addr>,
    timeout_s: u32,
) -> Result<Outcome, Fault> {
    let vmid = target.vmid;
    let tools = act.node.tools();
    let limit = tools.uptime() + Duration::from_secs(timeout_s.into());
    act.say(&format!("waiting for the network of container {vmid}"));
    loop {
        let container = standing::require_running(act.node, target)?;
        let network = addresses::network(act.node, vmid).map_err(|error| {
            Fault::new(
                FaultKind::Internal,
                format!("the addresses of container {vmid} cannot be read: {error}"),
            )
        })?;
        let wants_gateway = container.conf.net0("gw").is_some() || container.conf.net0("ip") == Some("dhcp");
        if let Some(address) = network
            .as_ref()
            .and_then(|network| ready(network, expect, wants_gateway))
        {
            return Ok(Outcome::Network { address });
        }
        if tools.uptime() >= limit {
            return Err(Fault::new(
                FaultKind::DeadlineExceeded,
                missing(network.as_ref(), expect, timeout_s),
            ));
        }
        tools.sleep(LOOK).await;
    }
}

fn ready(network: &Network, expect: Option<Ipv4Addr>, wants_gateway: bool) -> Option<Ipv4Addr> {
    if wants_gateway && network.routes_known && network.gateway.is_none() {
        return None;
    }
    network.addresses.iter().copied().find(|address| match expect {
        Some(expected) => *address == expected,
        None => !address.is_link_local(),
    })
}

fn missing(network: Option<&Network>, expect: Option<Ipv4Addr>, timeout_s: u32) -> String {
    let has = match network {
        Some(network) if !network.addresses.is_empty() => {
            let list: Vec<String> = network.addresses.iter().map(ToString::to_string).collect();
            format!(
                "it has {}{}",
                list.join(", "),
                if network.gateway.is_none() {
                    " and no default route"
                } else {
                    ""
                }
            )
        }
        _ => "it has no address".into(),
    };
    match expect {
        Some(address) => format!("the container did not get its address {address} within {timeout_s} s: {has}"),
        None => format!(
            "the container got no address by DHCP within {timeout_s} s: {has}; is there a DHCP server on its bridge?"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_only_with_a_way_out() {
        let address = Ipv4Addr::new(10, 0, 0, 5);
        let network = |gateway: Option<Ipv4Addr>, routes_known| Network {
            addresses: vec![Ipv4Addr::new(169, 254, 1, 1), address],
            gateway,
            routes_known,
        };
        assert_eq!(ready(&network(None, true), None, true), None);
        assert_eq!(ready(&network(None, true), None, false), Some(address));
        assert_eq!(ready(&network(None, false), None, true), Some(address));
        assert_eq!(
            ready(&network(Some(Ipv4Addr::new(10, 0, 0, 1)), true), Some(address), true),
            Some(address)
        );
        assert_eq!(
            ready(&network(None, false), Some(Ipv4Addr::new(10, 0, 0, 6)), true),
            None
        );
    }
}
