//! Nodes: machines of a host, one agent each.

use super::{
    Connection, StoreError,
    row::{get as column, parse},
};
use crate::{clock::UnixMs, domain::placement::Admission};
use proximity_protocol::{
    ids::{NodeId, OperationId},
    observed::NodeFacts,
};
use sqlx::{Row as _, sqlite::SqliteRow};

/// A node as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// Its host.
    pub host_id: i64,
    /// Unique within its host.
    pub name: String,
    /// Whether it may come in and take apps.
    pub admission: Admission,
    /// Where its published ports answer.
    pub address: Option<String>,
    /// As of its last Hello.
    pub agent_version: Option<String>,
    /// What it last told; `None` if it never did, or in a shape of an older version.
    pub facts: Option<NodeFacts>,
    /// When it was last connected.
    pub last_seen: Option<UnixMs>,
    /// When it enrolled.
    pub created_at: UnixMs,
}

impl NodeRow {
    /// Whether its certificates are worth nothing.
    pub fn is_revoked(&self) -> bool {
        self.admission == Admission::Revoked
    }
}

/// How an admission is stored and shown.
pub fn admission_word(admission: Admission) -> &'static str {
    match admission {
        Admission::Enrolled => "enrolled",
        Admission::Draining => "draining",
        Admission::Revoked => "revoked",
    }
}

fn node(row: &SqliteRow) -> Result<NodeRow, StoreError> {
    let admission: String = column(row, "admission")?;
    Ok(NodeRow {
        id: parse(row, "id")?,
        host_id: column(row, "host_id")?,
        name: column(row, "name")?,
        admission: match admission.as_str() {
            "enrolled" => Admission::Enrolled,
            "draining" => Admission::Draining,
            "revoked" => Admission::Revoked,
            other => return Err(StoreError::Corrupt(format!("admission: {other:?}"))),
        },
        address: column(row, "address")?,
        agent_version: column(row, "agent_version")?,
        facts: column::<Option<String>>(row, "facts")?.and_then(|text| serde_json::from_str(&text).ok()),
        last_seen: column(row, "last_seen")?,
        created_at: column(row, "created_at")?,
    })
}

/// Every node, or those of one host; by host and name.
pub async fn list(tx: &mut Connection, host_id: Option<i64>) -> Result<Vec<NodeRow>, StoreError> {
    sqlx::query("SELECT * FROM nodes WHERE $1 IS NULL OR host_id = $1 ORDER BY host_id, name")
        .bind(host_id)
        .fetch_all(tx)
        .await?
        .iter()
        .map(node)
        .collect()
}

/// One node.
pub async fn get(tx: &mut Connection, id: NodeId) -> Result<Option<NodeRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM nodes WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(node).transpose()
}

/// Hosts of which the only node has this name.
pub async fn standalone_named(tx: &mut Connection, name: &str) -> Result<Vec<i64>, StoreError> {
    let rows: Vec<(i64,)> =
        sqlx::query_as("SELECT host_id FROM nodes GROUP BY host_id HAVING COUNT(*) = 1 AND MAX(name) = $1")
            .bind(name)
            .fetch_all(tx)
            .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Adds a node.
pub async fn insert(
    tx: &mut Connection,
    at: UnixMs,
    id: NodeId,
    host_id: i64,
    facts: &NodeFacts,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO nodes (id, host_id, name, admission, address, facts, created_at, updated_at)
         VALUES ($1, $2, $3, 'enrolled', $4, $5, $6, $6)",
    )
    .bind(id.to_string())
    .bind(host_id)
    .bind(facts.node_name.as_str())
    .bind(facts.address.to_string())
    .bind(serde_json::to_string(facts)?)
    .bind(at)
    .execute(tx)
    .await?;
    Ok(())
}

/// A node enrols again, perhaps into another host, under the name that its facts say. A revoked one is enrolled after it; a draining one goes on draining.
pub async fn enrol_again(
    tx: &mut Connection,
    at: UnixMs,
    id: NodeId,
    host_id: i64,
    facts: &NodeFacts,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET host_id = $1, name = $2, address = $3, facts = $4, updated_at = $5,
         admission = CASE admission WHEN 'revoked' THEN 'enrolled' ELSE admission END WHERE id = $6",
    )
    .bind(host_id)
    .bind(facts.node_name.as_str())
    .bind(facts.address.to_string())
    .bind(serde_json::to_string(facts)?)
    .bind(at)
    .bind(id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

/// What the node is now.
pub async fn set_facts(tx: &mut Connection, at: UnixMs, id: NodeId, facts: &NodeFacts) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET address = $1, facts = $2, updated_at = $3 WHERE id = $4")
        .bind(facts.address.to_string())
        .bind(serde_json::to_string(facts)?)
        .bind(at)
        .bind(id.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// With which version its agent came.
pub async fn set_agent_version(tx: &mut Connection, id: NodeId, version: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET agent_version = $1 WHERE id = $2")
        .bind(version)
        .bind(id.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// It was connected at that time, and its host with it.
pub async fn seen(tx: &mut Connection, at: UnixMs, id: NodeId) -> Result<(), StoreError> {
    let id = id.to_string();
    sqlx::query("UPDATE nodes SET last_seen = $1 WHERE id = $2")
        .bind(at)
        .bind(&id)
        .execute(&mut *tx)
        .await?;
    sqlx::query("UPDATE hosts SET last_seen = $1 WHERE id = (SELECT host_id FROM nodes WHERE id = $2)")
        .bind(at)
        .bind(&id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether it may come in and take apps.
pub async fn set_admission(
    tx: &mut Connection,
    at: UnixMs,
    id: NodeId,
    admission: Admission,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET admission = $1, updated_at = $2 WHERE id = $3")
        .bind(admission_word(admission))
        .bind(at)
        .bind(id.to_string())
        .execute(tx)
        .await?;
    Ok(())
}

/// Which of these operations are over for the registry, or unknown to it, or go on at another node than this: their jobs here may be forgotten. `stuck` ones
/// are not over while their app is there.
pub async fn settled(
    tx: &mut Connection,
    node: NodeId,
    operations: &[OperationId],
) -> Result<Vec<OperationId>, StoreError> {
    let ids: Vec<String> = operations.iter().map(ToString::to_string).collect();
    let rows = sqlx::query(
        "SELECT j.value AS id FROM json_each($1) j LEFT JOIN operations o ON o.id = j.value
         WHERE o.id IS NULL OR o.state IN ('done', 'undone') OR o.node_id <> $2 OR NOT EXISTS (SELECT 1 FROM apps a WHERE a.id = o.app_id)",
    )
    .bind(serde_json::to_string(&ids)?)
    .bind(node.to_string())
    .fetch_all(tx)
    .await?;
    rows.iter()
        .map(|row| {
            let text: String = row.try_get("id")?;
            text.parse()
                .map_err(|e: proximity_protocol::ids::InvalidId| StoreError::Corrupt(e.to_string()))
        })
        .collect()
}
