//! The network of a host's apps.

use super::{Hosts, unknown};
use crate::{
    domain::{network::Ipv4Net, settings::NetworkSettings},
    service::{Caller, FieldError, ServiceError, settings, settings::only_admins},
    store::{
        StoreError,
        hosts::{self as rows, NetworkRow},
    },
};
use proximity_protocol::ids::BridgeName;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The network of a host's apps, as asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostNetworkInput {
    /// Absent: the default settings'.
    pub bridge: Option<String>,
    /// 1 to 4094.
    pub vlan: Option<i64>,
    /// `dhcp` (unless said otherwise) or `static`.
    pub address_mode: Option<String>,
    /// CIDR; absent: the default settings'.
    pub subnet: Option<String>,
    /// First address for apps; needed for `static`.
    pub pool_first: Option<String>,
    /// Last address for apps; needed for `static`.
    pub pool_last: Option<String>,
    /// Addresses, or `first-last`, that are not given out.
    pub exclusions: Vec<String>,
    /// The way out.
    pub gateway: Option<String>,
    /// At most three.
    pub dns: Vec<String>,
}

/// The network of a host's apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostNetwork {
    /// Null: the default settings'.
    pub bridge: Option<String>,
    /// Tag.
    pub vlan: Option<i64>,
    /// `dhcp` or `static`.
    pub address_mode: String,
    /// CIDR.
    pub subnet: Option<String>,
    /// First address for apps.
    pub pool_first: Option<String>,
    /// Last address for apps.
    pub pool_last: Option<String>,
    /// Not given out.
    pub exclusions: Vec<String>,
    /// The way out.
    pub gateway: Option<String>,
    /// DNS servers.
    pub dns: Vec<String>,
}

fn shown(row: NetworkRow) -> Result<HostNetwork, StoreError> {
    Ok(HostNetwork {
        exclusions: serde_json::from_str(&row.exclusions)?,
        dns: serde_json::from_str(&row.dns)?,
        bridge: row.bridge,
        vlan: row.vlan,
        address_mode: row.address_mode,
        subnet: row.subnet,
        pool_first: row.pool_first,
        pool_last: row.pool_last,
        gateway: row.gateway,
    })
}

/// Collects what is wrong.
struct Check(Vec<FieldError>);

impl Check {
    fn wrong(&mut self, field: &str, rule: impl Into<String>) {
        self.0.push(FieldError::body(field, rule));
    }

    fn address(&mut self, field: &str, text: Option<&String>) -> Option<Ipv4Addr> {
        let text = text?;
        let address = text.parse().ok();
        if address.is_none() {
            self.wrong(field, format!("{text:?} is not an IPv4 address, such as 10.0.0.10"));
        }
        address
    }

    fn exclusion(&mut self, text: &str) {
        let parsed = |t: &str| t.trim().parse::<Ipv4Addr>().ok();
        let fine = match text.split_once('-') {
            None => parsed(text).is_some(),
            Some((first, last)) => match (parsed(first), parsed(last)) {
                (Some(first), Some(last)) => first <= last && u32::from(last) - u32::from(first) <= 0xffff,
                _ => false,
            },
        };
        if !fine {
            self.wrong(
                "exclusions",
                format!("{text:?} is neither an address nor a range such as 10.0.0.10-10.0.0.20"),
            );
        }
    }
}

fn check(input: &HostNetworkInput, default_subnet: &str) -> Vec<FieldError> {
    let mut check = Check(Vec::new());
    let mode = input.address_mode.as_deref().unwrap_or("dhcp");
    if !["dhcp", "static"].contains(&mode) {
        check.wrong("address_mode", "has to be dhcp or static");
    }
    if let Some(bridge) = &input.bridge
        && let Err(error) = BridgeName::new(bridge.as_str())
    {
        check.wrong("bridge", format!("has to be {}", error.rule));
    }
    if input.vlan.is_some_and(|tag| !(1..=4094).contains(&tag)) {
        check.wrong("vlan", "has to be from 1 to 4094");
    }
    if input.dns.len() > 3 {
        check.wrong("dns", "at most 3 servers");
    }
    for server in &input.dns {
        check.address("dns", Some(server));
    }
    if input.exclusions.len() > 1000 {
        check.wrong("exclusions", "at most 1000; use ranges");
    }
    for text in input.exclusions.iter().take(1000) {
        check.exclusion(text);
    }
    let first = check.address("pool_first", input.pool_first.as_ref());
    let last = check.address("pool_last", input.pool_last.as_ref());
    let gateway = check.address("gateway", input.gateway.as_ref());
    if mode == "static" {
        for (field, value) in [("pool_first", &input.pool_first), ("pool_last", &input.pool_last)] {
            if value.is_none() {
                check.wrong(field, "is needed when address_mode is static");
            }
        }
    }
    let subnet = input.subnet.as_deref().unwrap_or(default_subnet);
    match subnet.parse::<Ipv4Net>() {
        Err(rule) => check.wrong("subnet", rule),
        Ok(net) => {
            for (field, address) in [("pool_first", first), ("pool_last", last), ("gateway", gateway)] {
                if address.is_some_and(|a| !net.is_host(a)) {
                    check.wrong(field, format!("has to be a host's address inside {subnet}"));
                }
            }
        }
    }
    if let (Some(first), Some(last)) = (first, last)
        && first > last
    {
        check.wrong("pool_last", "has to be pool_first or a later address");
    }
    check.0
}

impl Hosts {
    /// The network of a host's apps.
    pub async fn network(&self, _caller: &Caller, id: i64) -> Result<HostNetwork, ServiceError> {
        let row = rows::network(&mut *self.store.read().await?, id).await?;
        Ok(shown(row.ok_or_else(|| unknown(id))?)?)
    }

    /// Sets it whole. Apps that have an address keep it.
    pub async fn set_network(
        &self,
        caller: &Caller,
        id: i64,
        input: HostNetworkInput,
    ) -> Result<HostNetwork, ServiceError> {
        only_admins(caller)?;
        let mut tx = self.store.begin().await?;
        let defaults: NetworkSettings = settings::read(&mut tx).await?;
        let wrong = check(&input, &defaults.default_subnet);
        if !wrong.is_empty() {
            return Err(ServiceError::Invalid(wrong));
        }
        let host = rows::get(&mut tx, id).await?.ok_or_else(|| unknown(id))?;
        let row = NetworkRow {
            address_mode: input.address_mode.unwrap_or_else(|| "dhcp".into()),
            exclusions: serde_json::to_string(&input.exclusions).map_err(StoreError::from)?,
            dns: serde_json::to_string(&input.dns).map_err(StoreError::from)?,
            bridge: input.bridge,
            vlan: input.vlan,
            subnet: input.subnet,
            pool_first: input.pool_first,
            pool_last: input.pool_last,
            gateway: input.gateway,
        };
        rows::set_network(&mut tx, self.clock.now_ms(), id, &row).await?;
        self.audit(&mut tx, caller, "host.network", id, &host.name).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(shown(row)?)
    }
}
