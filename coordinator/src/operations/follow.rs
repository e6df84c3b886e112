//! A container that is on another node of its cluster (migrated by hand, moved by HA) is followed: the operation goes on there, forward or back.
//!
//! Where it is, is never taken from the words of a fault nor from an inventory in memory: a node is asked anew, and believed only while its cluster has quorum.
//! Where its node answers that the container has moved, that node is asked. Where its node is not connected (HA has recovered the container, and the node is
//! dead), those of its host whose latest inventory shows the container are.

use super::{
    drive::{Advance, At, Drive, Moment, Pause},
    record::{Draft, line},
    settle::{Sent, said_before},
    step::{Change, internal},
};
use crate::{
    domain::{operation_state::StepState, placement::Admission},
    nodes::{CommandError, SharedCommands},
    store::{
        StoreError,
        deployment_logs::LogLevel,
        fleet::{self, FleetNode},
    },
};
use proximity_protocol::{
    command::{Command, Outcome, Target, Verb},
    fault::{Fault, FaultKind},
    ids::{Epoch, NodeId, OperationId, StepKey, StepName},
    observed::Inventory,
};
use tokio::sync::mpsc;

/// What an inventory tells of a container's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the node that sent it, and of the app.
    Here,
    /// On the node of that name.
    On(String),
    /// It does not tell: the cluster has no quorum, the container is not in it, or it is somebody else's.
    Untold,
}

/// Where the container is by the inventory of the node called `asked`.
pub(crate) fn place(inventory: &Inventory, asked: &str, target: &Target) -> Place {
    if !inventory.quorate {
        return Place::Untold;
    }
    let here = inventory.containers.iter().find(|c| c.vmid == target.vmid);
    if let Some(container) = here {
        return match &container.owner {
            Some(owner) if *owner == target.owner => Place::Here,
            _ => Place::Untold,
        };
    }
    let elsewhere = inventory.elsewhere.iter().find(|(vmid, _)| *vmid == target.vmid);
    match elsewhere {
        // What is listed as elsewhere and is on this node is a virtual machine.
        Some((_, node)) if node != asked => Place::On(node.clone()),
        _ => Place::Untold,
    }
}

/// The node of that name of the host, if an agent can be asked there.
pub(crate) fn with_agent<'f>(fleet: &'f [FleetNode], host_id: i64, name: &str) -> Option<&'f FleetNode> {
    fleet
        .iter()
        .find(|node| node.host_id == host_id && node.name == name && node.admission != Admission::Revoked)
}

/// What an operator does about a container on a node without an agent.
pub(crate) fn no_agent(target: &Target, node: &str) -> String {
    format!(
        "container {} is on node {node} now, which has no agent: run `proximity-agent join` there, or migrate the container back to a node that has one",
        target.vmid
    )
}

/// A node's inventory, asked anew.
pub(crate) async fn ask(commands: &SharedCommands, node: NodeId, epoch: Epoch) -> Result<Inventory, CommandError> {
    let name = StepName::new("inventory").map_err(|error| internal(error.to_string()))?;
    let command = Command {
        operation: OperationId(uuid::Uuid::now_v7()),
        step: StepKey {
            name,
            undo: false,
            attempt: 1,
        },
        epoch,
        verb: Verb::Inventory,
    };
    let (progress, _) = mpsc::unbounded_channel();
    match commands.execute(node, command, progress).await? {
        Outcome::Inventory(inventory) => Ok(*inventory),
        _ => Err(Fault::new(
            FaultKind::Malformed,
            "the agent's answer is not an inventory; update the agent",
        )
        .into()),
    }
}

impl Drive<'_> {
    /// The node says that the container is on another one.
    pub(super) async fn follow(&self, moment: Moment, at: At, fault: &Fault, sent: Sent) -> Advance {
        let fleet = self.fleet().await?;
        let asked = moment
            .operation
            .node_id
            .and_then(|id| fleet.iter().find(|node| node.id == id));
        let (Some(asked), Ok(Some(target))) = (asked, moment.view(&[]).target_if_any()) else {
            return self.wait_for_place(moment, at, fault.message.clone(), sent).await;
        };
        let deps = self.engine.deps();
        let inventory = ask(&deps.commands, asked.id, deps.epoch).await;
        let why = match inventory.map(|inventory| place(&inventory, &asked.name, &target)) {
            Ok(Place::On(name)) => match with_agent(&fleet, asked.host_id, &name) {
                Some(to) => return self.go_on_at(moment, at, to, sent).await,
                None => no_agent(&target, &name),
            },
            // It came back between the two answers: tried again there.
            Ok(Place::Here) => format!("container {} is on its way between nodes", target.vmid),
            Ok(Place::Untold) | Err(_) => fault.message.clone(),
        };
        self.wait_for_place(moment, at, why, sent).await
    }

    /// The node is not connected: perhaps the container is on another one by now.
    pub(super) async fn away(&self, moment: Moment, at: At, node: NodeId) -> Advance {
        let deps = self.engine.deps();
        let (Ok(Some(target)), true) = (moment.view(&[]).target_if_any(), moment.app.vmid_confirmed) else {
            return self.offline(moment, at, node).await;
        };
        let fleet = self.fleet().await?;
        let Some(lost) = fleet.iter().find(|other| other.id == node) else {
            return self.offline(moment, at, node).await;
        };
        let mut besides = String::new();
        for other in fleet.iter().filter(|n| n.host_id == lost.host_id && n.id != node) {
            let told = deps.inventories.get(other.id);
            let seen = told.is_some_and(|(_, told)| match place(&told, &other.name, &target) {
                Place::Here => true,
                Place::On(name) => name != lost.name,
                Place::Untold => false,
            });
            if !seen || other.admission == Admission::Revoked || !deps.commands.is_online(other.id) {
                continue;
            }
            let Ok(now) = ask(&deps.commands, other.id, deps.epoch).await else {
                continue;
            };
            match place(&now, &other.name, &target) {
                Place::Here => return self.go_on_at(moment, at, other, None).await,
                Place::On(name) if name != lost.name && with_agent(&fleet, lost.host_id, &name).is_none() => {
                    besides = format!(", and {}", no_agent(&target, &name));
                }
                Place::On(_) | Place::Untold => {}
            }
        }
        self.not_there(moment, at, node, &besides).await
    }

    /// Whether an inventory that just came shows the operation's container on another node than its own.
    pub(super) fn is_seen_at(&self, node: NodeId) -> bool {
        let told = self.engine.deps().inventories.get(node);
        match (told, &self.target) {
            (Some((_, inventory)), Some(target)) => {
                let listed = inventory.elsewhere.iter().any(|(vmid, _)| *vmid == target.vmid);
                listed || inventory.containers.iter().any(|c| c.vmid == target.vmid)
            }
            _ => false,
        }
    }

    async fn fleet(&self) -> Result<Vec<FleetNode>, StoreError> {
        fleet::nodes(&mut *self.engine.deps().store.read().await?).await
    }

    /// The operation, and its app, are at that node from now on. The step begins anew there: what the old node knows of it is its own.
    async fn go_on_at(&self, mut moment: Moment, at: At, to: &FleetNode, sent: Sent) -> Advance {
        let now = self.engine.deps().clock.now_ms();
        let from = moment.operation.node_id.replace(to.id);
        let row = &mut moment.steps[at.place];
        row.state = if at.undo {
            StepState::Undoing
        } else {
            StepState::Waiting
        };
        row.retry_at = Some(now);
        (row.reason, row.error) = (None, None);
        let words = format!(
            "Container {} moved from {} to {}; going on there",
            moment.app.vmid.unwrap_or_default(),
            moment.node,
            to.name
        );
        tracing::info!(operation_id = %self.id, app_id = %moment.app.id, node_id = %to.id, step = at.step.name, "{words}");
        let mut draft = Draft::of(moment.operation);
        draft.changes.push(Change::Moved(to.id));
        draft.lines.push(line(LogLevel::Warning, &row.name, words));
        draft.steps.push(row.clone());
        let pause = self.write(draft).await?;
        self.committed(sent);
        if let Some(from) = from {
            self.engine.deps().commands.committed(from, self.id, None);
        }
        // Out of the old node's queue and into the new one's.
        Ok(Some(pause.unwrap_or(Pause::Until(now))))
    }

    async fn wait_for_place(&self, mut moment: Moment, at: At, why: String, sent: Sent) -> Advance {
        let fault = Fault::new(FaultKind::MovedToOtherNode, why);
        let row = &mut moment.steps[at.place];
        let repeated = said_before(row, &fault);
        row.reason = Some(fault.message.clone());
        row.error = Some(serde_json::to_value(&fault)?);
        let mut draft = Draft::of(moment.operation);
        if !repeated {
            let words = format!("Waiting: {}", fault.message);
            draft.lines.push(line(LogLevel::Warning, &row.name, words));
        }
        let pause = self.engine.deps().settings.poll;
        self.later(&mut draft, row, at, &fault, pause);
        let paused = self.write(draft).await?;
        self.committed(sent);
        Ok(paused)
    }
}
