//! What an operation carries in the registry: what it was asked (a copy, so that a catalog reload in its middle changes nothing) and what its steps hand on.

use crate::domain::{app_state::Status, settings::OperationSettings, side_containers::KeepPrevious};
use proximity_protocol::{
    backup::{BackupMode, Compression},
    command::Target,
    ids::{ArchiveId, BridgeName, MacAddress, NodeId, NodeName, StorageId, TemplatePrefix, Vmid, VolumeId},
    spec::{RecipeFileName, Settings},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, net::Ipv4Addr};

/// Of `deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployParams {
    /// How the app is put into its container.
    pub recipe: DeployRecipe,
    /// Where templates are.
    pub template_storage: StorageId,
    /// Its interface.
    pub network: NetworkParams,
}

/// How a native app is put into its container, copied from its catalog entry. No secrets: those are given to the recipe as files when it is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployRecipe {
    /// The entry's version.
    pub version: String,
    /// The template's name begins so.
    pub template: TemplatePrefix,
    /// Shell script.
    pub install: String,
    /// Shell script.
    pub health: String,
    /// Further files.
    #[serde(default)]
    pub files: Vec<DeployFile>,
    /// How long `install` may tell nothing, seconds.
    pub install_timeout_s: u32,
    /// Bound on the health check, seconds.
    pub health_timeout_s: u32,
    /// Whether containers run inside.
    #[serde(default)]
    pub keyctl: bool,
}

/// A file of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployFile {
    /// Its name.
    pub name: RecipeFileName,
    /// Its bytes, as base64.
    pub content: String,
}

/// The interface of an app's container, besides the address itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkParams {
    /// The bridge.
    pub bridge: BridgeName,
    /// VLAN tag.
    pub vlan: Option<u16>,
    /// DNS servers; empty: the node's.
    pub dns: Vec<Ipv4Addr>,
    /// For a static address; `None`: DHCP.
    pub fixed: Option<FixedParams>,
}

/// What goes with a static address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedParams {
    /// Length of the network's prefix.
    pub prefix: u8,
    /// The way out.
    pub gateway: Option<Ipv4Addr>,
}

/// Of `configure`: what shall be. What it was stands in the app's row until the operation is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigureParams {
    /// The status before.
    pub previous: Status,
    /// Cores, if they change.
    #[serde(default)]
    pub cpu_cores: Option<u32>,
    /// MiB, if it changes.
    #[serde(default)]
    pub memory_mb: Option<u32>,
    /// MiB, if it changes.
    #[serde(default)]
    pub swap_mb: Option<u32>,
    /// GiB of the root volume, if it grows.
    #[serde(default)]
    pub disk_gb: Option<u32>,
    /// The environment, if it changes.
    #[serde(default)]
    pub environment: Option<EnvironmentParams>,
    /// `config` as it stands in answers.
    pub config: Value,
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
}

/// A changed environment. No secrets: new ones lie sealed beside the operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentParams {
    /// All plain values as they shall be.
    pub plain: BTreeMap<String, String>,
    /// Names of the secrets that lie beside the operation.
    pub secrets: Vec<String>,
    /// Names of the app's secrets that go.
    pub forget_secrets: Vec<String>,
    /// Bound on the recipe's script, seconds.
    pub timeout_s: u32,
}

/// Of `migrate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateParams {
    /// The status before.
    pub previous: Status,
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
    /// Where it was when that was decided.
    pub from: NodeId,
    /// Its name.
    pub from_name: NodeName,
    /// Another node of the same cluster.
    pub to: NodeId,
    /// Its name.
    pub to_name: NodeName,
}

/// Of `start`, `stop`, `restart`, `delete`, `forget`, `adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionParams {
    /// The status before.
    pub previous: Status,
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
}

/// Of `backup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupParams {
    /// The backup's row.
    pub backup_id: i64,
    /// Where its archive goes.
    pub storage: StorageId,
    /// How the container is kept still.
    pub mode: BackupMode,
    /// How small it is made.
    pub compression: Compression,
}

/// Of `backup_delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDeleteParams {
    /// The backup's row.
    pub backup_id: i64,
    /// Its archive.
    pub archive: ArchiveId,
    /// Of which container it is.
    pub vmid: Vmid,
}

/// Of `restore` and `verify`. The container that is made stands in `side_containers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreParams {
    /// The status before.
    pub previous: Status,
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
    /// The backup's row.
    pub backup_id: i64,
    /// Its archive.
    pub archive: ArchiveId,
    /// Of which container that is.
    pub archive_vmid: Vmid,
    /// The only node that reaches the archive; `None`: each node of the host does.
    pub archive_node: Option<NodeId>,
    /// What its file has to add up to.
    pub sha256: Option<[u8; 32]>,
    /// Where the new container's volumes go.
    pub storage: StorageId,
    /// Cores and memory as the app has them.
    #[serde(default)]
    pub settings: Settings,
    /// GiB of the root volume as the app has it; `None`: as in the archive.
    #[serde(default)]
    pub disk_gb: Option<u32>,
    /// Whether the app had a container when that was decided.
    pub has_old: bool,
    /// How long that is kept.
    #[serde(default)]
    pub keep: KeepPrevious,
    /// Why it is kept so long, in words.
    #[serde(default)]
    pub keep_note: Option<String>,
}

/// Of `clone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneParams {
    /// The new app's status when it was accepted.
    pub previous: Status,
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
    /// The container that is copied.
    pub source: Target,
    /// Its node.
    pub source_node: NodeId,
    /// Where the copy lies until the clone serves.
    pub copy_storage: StorageId,
    /// How the source is kept still.
    pub mode: BackupMode,
    /// How small the copy is made.
    pub compression: Compression,
    /// The new container's interface.
    pub network: NetworkParams,
}

/// Of `discard`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardParams {
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
    /// The status before, which stays.
    pub previous: Status,
    /// Which container.
    pub vmid: Vmid,
    /// Whether the app has to be healthy first.
    pub checks_health: bool,
}

/// Where the catalog entry does not say.
pub const DEFAULT_HEALTH_TIMEOUT_S: u32 = 120;

fn default_health_timeout_s() -> u32 {
    DEFAULT_HEALTH_TIMEOUT_S
}

/// How long steps may take, as the settings were when the operation was accepted: a command that is sent again must ask the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// For an address to appear, seconds.
    pub network_s: u32,
    /// For an app to shut down before it is stopped, seconds.
    pub shutdown_s: u32,
}

impl Timeouts {
    /// By these settings.
    pub fn of(settings: &OperationSettings) -> Self {
        Self {
            network_s: settings.network_timeout_s,
            shutdown_s: settings.shutdown_timeout_s,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::of(&OperationSettings::default())
    }
}

/// What steps hand to later ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// How long steps may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Found by `template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<VolumeId>,
    /// How often another VMID, port or address was chosen.
    #[serde(default)]
    pub choices: u32,
    /// What was found on a node in the place of what is the app's, and so was left there; in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// Whether the container ran when the operation first looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_running: Option<bool>,
    /// Whether its port led to it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_published: Option<bool>,
    /// Made by `back_up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveId>,
    /// Whether the container started with its node when the operation first looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was_onboot: Option<bool>,
    /// Whether there was no container any more when the operation first looked.
    #[serde(default)]
    pub old_is_gone: bool,
    /// Of the container that the operation makes beside the app's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_mac: Option<MacAddress>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_address: Option<Ipv4Addr>,
    /// Where the port that leads to it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_published: Option<Ipv4Addr>,
}
