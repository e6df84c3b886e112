//! Where an enrolling machine belongs: which host, which node.
//!
//! A host is recognised by the key of its `pve-root-ca.pem`, so two standalone machines named alike are two hosts. A name that is taken within a host is given
//! to another machine only if the operator says so on it (`take_over`); the record, and with it the apps, stays.

use super::{RedeemError, refused};
use crate::{
    clock::UnixMs,
    domain::network::Ipv4Net,
    pki::NodeKey,
    store::{
        Connection, StoreError, apps, certificates,
        hosts::{self, HostFields, HostRow},
        join_tokens::JoinTokenRow,
        nodes::{self, NodeRow},
    },
};
use proximity_protocol::{
    enroll::{EnrollRequest, RefusalReason},
    ids::{NodeId, NodeName},
    observed::{self, NodeFacts},
};
use uuid::Uuid;

/// The port of Proxmox's own web page.
const PVE_PORT: u16 = 8006;

/// Where the machine belongs. The rows are written.
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) name: String,
    /// Nodes whose earlier certificates end.
    pub(super) superseded: Vec<NodeId>,
    /// For the audit.
    pub(super) story: String,
}

/// Finds the place and writes host and node.
pub(super) async fn find(
    tx: &mut Connection,
    now: UnixMs,
    token: &JoinTokenRow,
    key: &NodeKey,
    request: &EnrollRequest,
) -> Result<Place, RedeemError> {
    let facts = &request.facts;
    let host = match (token.host_id, hosts::by_fingerprint(tx, &facts.host_fingerprint).await?) {
        (Some(id), known) => host_of_token(tx, now, id, known, request).await?,
        (None, Some(known)) => known,
        (None, None) => new_host(tx, now, request).await?,
    };
    let there = nodes::list(tx, Some(host.id)).await?;
    let holder = there.iter().find(|n| n.name == facts.node_name.as_str());
    let own = match certificates::node_of_key(tx, &key.spki_sha256()).await? {
        Some(id) => nodes::get(tx, id).await?,
        None => None,
    };
    let (before, how) = match (holder, own) {
        (Some(holder), Some(own)) if holder.id == own.id => (Some(own), "with the key that it had"),
        (Some(holder), _) if request.take_over => (Some(holder.clone()), "taking the record over"),
        (Some(_), _) => {
            return Err(refused(
                RefusalReason::NameTaken,
                format!(
                    "a node named {:?} is enrolled in the host {:?} already; if this machine replaces it, join with --take-over",
                    facts.node_name.as_str(),
                    host.name
                ),
            ));
        }
        (None, Some(own)) => (Some(own), "with the key that it had"),
        (None, None) if request.take_over => (moved(tx, facts).await?, "moving from its former host"),
        (None, None) => (None, ""),
    };
    let story = |how: &str| {
        let space = if how.is_empty() { "" } else { ", " };
        format!("node {} of host {}{space}{how}", facts.node_name, host.name)
    };
    let name = facts.node_name.to_string();
    match before {
        Some(node) => {
            if node.host_id != host.id {
                may_move(tx, &node, &host).await?;
            }
            nodes::enrol_again(tx, now, node.id, host.id, facts).await?;
            Ok(Place {
                node: node.id,
                name,
                superseded: vec![node.id],
                story: story(how),
            })
        }
        None => {
            let id = NodeId(Uuid::new_v4());
            nodes::insert(tx, now, id, host.id, facts).await?;
            Ok(Place {
                node: id,
                name,
                superseded: Vec::new(),
                story: story("for the first time"),
            })
        }
    }
}

async fn host_of_token(
    tx: &mut Connection,
    now: UnixMs,
    id: i64,
    known: Option<HostRow>,
    request: &EnrollRequest,
) -> Result<HostRow, RedeemError> {
    let host = hosts::get(tx, id)
        .await?
        .ok_or_else(|| StoreError::Corrupt(format!("a join token is for host {id}, which is not there")))?;
    match known {
        Some(known) if known.id == host.id => return Ok(host),
        Some(known) => {
            return Err(refused(
                RefusalReason::WrongHost,
                format!(
                    "this join token is for the host {:?} and this machine belongs to {:?}; make a token for that one",
                    host.name, known.name
                ),
            ));
        }
        None => {}
    }
    let name = request.facts.node_name.as_str();
    let reinstalled = request.take_over && nodes::standalone_named(tx, name).await?.contains(&host.id);
    if host.fingerprint.is_some() && !reinstalled {
        return Err(refused(
            RefusalReason::WrongHost,
            format!(
                "this join token is for the host {:?}, which is another Proxmox installation than this machine's; \
                 make a token for a new host, or, if this is its only machine reinstalled, join with --take-over",
                host.name
            ),
        ));
    }
    if host.fingerprint.is_none() {
        propose_network(tx, now, host.id, &request.facts).await?;
    }
    hosts::set_fingerprint(tx, now, host.id, &request.facts.host_fingerprint).await?;
    Ok(host)
}

async fn new_host(tx: &mut Connection, now: UnixMs, request: &EnrollRequest) -> Result<HostRow, RedeemError> {
    let facts = &request.facts;
    if request.take_over && !nodes::standalone_named(tx, facts.node_name.as_str()).await?.is_empty() {
        return Err(refused(
            RefusalReason::WrongHost,
            format!(
                "this Proxmox installation is new here, so there is no record of {:?} to take over; \
                 if a standalone machine was reinstalled, make a join token for its host, else join without --take-over",
                facts.node_name.as_str()
            ),
        ));
    }
    let base = facts
        .cluster
        .as_deref()
        // A cluster's name follows the same rule as a node's; anything else is not shown to operators as a name.
        .and_then(|cluster| NodeName::new(cluster).ok())
        .map_or_else(|| facts.node_name.to_string(), |cluster| cluster.to_string());
    let fields = HostFields {
        name: hosts::free_name(tx, &base).await?,
        host: facts.address.to_string(),
        port: PVE_PORT,
        is_active: true,
        is_default: false,
    };
    let id = hosts::insert(tx, now, None, &fields, Some(&facts.host_fingerprint)).await?;
    propose_network(tx, now, id, facts).await?;
    hosts::get(tx, id)
        .await?
        .ok_or_else(|| StoreError::Corrupt(format!("host {id} vanished")).into())
}

/// The network of the first node's bridge becomes that of its host's apps, unless somebody has set one before. Addresses are the operator's to give out:
/// until then it is DHCP.
async fn propose_network(tx: &mut Connection, now: UnixMs, host: i64, facts: &NodeFacts) -> Result<(), StoreError> {
    let Some(mut network) = hosts::network(tx, host).await? else {
        return Ok(());
    };
    let untouched = network.bridge.is_none() && network.subnet.is_none() && network.address_mode == "dhcp";
    let Some(bridge) = observed::proposed_bridge(&facts.bridges).filter(|_| untouched) else {
        return Ok(());
    };
    network.bridge = Some(bridge.name.to_string());
    // What `PUT` would refuse is not proposed: a point-to-point address, a gateway outside of its network.
    let subnet = bridge.network().map(|(first, prefix)| format!("{first}/{prefix}"));
    if let Some((subnet, net)) = subnet.and_then(|subnet| Some((subnet.clone(), subnet.parse::<Ipv4Net>().ok()?))) {
        network.subnet = Some(subnet);
        network.gateway = bridge
            .gateway
            .filter(|gateway| net.is_host(*gateway))
            .map(|gateway| gateway.to_string());
    }
    hosts::set_network(tx, now, host, &network).await
}

/// The record of a standalone machine that has joined this cluster since: the only node of its host, with this name and this address.
async fn moved(tx: &mut Connection, facts: &NodeFacts) -> Result<Option<NodeRow>, StoreError> {
    let mut found = Vec::new();
    for host in nodes::standalone_named(tx, facts.node_name.as_str()).await? {
        let address = facts.address.to_string();
        found.extend(
            nodes::list(tx, Some(host))
                .await?
                .into_iter()
                .filter(|n| n.address.as_ref() == Some(&address)),
        );
    }
    Ok(if found.len() == 1 { found.pop() } else { None })
}

/// A machine that joins a cluster has no guests; if the registry says that it has apps, something else is going on.
async fn may_move(tx: &mut Connection, node: &NodeRow, to: &HostRow) -> Result<(), RedeemError> {
    let left = apps::on_node(tx, node.id).await?.len();
    if left == 0 {
        return Ok(());
    }
    Err(refused(
        RefusalReason::WrongHost,
        format!(
            "this machine now belongs to the host {:?}, and {left} app(s) are recorded on it in its former host; delete or move them first",
            to.name
        ),
    ))
}
