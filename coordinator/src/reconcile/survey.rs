//! Asking nodes what is there. A node that does not tell is named with the reason, and is never taken for one on which nothing is.

use super::{Reconciler, report::Told};
use crate::{domain::placement::Admission, nodes::CommandError, operations::follow, store::fleet::FleetNode};
use proximity_protocol::{
    command::{Command, Outcome, Verb},
    ids::{NodeId, OperationId, StepKey, StepName},
    observed::{Inventory, RecordObserved},
};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long an agent may take for an answer: it reads files, and its link may be slow.
const ANSWER: Duration = Duration::from_secs(60);

/// What a node told.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) told: Told,
    /// Why not everything.
    pub(super) why: Option<String>,
    /// What it told, if that counts at all.
    pub(super) inventory: Option<Inventory>,
}

impl Survey {
    fn silent(told: Told, why: impl Into<String>) -> Self {
        Self {
            told,
            why: Some(why.into()),
            inventory: None,
        }
    }

    fn of(inventory: Inventory) -> Self {
        let (told, why) = if !inventory.quorate {
            (Told::NotQuorate, Some("its cluster has no quorum".to_owned()))
        } else if !inventory.unreadable.is_empty() {
            (Told::Incomplete, Some(inventory.unreadable.join("; ")))
        } else {
            (Told::Complete, None)
        };
        Self {
            told,
            why,
            inventory: Some(inventory),
        }
    }
}

impl Reconciler {
    /// Asks a node for its inventory anew.
    pub(super) async fn survey(&self, node: &FleetNode) -> Survey {
        if node.admission == Admission::Revoked {
            return Survey::silent(Told::Revoked, "it is revoked");
        }
        if !self.commands.is_online(node.id) {
            return Survey::silent(Told::NotConnected, "its agent is not connected");
        }
        let asked = follow::ask(&self.commands, node.id, self.epoch);
        match tokio::time::timeout(ANSWER, asked).await {
            Err(_) => Survey::silent(
                Told::NoAnswer,
                format!("its agent has not answered within {} s", ANSWER.as_secs()),
            ),
            Ok(Err(CommandError::Offline)) => Survey::silent(Told::NotConnected, "its agent is not connected"),
            Ok(Err(error)) => Survey::silent(Told::NoAnswer, error.to_string()),
            Ok(Ok(inventory)) => Survey::of(inventory),
        }
    }

    /// Asks a node for the ownership records that it sees; `None`: it does not tell.
    pub(super) async fn records(&self, node: NodeId) -> Option<Vec<RecordObserved>> {
        let command = Command {
            operation: OperationId(uuid::Uuid::now_v7()),
            step: StepKey {
                name: StepName::new("records").ok()?,
                undo: false,
                attempt: 1,
            },
            epoch: self.epoch,
            verb: Verb::Records,
        };
        let (progress, _) = mpsc::unbounded_channel();
        let asked = self.commands.execute(node, command, progress);
        match tokio::time::timeout(ANSWER, asked).await {
            Ok(Ok(Outcome::Records(records))) => Some(records),
            Ok(Ok(_)) => {
                tracing::warn!(node_id = %node, "the agent's answer is no list of records; update the agent");
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(node_id = %node, %error, "the node does not tell its ownership records");
                None
            }
            Err(_) => None,
        }
    }
}
