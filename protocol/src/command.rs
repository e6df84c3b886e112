//! The typed verbs that an agent knows, and its answers. There is no verb that runs a command line.

use crate::{
    fault::Fault,
    ids::{
        AppId, BridgeName, Epoch, MacAddress, OperationId, Owner, StepKey, StorageId, TemplatePrefix, Vmid, VolumeId,
    },
    observed::{Inventory, RecordObserved},
    spec::{ContainerSpec, Recipe},
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
    pub const NAMES: [&str; 13] = [
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
        }
    }

    /// Whether it only looks: such a command is neither journaled nor refused for want of quorum.
    pub fn reads_only(&self) -> bool {
        matches!(self, Verb::Inventory | Verb::Confirm(_) | Verb::Records)
    }

    /// The container that it acts on, if it acts on one.
    pub fn vmid(&self) -> Option<Vmid> {
        match self {
            Verb::Inventory | Verb::Records | Verb::EnsureTemplate { .. } => None,
            Verb::Confirm(confirm) => Some(confirm.vmid),
            Verb::EnsureCreated(spec) => Some(spec.vmid),
            Verb::EnsureStarted(target) | Verb::EnsureDestroyed(target) => Some(target.vmid),
            Verb::EnsureStopped { target, .. }
            | Verb::AwaitNetwork { target, .. }
            | Verb::InstallRecipe { target, .. }
            | Verb::AwaitHealthy { target, .. }
            | Verb::EnsurePublished { target, .. }
            | Verb::EnsureUnpublished { target, .. } => Some(target.vmid),
        }
    }

    /// The app that it is for, if it is for one.
    pub fn app(&self) -> Option<&AppId> {
        match self {
            Verb::Inventory | Verb::Records | Verb::EnsureTemplate { .. } => None,
            Verb::Confirm(confirm) => Some(&confirm.owner.app),
            Verb::EnsureCreated(spec) => Some(&spec.owner.app),
            Verb::EnsureStarted(target) | Verb::EnsureDestroyed(target) => Some(&target.owner.app),
            Verb::EnsureStopped { target, .. }
            | Verb::AwaitNetwork { target, .. }
            | Verb::InstallRecipe { target, .. }
            | Verb::AwaitHealthy { target, .. }
            | Verb::EnsurePublished { target, .. }
            | Verb::EnsureUnpublished { target, .. } => Some(&target.owner.app),
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
