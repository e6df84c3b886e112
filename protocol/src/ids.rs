//! Identifiers that cannot be wrong: every one is checked when it is parsed and again when it is decoded from the wire.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Why a text or number is not a valid identifier. The message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    /// Which kind of identifier was expected.
    pub what: &'static str,
    /// What was given, cut to 80 characters.
    pub value: String,
    /// What is allowed.
    pub rule: &'static str,
}

fn invalid(what: &'static str, value: &str, rule: &'static str) -> InvalidId {
    InvalidId {
        what,
        value: value.chars().take(80).collect(),
        rule,
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { self.0.fmt(f) }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| invalid(stringify!($name), text, "a UUID"))
            }
        }
    };
}

uuid_id!(
    /// A node's identity, assigned by the coordinator at enrolment and carried in the certificate.
    NodeId
);
uuid_id!(
    /// One operation: a saga of steps on one app.
    OperationId
);
uuid_id!(
    /// The public part of a join token.
    JoinTokenId
);
uuid_id!(
    /// One boot of a machine, from `/proc/sys/kernel/random/boot_id`.
    BootId
);
uuid_id!(
    /// One run of an agent process.
    ProcessId
);

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);
        impl $name {
            /// Parses and checks.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
                let text = text.into();
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(invalid(stringify!($name), &text, $rule)) }
            }
            /// The text as checked.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> { Self::new(text) }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String { id.0 }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> { Self::new(text) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str { &self.0 }
        }
    };
}

fn dns_label(text: &str, min: usize) -> bool {
    let bytes = text.as_bytes();
    (min..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

fn word(text: &str, max: usize, extra: &[u8]) -> bool {
    let bytes = text.as_bytes();
    (1..=max).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || extra.contains(b))
}

text_id!(
    /// An app: `{catalog_id}-{8 hex}`.
    AppId,
    "a catalog id, a dash and 8 hexadecimal digits, e.g. nginx-a1b2c3d4",
    |text| match text.rsplit_once('-') {
        Some((catalog, hex)) =>
            dns_label(catalog, 1)
                && catalog.len() <= 50
                && hex.len() == 8
                && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
        None => false,
    }
);
text_id!(
    /// The host name of an app: one DNS label.
    Hostname,
    "3 to 63 of a-z, 0-9 and '-', neither first nor last a '-'",
    |text| dns_label(text, 3)
);
text_id!(
    /// The name of a Proxmox node (its short host name).
    NodeName,
    "1 to 63 of letters, digits and '-', starting and ending with a letter or digit",
    |text| word(text, 63, b"-") && !text.ends_with('-')
);
text_id!(
    /// A Proxmox storage id (`storage.cfg`).
    StorageId,
    "1 to 100 of letters, digits, '-', '_' and '.', starting with a letter",
    |text| word(text, 100, b"-_.") && text.as_bytes()[0].is_ascii_alphabetic()
);
text_id!(
    /// A network bridge of a node, e.g. `vmbr0` (Linux: at most 15 characters).
    BridgeName,
    "1 to 15 of letters, digits, '-', '_' and '.'",
    |text| word(text, 15, b"-_.")
);
text_id!(
    /// The name of a step, which is also its name in logs and in the unit that runs its tool.
    StepName,
    "1 to 40 of a-z, 0-9 and '_', starting with a letter",
    |text| word(text, 40, b"_")
        && text.as_bytes()[0].is_ascii_lowercase()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
);
text_id!(
    /// The beginning of a template's name, e.g. `debian-12-standard`: index names carry versions that vanish.
    TemplatePrefix,
    "1 to 100 of letters, digits, '-', '_' and '.', starting with a letter or digit",
    |text| word(text, 100, b"-_.") && !text.contains("..")
);
text_id!(
    /// The name of an environment variable that a recipe gets as a file.
    EnvName,
    "1 to 64 of A-Z, 0-9 and '_', not starting with a digit",
    |text| (1..=64).contains(&text.len())
        && !text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
);
text_id!(
    /// An absolute path inside a container, without `.`, `..`, empty parts, or characters that a shell or a configuration line could take as more than a name.
    ContainerPath,
    "an absolute path of letters, digits and '-', '_', '.', at most 255 characters, without '..'",
    |text| text.len() <= 255
        && text.len() > 1
        && text.starts_with('/')
        && text[1..].split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        })
);
text_id!(
    /// A Proxmox volume id, e.g. `local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst`.
    VolumeId,
    "storage:path, at most 255 characters of letters, digits and '-', '_', '.', '/', '+'",
    |text| text.len() <= 255
        && match text.split_once(':') {
            Some((storage, path)) =>
                StorageId::new(storage).is_ok()
                    && !path.is_empty()
                    && !path.contains("..")
                    && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./+".contains(&b)),
            None => false,
        }
);
text_id!(
    /// A Proxmox volume id of a backup, e.g. `local:backup/vzdump-lxc-100-2026_11_22-21_11_12.tar.zst` or, on a Proxmox Backup Server,
    /// `pbs:backup/ct/100/2026-11-22T20:11:12Z`.
    ArchiveId,
    "storage:backup/name, at most 255 characters of letters, digits and '-', '_', '.', '/', '+', ':'",
    |text| text.len() <= 255
        && match text.split_once(':') {
            Some((storage, path)) =>
                StorageId::new(storage).is_ok()
                    && path.strip_prefix("backup/").is_some_and(|name| !name.is_empty())
                    && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
                    && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./+:".contains(&b)),
            None => false,
        }
);
text_id!(
    /// An Ethernet address as Proxmox writes it, e.g. `BC:24:11:85:80:3C`.
    MacAddress,
    "six pairs of upper-case hexadecimal digits joined by ':', unicast",
    |text| text.len() == 17
        && text.bytes().enumerate().all(|(i, b)| if i % 3 == 2 { b == b':' } else { b.is_ascii_digit() || (b'A'..=b'F').contains(&b) })
        && matches!(text.as_bytes()[1], b'0' | b'2' | b'4' | b'6' | b'8' | b'A' | b'C' | b'E')
);

impl ArchiveId {
    /// The storage that it is on.
    pub fn storage(&self) -> StorageId {
        let (storage, _) = self.0.split_once(':').unwrap_or((&self.0, ""));
        StorageId::new(storage).expect("it was checked as a part of the whole")
    }

    /// What comes after `backup/`: the name of its file, where there is one.
    pub fn name(&self) -> &str {
        self.0.split_once(":backup/").map_or("", |(_, name)| name)
    }
}

impl AppId {
    /// Puts an app's id together from its catalog entry and 32 random bits.
    pub fn compose(catalog_id: &str, random: u32) -> Result<Self, InvalidId> {
        Self::new(format!("{catalog_id}-{random:08x}"))
    }
}

/// A Proxmox guest number, 100 to 999 999 999 (`pve-container`, `pve-vmid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vmid(u32);

impl Vmid {
    /// The lowest VMID that Proxmox accepts.
    pub const MIN: u32 = 100;
    /// The highest VMID that Proxmox accepts.
    pub const MAX: u32 = 999_999_999;
    /// Checks the range.
    pub fn new(number: u32) -> Result<Self, InvalidId> {
        if (Self::MIN..=Self::MAX).contains(&number) {
            Ok(Self(number))
        } else {
            Err(invalid("Vmid", &number.to_string(), "a number from 100 to 999999999"))
        }
    }
    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0
    }
}
impl TryFrom<u32> for Vmid {
    type Error = InvalidId;
    fn try_from(number: u32) -> Result<Self, InvalidId> {
        Self::new(number)
    }
}
impl From<Vmid> for u32 {
    fn from(vmid: Vmid) -> u32 {
        vmid.0
    }
}
impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl FromStr for Vmid {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        match (digits, text.parse::<u32>()) {
            (true, Ok(number)) => Self::new(number),
            _ => Err(invalid("Vmid", text, "a number from 100 to 999999999")),
        }
    }
}

/// One run of a coordinator: raised at each start and never lowered. An agent refuses commands of an older one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which container of an app: a restore or an update builds generation n+1 beside n. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);
impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// To which app, and which container of it, a VMID belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The app.
    pub app: AppId,
    /// Which of its containers.
    pub generation: Generation,
}

/// Which act of an operation: its step, forward or undo, and which try. Together with the operation's id it names a job: a repeated command with the
/// same key gets the recorded result and does nothing twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepKey {
    /// The step.
    pub name: StepName,
    /// Whether this takes the step back.
    pub undo: bool,
    /// 1 for the first try; a retry after a recorded fault counts up.
    pub attempt: u32,
}
impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}-{}",
            self.name,
            if self.undo { "_undo" } else { "" },
            self.attempt
        )
    }
}
