//! The first words on a link.

use crate::{
    event::Notice,
    fault::Fault,
    ids::{BootId, Epoch, NodeId, OperationId, ProcessId, StepKey},
    observed::NodeFacts,
};
use serde::{Deserialize, Serialize};

/// A range of message versions, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRange {
    /// Oldest understood.
    pub min: u16,
    /// Newest understood.
    pub max: u16,
}

impl VersionRange {
    /// What this build understands.
    pub const OURS: VersionRange = VersionRange {
        min: crate::VERSION_MIN,
        max: crate::VERSION_MAX,
    };

    /// The newest version that both understand.
    pub fn common(self, other: VersionRange) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min && newest >= other.min).then_some(newest)
    }
}

/// The agent's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Message versions that the agent understands.
    pub versions: VersionRange,
    /// Version of the agent's package.
    pub agent_version: String,
    /// What it can do beyond the versions, by name.
    pub capabilities: Vec<String>,
    /// This boot of the machine.
    pub boot: BootId,
    /// This run of the agent.
    pub process: ProcessId,
    /// The newest epoch that it has seen.
    pub epoch: Epoch,
    /// What the node is.
    pub facts: NodeFacts,
    /// Jobs whose result the coordinator has not committed yet.
    pub open_jobs: Vec<OpenJob>,
}

/// A job in the agent's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenJob {
    /// Its operation.
    pub operation: OperationId,
    /// Its step.
    pub step: StepKey,
    /// Whether the result is recorded.
    pub finished: bool,
}

/// The coordinator's answer. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HelloReply {
    /// Connected.
    Welcome(Welcome),
    /// Not connected; the fault says why and what to do.
    Refused(Fault),
}

/// Terms of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to encode to.
    pub version: u16,
    /// Who the agent is, by its certificate.
    pub node: NodeId,
    /// This run of the coordinator.
    pub epoch: Epoch,
    /// Version of the coordinator's package.
    pub coordinator_version: String,
    /// How often to send live figures, milliseconds, 100 to 60 000.
    pub metrics_interval_ms: u32,
    /// Jobs that are committed already, or unknown to the registry and to be forgotten.
    pub notices: Vec<Notice>,
}
