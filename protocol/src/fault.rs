//! Why a command did not succeed, in words for operators and a kind for the engine.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What went wrong. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FaultKind {
    /// The frame could not be decoded, or a value in it is not valid.
    Malformed,
    /// This agent does not know the verb; update it.
    UnknownVerb,
    /// The command comes from an older run of the coordinator.
    OldEpoch,
    /// The node's own policy file forbids it.
    PolicyDenied,
    /// The container exists but has no ownership record of this app: it is not touched.
    NotOurs,
    /// The VMID belongs to another guest.
    VmidTaken,
    /// Something else listens on, or publishes, the port on the node.
    PortTaken,
    /// Something else answers at the address.
    AddressTaken,
    /// A lock that another holds (a nightly vzdump, an operator). Spends no try.
    Locked,
    /// The cluster has no quorum: nothing is changed until it has. Spends no try.
    NotQuorate,
    /// A Proxmox tool ended with an error.
    ToolFailed,
    /// Whether the act happened cannot be told from the node's own state.
    InDoubt,
    /// No template with that prefix is present or can be downloaded.
    TemplateUnavailable,
    /// The storage does not exist or does not take containers.
    StorageUnavailable,
    /// The bridge does not exist on the node.
    BridgeMissing,
    /// The storage is full.
    DiskFull,
    /// The container is not there.
    ContainerMissing,
    /// The container is not running, and the verb needs it to be.
    ContainerStopped,
    /// The app's recipe failed.
    RecipeFailed,
    /// The health check did not pass in time.
    Unhealthy,
    /// The step's deadline passed.
    DeadlineExceeded,
    /// The agent is about to stop and takes no new work. Spends no try.
    ShuttingDown,
    /// A fault of the agent itself (its journal, its disk).
    Internal,
    /// The container lives on another node of the cluster (migrated, moved by HA).
    MovedToOtherNode,
    /// The operator asked to stop.
    Cancelled,
    /// The backup's archive is not on its storage any more.
    ArchiveMissing,
    /// The backup's archive cannot be read, or is not what it was.
    ArchiveDamaged,
    /// It cannot be done with this container or storage, whoever asks and however often; the message says what could be instead.
    NotPossible,
}

impl FaultKind {
    /// Whether the same act may succeed later without anybody changing anything.
    pub fn retryable(self) -> bool {
        use FaultKind::*;
        matches!(
            self,
            ToolFailed | InDoubt | TemplateUnavailable | RecipeFailed | Unhealthy | DeadlineExceeded | Internal
        ) || self.waits()
    }

    /// Whether the engine waits for the cause to go away, without counting a try.
    pub fn waits(self) -> bool {
        matches!(
            self,
            FaultKind::Locked | FaultKind::NotQuorate | FaultKind::ShuttingDown
        )
    }

    /// Whether the coordinator should reserve another VMID, port or address and try the step again.
    pub fn choose_again(self) -> bool {
        matches!(
            self,
            FaultKind::VmidTaken | FaultKind::PortTaken | FaultKind::AddressTaken
        )
    }
}

/// A failed act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Fault {
    /// For the engine.
    pub kind: FaultKind,
    /// One sentence for the operator: what was attempted and what to do.
    pub message: String,
    /// The last lines of a tool's output, at most 4 KiB; never secrets.
    pub detail: Option<String>,
}

impl Fault {
    /// The longest `detail` that is sent, in bytes.
    pub const DETAIL_MAX: usize = 4096;

    /// A fault without tool output.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            detail: None,
        }
    }

    /// Adds the tail of a tool's output, cut to [`Fault::DETAIL_MAX`] at a character boundary.
    #[must_use]
    pub fn with_detail(mut self, output: &str) -> Self {
        let mut start = output.len().saturating_sub(Self::DETAIL_MAX);
        while !output.is_char_boundary(start) {
            start += 1;
        }
        let tail = output[start..].trim();
        self.detail = (!tail.is_empty()).then(|| tail.to_owned());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
