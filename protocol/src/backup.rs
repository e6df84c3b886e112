//! Backups and what is made of them: how an archive is made, looked at, brought back, and removed.

use crate::{
    command::Target,
    ids::{AppId, ArchiveId, BridgeName, Hostname, Owner, StorageId, Vmid},
    spec::{NetworkSpec, OutOfBounds, Settings, within},
};
use serde::{Deserialize, Serialize};

/// How the container is kept still while it is copied (`vzdump --mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupMode {
    /// It goes on; a snapshot of its volumes is copied.
    Snapshot,
    /// It goes on while most is copied, and is frozen for the rest.
    Suspend,
    /// It is shut down, copied, and started again.
    Stop,
}

impl BackupMode {
    /// As `vzdump` takes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackupMode::Snapshot => "snapshot",
            BackupMode::Suspend => "suspend",
            BackupMode::Stop => "stop",
        }
    }
}

/// How an archive is compressed (`vzdump --compress`). A Proxmox Backup Server compresses as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// `.tar.zst`.
    Zstd,
    /// `.tar.gz`.
    Gzip,
    /// `.tar.lzo`.
    Lzo,
}

impl Compression {
    /// As `vzdump` takes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Compression::Zstd => "zstd",
            Compression::Gzip => "gzip",
            Compression::Lzo => "lzo",
        }
    }
}

/// Whether volumes of containers on a storage of this kind can be copied through a snapshot while the container runs. btrfs has snapshots, but `vzdump` and
/// `pct clone` cannot mount them (`cannot mount subvol snapshots for storage type 'btrfs'`); raw images in a folder have none.
pub fn copies_through_snapshots(storage_kind: &str) -> bool {
    matches!(storage_kind, "lvmthin" | "zfspool" | "rbd")
}

/// A backup to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSpec {
    /// Of which container.
    pub target: Target,
    /// Where the archive goes.
    pub storage: StorageId,
    /// How; nothing else is fallen back to.
    pub mode: BackupMode,
    /// How small.
    pub compression: Compression,
}

/// An archive of one of our containers: refused unless the node's record of it says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveRef {
    /// The archive.
    pub archive: ArchiveId,
    /// Of which app.
    pub app: AppId,
    /// Of which container it was made; that may be gone.
    pub vmid: Vmid,
}

/// Which archives are to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchivesToDelete {
    /// This one.
    One(ArchiveRef),
    /// Whatever this operation made on the storage, finished or not; a backup of it that still runs is ended.
    OfThisOperation {
        /// Of which container.
        target: Target,
        /// Where.
        storage: StorageId,
    },
}

/// A container to make of an archive, under a number of its own. It does not start with its node, and never starts by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSpec {
    /// The reserved VMID.
    pub vmid: Vmid,
    /// For whom.
    pub owner: Owner,
    /// Of what; perhaps another app's.
    pub archive: ArchiveRef,
    /// Where its volumes go.
    pub storage: StorageId,
    /// Its host name; `None`: as saved.
    pub hostname: Option<Hostname>,
    /// Its network.
    pub network: RestoredNetwork,
    /// Cores and memory; what is not given is as saved.
    pub settings: Settings,
    /// The least that its root volume has, GiB; `None`: as saved.
    pub disk_gb: Option<u32>,
    /// The app's first container was adopted: like that one it can be let go.
    pub of_adopted: bool,
}

impl RestoreSpec {
    /// Checks numbers and addresses; the agent calls it on everything that it receives.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        self.settings.check()?;
        if let Some(disk_gb) = self.disk_gb {
            within("disk_gb", disk_gb.into(), 1, 10_240, "1 to 10240")?;
        }
        match &self.network {
            RestoredNetwork::Replaced(network) => network.check(),
            RestoredNetwork::AsSaved | RestoredNetwork::Of(_) | RestoredNetwork::Cut => Ok(()),
        }
    }
}

/// The network of a container that is made of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoredNetwork {
    /// As saved, with the same Ethernet address.
    AsSaved,
    /// As that container has it now, with the same Ethernet address: only one of both may run.
    Of(Target),
    /// This one in place of the first interface.
    Replaced(NetworkSpec),
    /// None at all.
    Cut,
}

/// What is asked before a backup, a restore or a clone. Only what is asked for is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupQuestion {
    /// How this container can be backed up.
    pub target: Option<Target>,
    /// Whether this storage takes backups now.
    pub storage: Option<StorageId>,
    /// Whether this archive is there, and what it holds.
    pub archive: Option<ArchiveRef>,
    /// Whether a container could be made so.
    pub place: Option<PlaceQuestion>,
}

/// Where a container is to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceQuestion {
    /// The reserved VMID.
    pub vmid: Vmid,
    /// For whom: a record of the same owner does not count as taken.
    pub owner: Owner,
    /// The storage that must take the container.
    pub storage: StorageId,
    /// Its bridge; `None`: those that the archive names.
    pub bridge: Option<BridgeName>,
}

/// The answer to a [`BackupQuestion`]. That a place does not hold is a fault instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// The container; `None` if it was not asked for, or is not there any more.
    pub container: Option<ContainerBackupFacts>,
    /// Why the storage takes no backup now; `None` if it does, or was not asked for.
    pub storage_trouble: Option<String>,
    /// The archive; `None` if it was not asked for, or is not there any more.
    pub archive: Option<ArchiveFacts>,
}

/// How a container can be backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerBackupFacts {
    /// Whether it runs.
    pub running: bool,
    /// Whether it is started with its node.
    pub onboot: bool,
    /// Whether Proxmox's high availability manages it.
    pub ha_managed: bool,
    /// `lock:` of its configuration, or that another backup runs on the node; in words.
    pub waits_for: Option<String>,
    /// Its volumes.
    pub volumes: Vec<VolumeBackupFacts>,
}

/// A volume of a container, and whether backups hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeBackupFacts {
    /// `rootfs`, `mp0`….
    pub key: String,
    /// Where it is mounted.
    pub path: String,
    /// Kind of its storage (`dir`, `lvmthin`…); empty for what is no volume.
    pub storage_kind: String,
    /// Why backups leave it out; `None` if they hold it.
    pub left_out: Option<String>,
}

/// What an archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFacts {
    /// Bytes; `None` where the storage does not tell.
    pub size_bytes: Option<u64>,
    /// Volumes of the container that was backed up.
    pub volumes: Vec<VolumeBackupFacts>,
    /// Why no container can be made of it here; `None` if one can.
    pub refused: Option<String>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMade {
    /// The archive.
    pub archive: ArchiveId,
    /// `tar.zst`, `tar.gz`, `tar.lzo`, `tar`, `pbs-ct`.
    pub format: String,
    /// Bytes; `None` where the storage does not tell.
    pub size_bytes: Option<u64>,
    /// How it was made.
    pub mode: BackupMode,
    /// Volumes of the container, and which of them the archive holds.
    pub volumes: Vec<VolumeBackupFacts>,
    /// How long `vzdump` took, seconds.
    pub duration_s: u64,
    /// What `vzdump` said, the end of it: at most [`BackupMade::LOG_MAX`] bytes.
    pub log: String,
}

impl BackupMade {
    /// The longest `log` that is sent, bytes.
    pub const LOG_MAX: usize = 64 * 1024;
}

/// What a test of an archive showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveTested {
    /// SHA-256 of its file; `None` where there is no file (Proxmox Backup Server).
    pub sha256: Option<[u8; 32]>,
    /// Files, folders and links in it; `None` where there is no file.
    pub entries: Option<u64>,
}
