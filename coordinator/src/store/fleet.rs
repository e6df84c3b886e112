//! What placement and reservations see of hosts, nodes and settings.

use super::{
    Connection, StoreError,
    row::{get, json, number_opt, parse, parse_opt},
};
use crate::domain::placement::Admission;
use proximity_protocol::{ids::NodeId, observed::NodeFacts};
use sqlx::sqlite::SqliteRow;
use std::net::Ipv4Addr;

/// A node with its host's part in placement.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetNode {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it may take apps.
    pub admission: Admission,
    /// What it is; `None` until it has told.
    pub facts: Option<NodeFacts>,
    /// Its host.
    pub host_id: i64,
    /// Its host's name.
    pub host_name: String,
    /// Whether the host takes apps.
    pub host_active: bool,
    /// Whether the host is preferred.
    pub host_default: bool,
}

/// A host's network for its apps, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct HostNetwork {
    /// The bridge; `None`: the default settings'.
    pub bridge: Option<String>,
    /// VLAN tag.
    pub vlan: Option<u16>,
    /// Whether apps get addresses of the pool instead of DHCP's.
    pub is_static: bool,
    /// CIDR.
    pub subnet: Option<String>,
    /// First of the pool.
    pub pool_first: Option<Ipv4Addr>,
    /// Last of the pool.
    pub pool_last: Option<Ipv4Addr>,
    /// Not given out.
    pub exclusions: Vec<String>,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
}

fn node(row: &SqliteRow) -> Result<FleetNode, StoreError> {
    let admission: String = get(row, "admission")?;
    Ok(FleetNode {
        id: parse(row, "id")?,
        name: get(row, "name")?,
        admission: match admission.as_str() {
            "enrolled" => Admission::Enrolled,
            "draining" => Admission::Draining,
            "revoked" => Admission::Revoked,
            other => return Err(StoreError::Corrupt(format!("admission: {other:?}"))),
        },
        // Facts that an older version stored in another shape are as good as none until the agent tells them anew.
        facts: get::<Option<String>>(row, "facts")?.and_then(|text| serde_json::from_str(&text).ok()),
        host_id: get(row, "host_id")?,
        host_name: get(row, "host_name")?,
        host_active: get(row, "host_active")?,
        host_default: get(row, "host_default")?,
    })
}

/// Every node, by host and name.
pub async fn nodes(tx: &mut Connection) -> Result<Vec<FleetNode>, StoreError> {
    sqlx::query(
        "SELECT n.id, n.name, n.admission, n.facts, n.host_id, h.name AS host_name, h.is_active AS host_active, h.is_default AS host_default
         FROM nodes n JOIN hosts h ON h.id = n.host_id ORDER BY h.id, n.name",
    )
    .fetch_all(tx)
    .await?
    .iter()
    .map(node)
    .collect()
}

/// One node.
pub async fn node_by_id(tx: &mut Connection, id: NodeId) -> Result<Option<FleetNode>, StoreError> {
    sqlx::query(
        "SELECT n.id, n.name, n.admission, n.facts, n.host_id, h.name AS host_name, h.is_active AS host_active, h.is_default AS host_default
         FROM nodes n JOIN hosts h ON h.id = n.host_id WHERE n.id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(tx)
    .await?
    .as_ref()
    .map(node)
    .transpose()
}

/// Whether a host is in the registry.
pub async fn host_exists(tx: &mut Connection, host_id: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query("SELECT 1 FROM hosts WHERE id = $1")
        .bind(host_id)
        .fetch_optional(tx)
        .await?
        .is_some())
}

/// A host's network.
pub async fn host_network(tx: &mut Connection, host_id: i64) -> Result<Option<HostNetwork>, StoreError> {
    let row = sqlx::query(
        "SELECT bridge, vlan, address_mode, subnet, pool_first, pool_last, exclusions, gateway, dns FROM hosts WHERE id = $1",
    )
    .bind(host_id)
    .fetch_optional(tx)
    .await?;
    row.map(|row| {
        Ok(HostNetwork {
            bridge: get(&row, "bridge")?,
            vlan: number_opt(&row, "vlan")?,
            is_static: get::<String>(&row, "address_mode")? == "static",
            subnet: get(&row, "subnet")?,
            pool_first: parse_opt(&row, "pool_first")?,
            pool_last: parse_opt(&row, "pool_last")?,
            exclusions: json(&row, "exclusions")?,
            gateway: parse_opt(&row, "gateway")?,
            dns: json(&row, "dns")?,
        })
    })
    .transpose()
}
