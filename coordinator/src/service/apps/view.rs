//! Apps as answers show them.

use crate::{
    clock::rfc3339,
    domain::app_state::Status,
    operations::step::Kind,
    store::{
        apps::{AppVolume, ListedApp},
        deployment_logs::LogRow,
    },
};
use proximity_protocol::metrics::ContainerFigures;
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// An app, with the fields of the contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AppView {
    /// `{catalog_id}-{8 hex}`.
    pub id: String,
    /// The catalog entry.
    pub catalog_id: String,
    /// That entry's name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// In the owner's words.
    pub description: String,
    /// The owner's.
    pub labels: Vec<String>,
    /// What it does.
    pub status: Status,
    /// Why `error`, and what to do.
    pub status_reason: Option<String>,
    /// The published address; null while it is not published.
    pub url: Option<String>,
    /// The container's own address.
    pub direct_url: Option<String>,
    /// The one to embed; null if it is not a web page.
    pub iframe_url: Option<String>,
    /// The node's port.
    pub public_port: Option<u16>,
    /// The app's port inside its container.
    pub internal_port: u16,
    /// The VMID; null until the container exists.
    pub lxc_id: Option<u32>,
    /// The node's name.
    pub node: String,
    /// The Proxmox installation.
    pub host_id: i64,
    /// The owner's user name.
    pub owner: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339.
    pub state_changed_at: String,
    /// As asked.
    pub config: Value,
    /// Without secrets.
    pub environment: BTreeMap<String, String>,
    /// Named ports inside.
    pub ports: BTreeMap<String, u16>,
    /// Besides the root volume.
    pub volumes: Vec<AppVolume>,
    /// The container's address.
    pub ip_address: Option<Ipv4Addr>,
    /// Percent of the cores that it may use; null while there are no live figures.
    pub cpu_usage: Option<f64>,
    /// Bytes; null while there are no live figures.
    pub memory_used: Option<u64>,
    /// Bytes, without swap; null while there are no live figures.
    pub memory_total: Option<u64>,
    /// Bytes; null while it cannot be told.
    pub disk_used: Option<u64>,
    /// Bytes; null while it cannot be told.
    pub disk_total: Option<u64>,
    /// Its latest operation.
    pub operation_id: Option<String>,
    /// Why this node.
    pub placement: Option<Value>,
    /// Whether its container was there before it.
    pub adopted: bool,
    /// Keys of the container's configuration that wait for the next start.
    pub pending_restart: Vec<String>,
    /// How the container was configured when it was adopted; shown with the single app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted_configuration: Option<AdoptedView>,
}

/// A container's configuration as it was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AdoptedView {
    /// On which node.
    pub node: String,
    /// RFC 3339.
    pub at: String,
    /// The text of its file, values of environment variables left out.
    pub text: String,
}

/// The scheme of the main port, by its name in the catalog.
fn scheme(ports: &BTreeMap<String, u16>, main: u16) -> &'static str {
    let name = ports
        .iter()
        .find(|(_, port)| **port == main)
        .map_or("", |(name, _)| name.as_str());
    match name {
        "https" => "https",
        "postgres" | "postgresql" => "postgresql",
        "mysql" | "mariadb" => "mysql",
        "redis" => "redis",
        "mongodb" => "mongodb",
        "ssh" => "ssh",
        "tcp" => "tcp",
        _ => "http",
    }
}

impl AppView {
    pub(super) fn new(listed: &ListedApp, figures: Option<ContainerFigures>) -> Self {
        let app = &listed.app;
        let scheme = scheme(&app.ports, app.internal_port);
        let url = match (app.published, app.public_port) {
            (Some(address), Some(port)) => Some(format!("{scheme}://{address}:{port}")),
            _ => None,
        };
        let direct_url = app
            .ip_address
            .filter(|_| app.vmid_confirmed)
            .map(|address| format!("{scheme}://{address}:{}", app.internal_port));
        Self {
            id: app.id.to_string(),
            catalog_id: app.catalog_id.clone(),
            name: app.name.clone(),
            hostname: app.hostname.clone(),
            description: app.description.clone(),
            labels: app.labels.clone(),
            status: app.status,
            status_reason: app.status_reason.clone(),
            iframe_url: url.clone().filter(|_| scheme.starts_with("http")),
            url,
            direct_url,
            public_port: app.public_port,
            internal_port: app.internal_port,
            lxc_id: app.vmid.filter(|_| app.vmid_confirmed),
            node: listed.node_name.clone(),
            host_id: app.host_id,
            owner: listed.owner_name.clone(),
            created_at: rfc3339(app.created_at),
            updated_at: rfc3339(app.updated_at),
            state_changed_at: rfc3339(app.state_changed_at),
            config: app.config.clone(),
            environment: app.environment.clone(),
            ports: app.ports.clone(),
            volumes: app.volumes.clone(),
            ip_address: app.ip_address,
            cpu_usage: figures.as_ref().map(|f| f64::from(f.cpu_ppm) / 10_000.0),
            memory_used: figures.as_ref().map(|f| f.memory_used_bytes),
            memory_total: figures.as_ref().map(|f| f.memory_total_bytes),
            disk_used: figures.as_ref().and_then(|f| f.disk_used_bytes),
            disk_total: figures.as_ref().and_then(|f| f.disk_total_bytes),
            operation_id: listed.operation_id.clone(),
            placement: app.placement.clone(),
            adopted: app.adopted,
            pending_restart: app.pending_restart.clone(),
            adopted_configuration: None,
        }
    }
}

/// A page of apps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AppPage {
    /// The page.
    pub apps: Vec<AppView>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}

/// A line of the deployment log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogLine {
    /// Grows.
    pub id: i64,
    /// RFC 3339.
    pub timestamp: String,
    /// `info`, `warning`, `error`.
    pub level: String,
    /// The step's name.
    pub step: String,
    /// One line.
    pub message: String,
    /// During which operation.
    pub operation_id: Option<String>,
}

impl From<LogRow> for LogLine {
    fn from(row: LogRow) -> Self {
        Self {
            id: row.id,
            timestamp: rfc3339(row.at),
            level: row.level,
            step: row.step,
            message: row.message,
            operation_id: row.operation_id,
        }
    }
}

/// A page of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LogPage {
    /// The page, newest first.
    pub logs: Vec<LogLine>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}

/// What would be done (`?dry_run=true`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// On which node.
    pub node: String,
    /// What, in order.
    pub steps: Vec<PlanStep>,
    /// Which ports would lead there.
    pub ports: Vec<PlanPort>,
    /// What would be lost.
    pub loses: Vec<String>,
    /// Why this node; null where it is not chosen.
    pub placement: Option<Value>,
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanStep {
    /// One word.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
}

/// A published port of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanPort {
    /// The node's.
    pub public_port: Option<u16>,
    /// The container's.
    pub internal_port: u16,
}

pub(crate) fn plan_steps(kind: &Kind) -> Vec<PlanStep> {
    kind.steps
        .iter()
        .map(|s| PlanStep {
            name: s.name,
            title: s.title,
        })
        .collect()
}
