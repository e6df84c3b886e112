//! What an operation carries in the registry: what it was asked (a copy, so that a catalog reload in its middle changes nothing) and what its steps hand on.

use crate::domain::{app_state::Status, settings::OperationSettings};
use proximity_protocol::{
    ids::{BridgeName, StorageId, TemplatePrefix, VolumeId},
    spec::RecipeFileName,
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

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

/// Of `start`, `stop`, `restart`, `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionParams {
    /// The status before.
    pub previous: Status,
    /// Bound on the health check, seconds.
    #[serde(default = "default_health_timeout_s")]
    pub health_timeout_s: u32,
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
}
