//! What is known of a node's trust and identity beyond its certificates: which roots its agent has stored, which boot holds its link, whether it was cloned.

use super::{
    Connection, StoreError,
    row::{get as column, json, json_opt, parse, parse_opt},
};
use crate::clock::UnixMs;
use proximity_protocol::ids::{BootId, NodeId};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;

/// Two machines use the node's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cloned {
    /// When it was noticed.
    pub since: UnixMs,
    /// What was seen, in words.
    pub message: String,
    /// Boots that are kept out, the newest last.
    pub held: Vec<BootId>,
}

/// A row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTrust {
    /// Whether its agent can follow from root to root; `None`: it has not been connected since this is known.
    pub follows_roots: Option<bool>,
    /// Pins (hexadecimal, lower case) of the roots that it has stored.
    pub roots: Vec<String>,
    /// The boot that last held its link.
    pub boot: Option<BootId>,
    /// The alarm.
    pub cloned: Option<Cloned>,
    /// A certificate whose key is to be replaced at once.
    pub rekey_from: Option<String>,
}

fn trust(row: &SqliteRow) -> Result<NodeTrust, StoreError> {
    Ok(NodeTrust {
        follows_roots: Some(column(row, "follows_roots")?),
        roots: json(row, "roots")?,
        boot: parse_opt(row, "boot")?,
        cloned: json_opt(row, "cloned")?,
        rekey_from: column(row, "rekey_from")?,
    })
}

/// Of one node.
pub async fn get(tx: &mut Connection, node: NodeId) -> Result<NodeTrust, StoreError> {
    let row = sqlx::query("SELECT * FROM node_trust WHERE node_id = $1")
        .bind(node.to_string())
        .fetch_optional(tx)
        .await?;
    Ok(row.as_ref().map(trust).transpose()?.unwrap_or_default())
}

/// Of every node that has a row.
pub async fn all(tx: &mut Connection) -> Result<HashMap<NodeId, NodeTrust>, StoreError> {
    let rows = sqlx::query("SELECT * FROM node_trust").fetch_all(tx).await?;
    rows.iter()
        .map(|row| Ok((parse(row, "node_id")?, trust(row)?)))
        .collect()
}

/// A Hello was good.
pub async fn greeted(tx: &mut Connection, node: NodeId, follows_roots: bool) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO node_trust (node_id, follows_roots) VALUES ($1, $2)
         ON CONFLICT (node_id) DO UPDATE SET follows_roots = $2 WHERE node_trust.follows_roots <> $2",
    )
    .bind(node.to_string())
    .bind(follows_roots)
    .execute(tx)
    .await?;
    Ok(())
}

/// Its agent has these roots on its disk.
pub async fn set_roots(tx: &mut Connection, node: NodeId, pins: &[String]) -> Result<(), StoreError> {
    sqlx::query("UPDATE node_trust SET roots = $1 WHERE node_id = $2")
        .bind(serde_json::to_string(pins)?)
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// That boot holds its link from now on.
pub async fn set_boot(tx: &mut Connection, node: NodeId, boot: BootId) -> Result<(), StoreError> {
    sqlx::query("UPDATE node_trust SET boot = $1 WHERE node_id = $2")
        .bind(boot.to_string())
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Raises the alarm, or clears it.
pub async fn set_cloned(tx: &mut Connection, node: NodeId, cloned: Option<&Cloned>) -> Result<(), StoreError> {
    let text = cloned.map(serde_json::to_string).transpose()?;
    sqlx::query("UPDATE node_trust SET cloned = $1 WHERE node_id = $2")
        .bind(text)
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// The key of that certificate is to be replaced at once; `None`: it has been.
pub async fn set_rekey_from(tx: &mut Connection, node: NodeId, serial: Option<&str>) -> Result<(), StoreError> {
    sqlx::query("UPDATE node_trust SET rekey_from = $1 WHERE node_id = $2")
        .bind(serial)
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// The node enrolled anew: it has another key, and what was known of the old one says nothing.
pub async fn forget(tx: &mut Connection, node: NodeId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM node_trust WHERE node_id = $1")
        .bind(node.to_string())
        .execute(tx)
        .await?;
    Ok(())
}
