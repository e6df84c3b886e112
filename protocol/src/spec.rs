//! What the coordinator wants: typed so that what is forbidden cannot be said. There is no field for a privileged container, a bind mount, a device, a
//! hook script or a raw `lxc.*` line.

use crate::{
    ids::{BridgeName, ContainerPath, EnvName, Hostname, MacAddress, Owner, StorageId, Vmid, VolumeId},
    secret::SecretText,
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// A container to make. Always unprivileged, started at boot, tagged and owned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The reserved VMID.
    pub vmid: Vmid,
    /// To which app it belongs.
    pub owner: Owner,
    /// The host name inside.
    pub hostname: Hostname,
    /// The template, as `ensure_template` answered.
    pub template: VolumeId,
    /// Where the root volume goes.
    pub storage: StorageId,
    /// Size of the root volume, GiB, 1 to 10 240.
    pub disk_gb: u32,
    /// CPU cores, 1 to 128.
    pub cpu_cores: u32,
    /// Memory, MiB, 16 to 4 194 304.
    pub memory_mb: u32,
    /// Swap, MiB, 0 to 1 048 576.
    pub swap_mb: u32,
    /// The one network interface.
    pub network: NetworkSpec,
    /// Mount points with a volume of their own, in backups; at most 8.
    pub volumes: Vec<VolumeSpec>,
    /// Allow nested containers (Docker inside): `features nesting=1,keyctl=1`. Otherwise only `nesting=1`, which systemd of an unprivileged container needs.
    pub keyctl: bool,
}

/// `eth0` of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// The bridge on the node.
    pub bridge: BridgeName,
    /// VLAN tag, 1 to 4094.
    pub vlan: Option<u16>,
    /// How it gets its address.
    pub address: AddressSpec,
    /// DNS servers; empty means those of the node.
    pub dns: Vec<Ipv4Addr>,
    /// Kept over a restore; `None` lets Proxmox draw one.
    pub mac: Option<MacAddress>,
}

/// How a container gets its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressSpec {
    /// By DHCP.
    Dhcp,
    /// Reserved by the coordinator.
    Static {
        /// The address.
        address: Ipv4Addr,
        /// Length of the network prefix, 1 to 30.
        prefix: u8,
        /// The way out.
        gateway: Option<Ipv4Addr>,
    },
}

/// A volume of its own inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Where it is mounted.
    pub path: ContainerPath,
    /// Size, GiB, 1 to 10 240.
    pub size_gb: u32,
}

/// How a native app is put into its container. Pushed as files of mode 0600 below [`RECIPE_DIR`]; nothing is interpolated into a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Shell script `install`: may be repeated after a crash.
    pub install: String,
    /// Shell script `health`: ends with zero only if the app works.
    pub health: String,
    /// Further files, below `files/` of the recipe's folder.
    pub files: Vec<RecipeFile>,
    /// One file `env/NAME` for each.
    pub env: Vec<(EnvName, SecretText)>,
    /// The port on which the app listens inside; file `port`.
    pub port: u16,
    /// How long `install` may tell nothing, seconds.
    pub install_timeout_s: u32,
}

/// A file of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeFile {
    /// Name below `files/`, one component.
    pub name: RecipeFileName,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// The folder inside a container that holds its recipe.
pub const RECIPE_DIR: &str = "/var/lib/proximity/recipe";
/// The file of a recipe that, if there is one of this name, is run instead of `install` when only values have changed.
pub const CONFIGURE_FILE: &str = "configure";

/// Settings of a container that can be changed while it exists. `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// CPU cores, 1 to 128.
    pub cpu_cores: Option<u32>,
    /// Memory, MiB, 16 to 4 194 304.
    pub memory_mb: Option<u32>,
    /// Swap, MiB, 0 to 1 048 576.
    pub swap_mb: Option<u32>,
}

/// New values of a recipe's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// One file `env/NAME` for each.
    pub env: Vec<(EnvName, SecretText)>,
    /// Files `env/NAME` that go.
    pub forget: Vec<EnvName>,
    /// Bound on the script, seconds, 1 to 7200.
    pub timeout_s: u32,
}

/// One path component of letters, digits, `-`, `_`, `.`; not starting with a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecipeFileName(String);
impl RecipeFileName {
    /// The text as checked.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl TryFrom<String> for RecipeFileName {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let fits = (1..=100).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if fits {
            Ok(Self(text))
        } else {
            Err("a recipe's file name is 1 to 100 of letters, digits, '-', '_', '.', not starting with '.'".into())
        }
    }
}
impl From<RecipeFileName> for String {
    fn from(name: RecipeFileName) -> String {
        name.0
    }
}

/// Why a spec is refused although each field is well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, allowed is {rule}")]
pub struct OutOfBounds {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub rule: &'static str,
}

pub(crate) fn within(
    field: &'static str,
    value: u64,
    min: u64,
    max: u64,
    rule: &'static str,
) -> Result<(), OutOfBounds> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(OutOfBounds {
            field,
            value: value.to_string(),
            rule,
        })
    }
}

impl ContainerSpec {
    /// Checks numbers and sizes; the agent calls it on everything that it receives.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        within("disk_gb", self.disk_gb.into(), 1, 10_240, "1 to 10240")?;
        within("cpu_cores", self.cpu_cores.into(), 1, 128, "1 to 128")?;
        within("memory_mb", self.memory_mb.into(), 16, 4_194_304, "16 to 4194304")?;
        within("swap_mb", self.swap_mb.into(), 0, 1_048_576, "0 to 1048576")?;
        within("volumes", self.volumes.len() as u64, 0, 8, "at most 8")?;
        for volume in &self.volumes {
            within("volumes.size_gb", volume.size_gb.into(), 1, 10_240, "1 to 10240")?;
        }
        let mut paths: Vec<&str> = self.volumes.iter().map(|v| v.path.as_str()).collect();
        paths.sort_unstable();
        if let Some(pair) = paths.windows(2).find(|p| p[0] == p[1]) {
            return Err(OutOfBounds {
                field: "volumes.path",
                value: pair[0].into(),
                rule: "each path once",
            });
        }
        self.network.check()
    }
}

impl NetworkSpec {
    /// Checks numbers and addresses; the agent calls it on everything that it receives.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        within("network.dns", self.dns.len() as u64, 0, 3, "at most 3")?;
        if let Some(vlan) = self.vlan {
            within("network.vlan", vlan.into(), 1, 4094, "1 to 4094")?;
        }
        if let AddressSpec::Static {
            address,
            prefix,
            gateway,
        } = &self.address
        {
            within("network.prefix", (*prefix).into(), 1, 30, "1 to 30")?;
            let mask = u32::MAX << (32 - u32::from(*prefix));
            let bits = u32::from(*address);
            if bits & !mask == 0 || bits & !mask == !mask || address.is_multicast() || address.is_unspecified() {
                return Err(OutOfBounds {
                    field: "network.address",
                    value: address.to_string(),
                    rule: "a host address of its network",
                });
            }
            if let Some(gateway) = gateway
                && (u32::from(*gateway) & mask != bits & mask || gateway == address)
            {
                return Err(OutOfBounds {
                    field: "network.gateway",
                    value: gateway.to_string(),
                    rule: "another address of the same network",
                });
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Checks numbers; the agent calls it on everything that it receives.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        for (field, value, min, max, rule) in [
            ("cpu_cores", self.cpu_cores, 1, 128, "1 to 128"),
            ("memory_mb", self.memory_mb, 16, 4_194_304, "16 to 4194304"),
            ("swap_mb", self.swap_mb, 0, 1_048_576, "0 to 1048576"),
        ] {
            if let Some(value) = value {
                within(field, value.into(), min, max, rule)?;
            }
        }
        Ok(())
    }
}

impl Values {
    /// Checks sizes; the agent calls it on everything that it receives.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let size: usize = self.env.iter().map(|(_, value)| value.expose().len()).sum();
        within(
            "values",
            size as u64,
            0,
            Recipe::SIZE_MAX as u64,
            "at most 768 KiB in all",
        )?;
        within("values.env", self.env.len() as u64, 0, 100, "at most 100")?;
        within("values.forget", self.forget.len() as u64, 0, 100, "at most 100")?;
        within("values.timeout_s", self.timeout_s.into(), 1, 7_200, "1 to 7200")
    }
}

impl Recipe {
    /// Scripts, values and files together, in bytes, so that a command fits its frame.
    pub const SIZE_MAX: usize = 768 * 1024;

    /// Checks sizes; the agent calls it on everything that it receives.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let size = self.install.len()
            + self.health.len()
            + self.files.iter().map(|f| f.content.len()).sum::<usize>()
            + self.env.iter().map(|(_, value)| value.expose().len()).sum::<usize>();
        within(
            "recipe size",
            size as u64,
            1,
            Self::SIZE_MAX as u64,
            "at most 768 KiB in all",
        )?;
        within("recipe files", self.files.len() as u64, 0, 64, "at most 64")?;
        within("recipe env", self.env.len() as u64, 0, 100, "at most 100")?;
        within("recipe port", self.port.into(), 1, 65_535, "1 to 65535")?;
        within(
            "install_timeout_s",
            self.install_timeout_s.into(),
            1,
            7_200,
            "1 to 7200",
        )
    }
}
