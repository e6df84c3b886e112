//! What a kind of operation is made of: a table of steps. Steps decide, purely, what to send and what a result changes; the engine carries both out.

use super::params::{ConfigureParams, Data};
pub use super::seats::Load;
use crate::{
    domain::app_state::Status,
    store::{apps::AppRow, operations::OperationRow, reservations::Choice, side_containers::SideRow},
};
use proximity_protocol::{
    backup::{ArchiveTested, BackupMade},
    command::{Outcome, Target, Verb},
    fault::{Fault, FaultKind},
    ids::{ArchiveId, EnvName, MacAddress, NodeId, Vmid, VolumeId},
    secret::SecretText,
};
use std::net::Ipv4Addr;

/// A kind of operation. Its steps are taken in order; when one fails for good, those that were ever begun are taken back in reverse.
pub struct Kind {
    /// One word, as stored and shown.
    pub name: &'static str,
    /// The steps in order.
    pub steps: &'static [Step],
    /// It is never taken back: it is tried again until it ends, or is stuck.
    pub forward_only: bool,
    /// It works beside the app, which goes on: one that is stuck does not make the app's status `error`; the registry then says what `undone` says.
    pub beside_app: bool,
    /// What the registry says when it has ended as asked.
    pub done: fn(&View<'_>) -> Vec<Change>,
    /// What the registry says when it was taken back; the text says why.
    pub undone: fn(&View<'_>, &str) -> Vec<Change>,
    /// What an operator does when the engine gave up.
    pub advice: fn(&View<'_>) -> String,
}

/// One step: a command to a node, what its result changes, and how it is taken back.
pub struct Step {
    /// Name on the wire, in logs and in the registry.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    /// What to send.
    pub act: fn(&View<'_>) -> Result<Act, Fault>,
    /// What success changes in the registry.
    pub settle: fn(&View<'_>, &Outcome) -> Result<Vec<Change>, Fault>,
    /// Faults that mean that there is nothing left to do.
    pub already: &'static [FaultKind],
    /// Faults after which another VMID, port or address is reserved, confirmed, and this step begun anew.
    pub chooses: &'static [FaultKind],
    /// Faults after which it is not tried again, although others of their kind are.
    pub ends: &'static [FaultKind],
    /// Whether the recipe's environment has to be opened for it.
    pub secrets: bool,
    /// How its command loads the node; its undo always counts as a load.
    pub load: Load,
    /// It is taken again after each success, until it finds nothing left to do.
    pub repeats: bool,
    /// How it is taken back; `None`: there is nothing to take back, or an earlier step's undo does.
    pub undo: Option<Undo>,
}

impl Step {
    /// A step that changes nothing in the registry, has no undo, and needs no secrets.
    pub(crate) const fn plain(
        name: &'static str,
        title: &'static str,
        act: fn(&View<'_>) -> Result<Act, Fault>,
    ) -> Self {
        Self {
            name,
            title,
            act,
            settle: |_, _| Ok(Vec::new()),
            already: &[],
            chooses: &[],
            ends: &[],
            secrets: false,
            load: Load::Node,
            repeats: false,
            undo: None,
        }
    }

    /// One whose command only waits inside the container, or for a download.
    pub(crate) const fn waiting(
        name: &'static str,
        title: &'static str,
        act: fn(&View<'_>) -> Result<Act, Fault>,
    ) -> Self {
        Self {
            load: Load::Inside,
            ..Self::plain(name, title, act)
        }
    }
}

/// Takes a step back.
pub struct Undo {
    /// What to send.
    pub act: fn(&View<'_>) -> Result<Act, Fault>,
    /// What that changes in the registry.
    pub changes: fn(&View<'_>, &Outcome) -> Vec<Change>,
    /// Faults that mean that nothing is left.
    pub gone: &'static [FaultKind],
    /// Whether the recipe's environment, as it was before, has to be opened for it.
    pub secrets: bool,
}

impl Undo {
    /// One that changes nothing in the registry and needs no secrets.
    pub(crate) const fn plain(act: fn(&View<'_>) -> Result<Act, Fault>, gone: &'static [FaultKind]) -> Self {
        Self {
            act,
            changes: |_, _| Vec::new(),
            gone,
            secrets: false,
        }
    }
}

/// What a step wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// This command.
    Send {
        /// The verb.
        verb: Box<Verb>,
        /// In words, for the app's log.
        says: String,
        /// Only one at a time of the same name (e.g. one download of a template to a storage).
        exclusive: Option<String>,
        /// On this node; `None`: on the operation's.
        at: Option<NodeId>,
    },
    /// Nothing.
    Nothing {
        /// Why not.
        because: String,
    },
}

impl Act {
    pub(crate) fn send(verb: Verb, says: impl Into<String>) -> Result<Act, Fault> {
        Ok(Act::Send {
            verb: Box::new(verb),
            says: says.into(),
            exclusive: None,
            at: None,
        })
    }
    /// The same on that node.
    pub(crate) fn at(self, node: NodeId) -> Act {
        match self {
            Act::Send {
                verb, says, exclusive, ..
            } => Act::Send {
                verb,
                says,
                exclusive,
                at: Some(node),
            },
            nothing => nothing,
        }
    }
    pub(crate) fn nothing(because: impl Into<String>) -> Result<Act, Fault> {
        Ok(Act::Nothing {
            because: because.into(),
        })
    }
}

/// What a step changes in the registry, in the transaction that records its end.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The app's status; an app that is waiting to be deleted keeps `removing`.
    Status(Status),
    /// Why it is in that status.
    Reason(Option<String>),
    /// The container exists under its VMID.
    Created(Option<MacAddress>),
    /// The container is gone.
    Destroyed,
    /// The app's address.
    Address(Ipv4Addr),
    /// Where the public port answers, or that it does not.
    Published(Option<Ipv4Addr>),
    /// The template for later steps.
    Template(VolumeId),
    /// How the container stood when the operation first looked.
    Stood {
        /// Whether it ran.
        running: bool,
        /// Whether its port led to it.
        published: bool,
    },
    /// The container, which somebody else made, is the app's; its configuration is kept.
    Adopted {
        /// The interface's address.
        mac: Option<MacAddress>,
        /// The configuration's text.
        configuration: String,
    },
    /// Settings that wait for the container's next start.
    Pending(Vec<String>),
    /// What the root volume has, GiB.
    Disk(u32),
    /// What the operation was asked to change is in force: settings, environment, secrets.
    Configured(Box<ConfigureParams>),
    /// What the operation was asked to change is not in force: its new secrets go.
    NotConfigured,
    /// A node refused what was reserved: reserve another.
    ChooseAgain(Choice),
    /// Nothing of the app is left on any node: its reservations are free.
    FreeReservations,
    /// The app's row, secrets and log go.
    RemoveApp,
    /// The container is on this node of its host now, where nothing is published yet.
    Moved(NodeId),
    /// The archive for later steps.
    Archive(ArchiveId),
    /// Of the backup that the operation is about.
    Backup(BackupChange),
    /// Of the containers beside the one that serves.
    Side(SideChange),
}

/// What a step changes of a container beside the one that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SideChange {
    /// How the one that serves stood before.
    OldStood {
        /// There is none any more.
        gone: bool,
        /// Whether it started with its node.
        onboot: bool,
    },
    /// The operation's own was made.
    Made(Option<MacAddress>),
    /// The operation's own has this address.
    Address(Ipv4Addr),
    /// The port leads to the operation's own, and answers there.
    Published(Ipv4Addr),
    /// The operation's own serves from now on, and the one that did is kept.
    TakesOver,
    /// The operation's own is gone, or never was.
    Gone,
    /// The one of that number is gone, or let go.
    Removed(Vmid),
    /// The one of that number could not be removed; why.
    Stays(Vmid, String),
}

/// What a step changes of a backup.
#[derive(Debug, Clone, PartialEq)]
pub enum BackupChange {
    /// Its archive was made.
    Made(Box<BackupMade>),
    /// Its archive was read to its end.
    Tested(ArchiveTested),
    /// It can be restored.
    Completed,
    /// It was not made; why.
    Failed(String),
    /// It could not be deleted and is as it was; why.
    NotDeleted(String),
    /// Its app came back from it; whether that was seen to be healthy.
    Restored {
        /// It was.
        proven: bool,
    },
    /// Nothing came of restoring it and it is as it was; why.
    NotRestored(String),
    /// Somebody else removed its archive.
    Gone(String),
    /// Its archive cannot be read any more; how that shows.
    Damaged(String),
    /// Its row goes.
    Removed,
}

impl BackupChange {
    /// What is told of a backup that could not be restored: that its archive is gone, if that is why.
    pub(crate) fn not_restored(view: &View<'_>, why: &str) -> Self {
        let kind = view.operation.error.as_ref().map(|error| error["kind"].clone());
        match kind.and_then(|kind| serde_json::from_value::<FaultKind>(kind).ok()) {
            Some(FaultKind::ArchiveMissing) => Self::Gone(why.to_owned()),
            Some(FaultKind::ArchiveDamaged) => Self::Damaged(why.to_owned()),
            _ => Self::NotRestored(why.to_owned()),
        }
    }
}

/// What a step may look at.
pub struct View<'a> {
    /// The operation.
    pub operation: &'a OperationRow,
    /// Its app.
    pub app: &'a AppRow,
    /// The node's name.
    pub node: &'a str,
    /// What earlier steps left.
    pub data: &'a Data,
    /// The app's containers beside the one that serves, by number.
    pub side: &'a [SideRow],
    /// The reserved static address, if its host has such.
    pub reserved_address: Option<Ipv4Addr>,
    /// Whether the container has been made already in this operation.
    pub created: bool,
    /// The recipe's environment, secrets included, as it shall be on the way forward and as it was on the way back; empty unless the step asks for it.
    pub env: &'a [(EnvName, SecretText)],
}

impl View<'_> {
    /// What was asked, as this kind wants it.
    pub(crate) fn params<T: serde::de::DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_value(self.operation.params.clone()).map_err(|e| {
            internal(format!(
                "the registry holds parameters that this version cannot read: {e}"
            ))
        })
    }

    /// The app's VMID, if it has one.
    pub(crate) fn vmid(&self) -> Result<Option<Vmid>, Fault> {
        self.app
            .vmid
            .map(|n| Vmid::new(n).map_err(|e| internal(format!("the registry holds a bad VMID: {e}"))))
            .transpose()
    }

    /// The app's container, if it has one.
    pub(crate) fn target_if_any(&self) -> Result<Option<Target>, Fault> {
        Ok(self.vmid()?.map(|vmid| Target {
            vmid,
            owner: self.app.owner(),
        }))
    }

    /// The app's container.
    pub(crate) fn target(&self) -> Result<Target, Fault> {
        self.target_if_any()?.ok_or_else(|| {
            Fault::new(
                FaultKind::ContainerMissing,
                format!(
                    "{} has no container on {}; delete the app and create it again",
                    self.app.hostname, self.node
                ),
            )
        })
    }
}

/// A fault of the coordinator's own.
pub(crate) fn internal(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Internal, message)
}

/// The agent answered a verb with another verb's outcome.
pub(crate) fn unexpected(outcome: &Outcome) -> Fault {
    Fault::new(
        FaultKind::Malformed,
        format!("the agent's answer does not belong to the command ({outcome:?}); update the agent"),
    )
}
