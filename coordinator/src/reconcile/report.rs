//! What a reconciliation looked at, found and did, as it is stored and shown.

use serde::{Deserialize, Serialize};

/// The whole report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Every node that was to be looked at, and what it told.
    pub nodes: Vec<NodeLook>,
    /// What differed, and what was done about it.
    pub findings: Vec<FindingLine>,
    /// Containers that are nobody's: they can be adopted.
    pub unknown_containers: Vec<UnknownContainer>,
    /// What stands on a node for an app that the registry does not have, each with what to do about it.
    pub strays: Vec<Stray>,
    /// VMIDs, ports and addresses that were proven to be nobody's any more and are free again.
    pub freed: Vec<String>,
    /// Reservations that seem to be nobody's and were kept, each with the reason.
    pub kept: Vec<String>,
    /// What a person has to see.
    pub alarms: Vec<String>,
}

impl Report {
    /// How many findings were written.
    pub fn written(&self) -> usize {
        let written = |line: &&FindingLine| matches!(line.done, Done::Reported | Done::Correcting);
        self.findings.iter().filter(written).count()
    }
}

/// What became of asking a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Everything; what is not in it does not exist.
    Complete,
    /// Something could not be read, so absence proves nothing: only what is there counted.
    Incomplete,
    /// Its cluster has no quorum, so nothing counted.
    NotQuorate,
    /// Its agent is not connected.
    NotConnected,
    /// Its agent did not answer.
    NoAnswer,
    /// It is not asked any more.
    Revoked,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLook {
    /// Its name.
    pub node: String,
    /// Its host's.
    pub host: String,
    /// What became of asking it.
    pub told: Told,
    /// Why it did not tell everything.
    pub why: Option<String>,
    /// How many apps the registry has there.
    pub apps: usize,
    /// How many containers it told of.
    pub containers: usize,
}

/// What was done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// The app's row says it now; nothing was done on the node.
    Reported,
    /// An operation was queued that brings it back to what was asked.
    Correcting,
    /// Nothing: an operation of the app is under way, and its node is looked at again when that has ended; or it was said before.
    Left,
    /// Nothing: the app has changed meanwhile, and is looked at again at once.
    Changed,
}

/// Something that differed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingLine {
    /// The app.
    pub app_id: String,
    /// Its host name.
    pub hostname: String,
    /// Where it was seen.
    pub node: String,
    /// One word: `missing`, `not_ours`, `runs`, `stands`, `unpublished`, `moved`, `arrived`.
    pub finding: String,
    /// In words.
    pub message: String,
    /// What was done.
    pub done: Done,
}

/// A container that no app owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownContainer {
    /// Where.
    pub node: String,
    /// Its number.
    pub vmid: u32,
    /// Its host name.
    pub hostname: Option<String>,
    /// Whether it runs; `None`: it cannot be told.
    pub running: Option<bool>,
}

/// Something of an app that the registry does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    /// Where: a node, or the host for what its nodes share.
    pub place: String,
    /// `container`, `record` or `port`.
    pub kind: String,
    /// The VMID, or the port.
    pub number: u32,
    /// The app that it names.
    pub app_id: String,
    /// What it is and what to do.
    pub message: String,
}
