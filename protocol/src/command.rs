//! The typed verbs that an agent knows, and its answers. There is no verb that runs a command line.

use crate::{
    backup::{
        ArchiveRef, ArchiveTested, ArchivesToDelete, BackupFacts, BackupMade, BackupQuestion, BackupSpec, RestoreSpec,
    },
    examined::{Adopted, Examination},
    fault::Fault,
    ids::{
        AppId, BridgeName, Epoch, MacAddress, NodeName, OperationId, Owner, StepKey, StorageId, TemplatePrefix, Vmid,
        VolumeId,
    },
    observed::{Inventory, RecordObserved},
    spec::{ContainerSpec, Recipe, Settings, Values},
};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// One act that the coordinator asks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The operation that it belongs to.
    pub operation: OperationId,
    /// Which act of it. (operation, step) names the job.
    pub step: StepKey,
    /// The coordinator's run. Older than the newest that the agent has seen: refused.
    pub epoch: Epoch,
    /// What to do.
    pub verb: Verb,
}

/// What an agent can do. `Ensure…` succeeds if it is so already. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Tells what is on the node. Reads only; not journaled.
    Inventory,
    /// Tells whether reservations hold on the node. Reads only; not journaled.
    Confirm(Confirm),
    /// A template with the prefix is on the storage; downloads the newest if there is none.
    EnsureTemplate {
        /// Where.
        storage: StorageId,
        /// Which.
        prefix: TemplatePrefix,
    },
    /// The container exists and is owned by the app's generation.
    EnsureCreated(ContainerSpec),
    /// It runs.
    EnsureStarted(Target),
    /// It does not run: a shutdown, and after `timeout_s` a stop.
    EnsureStopped {
        /// Which container.
        target: Target,
        /// Time to shut down, seconds, 0 to 600. 0 stops at once.
        timeout_s: u32,
    },
    /// It has its address and the way out is up. Answers the address.
    AwaitNetwork {
        /// Which container.
        target: Target,
        /// The reserved address; `None` takes what DHCP gave.
        expect: Option<Ipv4Addr>,
        /// Bound, seconds, 1 to 600.
        timeout_s: u32,
    },
    /// The recipe's files are inside and `install` has succeeded.
    InstallRecipe {
        /// Which container.
        target: Target,
        /// What.
        recipe: Recipe,
    },
    /// The recipe's `health` has succeeded.
    AwaitHealthy {
        /// Which container.
        target: Target,
        /// Bound, seconds, 1 to 3600.
        timeout_s: u32,
    },
    /// The node's port leads to the container, and answers there.
    EnsurePublished {
        /// Which container.
        target: Target,
        /// The node's port.
        public_port: u16,
        /// The container's address.
        address: Ipv4Addr,
        /// The container's port.
        port: u16,
    },
    /// The port leads to this container no more.
    EnsureUnpublished {
        /// Which container.
        target: Target,
        /// The node's port.
        public_port: u16,
    },
    /// The container, its volumes and its ownership record are gone. Refused for what is not ours.
    EnsureDestroyed(Target),
    /// Tells every ownership record that the node sees, in a cluster those of all its nodes. Reads only; not journaled.
    Records,
    /// Tells more of containers than an inventory does. Reads only; not journaled.
    Examine {
        /// Only this one; `None` means every container of the node.
        only: Option<Vmid>,
    },
    /// The container, which somebody else made, is recorded as the app's. Refused unless the node's own policy allows it. Nothing of the container itself
    /// is changed.
    EnsureAdopted(Target),
    /// The adopted container is nobody's again: its ports are closed and its record is removed. Nothing of the container itself is changed.
    EnsureReleased(Target),
    /// Cores and memory are as given, now or after the next start. Refused for adopted containers.
    EnsureConfigured {
        /// Which container.
        target: Target,
        /// What.
        settings: Settings,
    },
    /// The root volume is at least that large. It is never made smaller. Refused for adopted containers.
    EnsureGrown {
        /// Which container.
        target: Target,
        /// GiB, 1 to 10 240.
        disk_gb: u32,
    },
    /// The recipe's values inside the container are these, and its script for changed values has succeeded. Refused for adopted containers.
    RewriteValues {
        /// Which container.
        target: Target,
        /// What.
        values: Values,
    },
    /// The container is on that node of its cluster. It is moved only while it does not run. Refused for adopted containers and for those that HA manages.
    EnsureMigrated {
        /// Which container.
        target: Target,
        /// The node.
        to: NodeName,
    },
    /// Tells how backups, restores and clones would go. Reads only; not journaled.
    BackupFacts(BackupQuestion),
    /// There is an archive of the container that this operation made.
    EnsureBackedUp(BackupSpec),
    /// The archive can be read from its beginning to its end.
    TestArchive {
        /// Which.
        archive: ArchiveRef,
        /// What its file has to add up to; `None`: not known yet.
        sha256: Option<[u8; 32]>,
    },
    /// The archives, and what belongs to them, are gone.
    EnsureArchivesDeleted(ArchivesToDelete),
    /// There is a container that was made of the archive.
    EnsureRestored(RestoreSpec),
    /// The container starts with its node, or does not. The only key of an adopted one that is ever written.
    EnsureOnboot {
        /// The container.
        target: Target,
        /// Whether it does.
        onboot: bool,
    },
    /// The container answers, and the files of a system are in it.
    CheckFiles {
        /// The container.
        target: Target,
        /// Bound, seconds.
        timeout_s: u32,
    },
}

/// A container that a verb acts on: refused unless the node's ownership record says the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The container.
    pub vmid: Vmid,
    /// Whose it must be.
    pub owner: Owner,
}

/// Reservations to confirm on the node before anything is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirm {
    /// For whom: a record of the same owner does not count as taken.
    pub owner: Owner,
    /// The VMID.
    pub vmid: Vmid,
    /// The node's port.
    pub public_port: u16,
    /// The static address, probed by ARP on the bridge.
    pub address: Option<Ipv4Addr>,
    /// The bridge for the address.
    pub bridge: BridgeName,
    /// The storage that must take the container.
    pub storage: StorageId,
}

impl Verb {
    /// The word of each verb, as [`Verb::name`] gives it.
    pub const NAMES: [&str; 27] = [
        "inventory",
        "confirm",
        "ensure_template",
        "ensure_created",
        "ensure_started",
        "ensure_stopped",
        "await_network",
        "install_recipe",
        "await_healthy",
        "ensure_published",
        "ensure_unpublished",
        "ensure_destroyed",
        "records",
        "examine",
        "ensure_adopted",
        "ensure_released",
        "ensure_configured",
        "ensure_grown",
        "rewrite_values",
        "ensure_migrated",
        "backup_facts",
        "ensure_backed_up",
        "test_archive",
        "ensure_archives_deleted",
        "ensure_restored",
        "ensure_onboot",
        "check_files",
    ];

    /// One word for logs, policy file and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Inventory => "inventory",
            Verb::Confirm(_) => "confirm",
            Verb::EnsureTemplate { .. } => "ensure_template",
            Verb::EnsureCreated(_) => "ensure_created",
            Verb::EnsureStarted(_) => "ensure_started",
            Verb::EnsureStopped { .. } => "ensure_stopped",
            Verb::AwaitNetwork { .. } => "await_network",
            Verb::InstallRecipe { .. } => "install_recipe",
            Verb::AwaitHealthy { .. } => "await_healthy",
            Verb::EnsurePublished { .. } => "ensure_published",
            Verb::EnsureUnpublished { .. } => "ensure_unpublished",
            Verb::EnsureDestroyed(_) => "ensure_destroyed",
            Verb::Records => "records",
            Verb::Examine { .. } => "examine",
            Verb::EnsureAdopted(_) => "ensure_adopted",
            Verb::EnsureReleased(_) => "ensure_released",
            Verb::EnsureConfigured { .. } => "ensure_configured",
            Verb::EnsureGrown { .. } => "ensure_grown",
            Verb::RewriteValues { .. } => "rewrite_values",
            Verb::EnsureMigrated { .. } => "ensure_migrated",
            Verb::BackupFacts(_) => "backup_facts",
            Verb::EnsureBackedUp(_) => "ensure_backed_up",
            Verb::TestArchive { .. } => "test_archive",
            Verb::EnsureArchivesDeleted(_) => "ensure_archives_deleted",
            Verb::EnsureRestored(_) => "ensure_restored",
            Verb::EnsureOnboot { .. } => "ensure_onboot",
            Verb::CheckFiles { .. } => "check_files",
        }
    }

    /// Whether it only looks: such a command is neither journaled nor refused for want of quorum.
    pub fn reads_only(&self) -> bool {
        matches!(
            self,
            Verb::Inventory | Verb::Confirm(_) | Verb::Records | Verb::Examine { .. } | Verb::BackupFacts(_)
        )
    }

    /// The container that it acts on, if it acts on one.
    pub fn vmid(&self) -> Option<Vmid> {
        match self {
            Verb::Inventory | Verb::Records | Verb::EnsureTemplate { .. } => None,
            Verb::Examine { only } => *only,
            Verb::Confirm(confirm) => Some(confirm.vmid),
            Verb::EnsureCreated(spec) => Some(spec.vmid),
            Verb::EnsureStarted(target)
            | Verb::EnsureDestroyed(target)
            | Verb::EnsureAdopted(target)
            | Verb::EnsureReleased(target) => Some(target.vmid),
            Verb::EnsureStopped { target, .. }
            | Verb::AwaitNetwork { target, .. }
            | Verb::InstallRecipe { target, .. }
            | Verb::AwaitHealthy { target, .. }
            | Verb::EnsurePublished { target, .. }
            | Verb::EnsureUnpublished { target, .. }
            | Verb::EnsureConfigured { target, .. }
            | Verb::EnsureGrown { target, .. }
            | Verb::RewriteValues { target, .. }
            | Verb::EnsureMigrated { target, .. }
            | Verb::EnsureOnboot { target, .. }
            | Verb::CheckFiles { target, .. } => Some(target.vmid),
            Verb::EnsureRestored(spec) => Some(spec.vmid),
            Verb::BackupFacts(question) => question.target.as_ref().map(|target| target.vmid),
            Verb::EnsureBackedUp(spec) => Some(spec.target.vmid),
            Verb::TestArchive { archive, .. } | Verb::EnsureArchivesDeleted(ArchivesToDelete::One(archive)) => {
                Some(archive.vmid)
            }
            Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation { target, .. }) => Some(target.vmid),
        }
    }

    /// The app that it is for, if it is for one.
    pub fn app(&self) -> Option<&AppId> {
        match self {
            Verb::Inventory | Verb::Records | Verb::Examine { .. } | Verb::EnsureTemplate { .. } => None,
            Verb::Confirm(confirm) => Some(&confirm.owner.app),
            Verb::EnsureCreated(spec) => Some(&spec.owner.app),
            Verb::EnsureStarted(target)
            | Verb::EnsureDestroyed(target)
            | Verb::EnsureAdopted(target)
            | Verb::EnsureReleased(target) => Some(&target.owner.app),
            Verb::EnsureStopped { target, .. }
            | Verb::AwaitNetwork { target, .. }
            | Verb::InstallRecipe { target, .. }
            | Verb::AwaitHealthy { target, .. }
            | Verb::EnsurePublished { target, .. }
            | Verb::EnsureUnpublished { target, .. }
            | Verb::EnsureConfigured { target, .. }
            | Verb::EnsureGrown { target, .. }
            | Verb::RewriteValues { target, .. }
            | Verb::EnsureMigrated { target, .. }
            | Verb::EnsureOnboot { target, .. }
            | Verb::CheckFiles { target, .. } => Some(&target.owner.app),
            Verb::EnsureRestored(spec) => Some(&spec.owner.app),
            Verb::BackupFacts(question) => question.target.as_ref().map(|target| &target.owner.app),
            Verb::EnsureBackedUp(spec) => Some(&spec.target.owner.app),
            Verb::TestArchive { archive, .. } | Verb::EnsureArchivesDeleted(ArchivesToDelete::One(archive)) => {
                Some(&archive.app)
            }
            Verb::EnsureArchivesDeleted(ArchivesToDelete::OfThisOperation { target, .. }) => Some(&target.owner.app),
        }
    }
}

/// What an act brought. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, or it was so already; nothing more to tell.
    Done,
    /// Of `Inventory`.
    Inventory(Box<Inventory>),
    /// Of `Confirm`: all reservations hold. (Otherwise a fault says which does not.)
    Confirmed,
    /// Of `EnsureTemplate`.
    Template {
        /// The template that was found or downloaded.
        volume: VolumeId,
    },
    /// Of `EnsureCreated`.
    Created {
        /// The interface's address, to be kept over a restore.
        mac: Option<MacAddress>,
    },
    /// Of `AwaitNetwork`.
    Network {
        /// What the container has.
        address: Ipv4Addr,
    },
    /// Of `EnsurePublished`.
    Published {
        /// The node's address at which the port answers.
        address: Ipv4Addr,
    },
    /// Of `Records`: all of them. (Otherwise a fault says which cannot be read.)
    Records(Vec<RecordObserved>),
    /// Of `Examine`.
    Examined(Box<Examination>),
    /// Of `EnsureAdopted`.
    Adopted(Box<Adopted>),
    /// Of `EnsureConfigured`.
    Configured {
        /// Keys of the configuration that wait for the container's next start.
        pending: Vec<String>,
    },
    /// Of `EnsureGrown`.
    Grown {
        /// What the root volume has, GiB, rounded down.
        disk_gb: u32,
    },
    /// Of `BackupFacts`.
    BackupFacts(Box<BackupFacts>),
    /// Of `EnsureBackedUp`.
    BackedUp(Box<BackupMade>),
    /// Of `TestArchive`.
    Tested(ArchiveTested),
}

/// What an agent sends on a command's stream. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The intention is in the journal (fsync): the act will be tried even if the stream is lost.
    Accepted,
    /// How far it is.
    Progress(Progress),
    /// The result, recorded before it is sent.
    Finished(Result<Outcome, Fault>),
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// One line for operators, at most 500 characters, no secrets.
    pub message: String,
    /// 0 to 100 where it is known.
    pub percent: Option<u8>,
}
