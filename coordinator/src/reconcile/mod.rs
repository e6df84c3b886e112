//! Brings the registry and what is on the nodes together again.
//!
//! It listens for inventories (an agent sends one when it has connected, and when something changed) and runs by itself every hour. What an inventory seems to
//! say is never believed at once: it may be older than an operation that has just ended. So the apps' rows are read first, then the node is asked anew, and a
//! finding is written only if the row has not changed since and no operation of the app is under way ([`drift`] decides, purely).
//!
//! Unreachable is not gone: a node that does not answer changes nothing here, and neither does one without quorum. A container that has moved within its
//! cluster is found by the node that has it now: the one that had it may be dead.

pub mod drift;
#[cfg(test)]
mod tests;

use crate::{
    clock::SharedClock,
    domain::app_state::Status,
    events::Bus,
    nodes::{CommandError, SharedCommands, inventories::Inventories},
    operations::{
        Engine,
        follow::with_agent,
        params::{ActionParams, DEFAULT_HEALTH_TIMEOUT_S},
        publish::PUBLISH,
        record::app_event,
        submit::{self, Requester},
    },
    store::{
        self, Store, StoreError,
        apps::{self, AppRow},
        deployment_logs::{self, LogLevel},
        fleet::{self, FleetNode},
        operations,
    },
};
use drift::Finding;
use proximity_protocol::{
    command::{Command, Outcome, Verb},
    ids::{Epoch, NodeId, OperationId, StepKey, StepName},
    observed::Inventory,
};
use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How often every connected node is looked at without an occasion.
const EVERY: Duration = Duration::from_secs(3600);

/// What reconciliation works with.
#[derive(Clone)]
pub struct Reconciler {
    /// The registry.
    pub store: Store,
    /// The nodes.
    pub commands: SharedCommands,
    /// What they sent.
    pub inventories: Inventories,
    /// Carries out what is queued.
    pub engine: Engine,
    /// Time.
    pub clock: SharedClock,
    /// Whom to tell.
    pub bus: Bus,
    /// This run.
    pub epoch: Epoch,
}

/// Why a node was not reconciled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node gave no inventory.
    #[error("no inventory: {0}")]
    Node(#[from] CommandError),
    /// The agent answered something else.
    #[error("the agent's answer is not an inventory; update the agent")]
    NotAnInventory,
}

impl Reconciler {
    /// Reconciles until `shutdown`. Each node by itself: one that is slow to answer keeps no other waiting.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut arrivals = self.inventories.arrivals();
        let mut hour = self.clock.wait(EVERY);
        let mut tasks: JoinSet<NodeId> = JoinSet::new();
        let mut busy: HashSet<NodeId> = HashSet::new();
        // Something came in while the node was being looked at: once more.
        let mut again: HashSet<NodeId> = HashSet::new();
        loop {
            let nodes = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                arrival = arrivals.recv() => match arrival {
                    Ok(node) => vec![node],
                    // Too many at once to know which: all of them.
                    Err(RecvError::Lagged(_)) => self.all().await,
                    Err(RecvError::Closed) => break,
                },
                () = &mut hour => {
                    hour = self.clock.wait(EVERY);
                    self.all().await
                }
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                    Ok(node) => {
                        busy.remove(&node);
                        again.take(&node).into_iter().collect()
                    }
                    Err(error) => {
                        tracing::error!(%error, "reconciling a node broke");
                        Vec::new()
                    }
                },
            };
            for node in nodes {
                if busy.insert(node) {
                    tasks.spawn(self.clone().look_at(node));
                } else {
                    again.insert(node);
                }
            }
        }
        tasks.shutdown().await;
    }

    async fn look_at(self, node: NodeId) -> NodeId {
        match self.node(node).await {
            Ok(0) => {}
            Ok(found) => tracing::info!(node_id = %node, found, "reconciled"),
            // It is looked at again when it sends its next inventory.
            Err(ReconcileError::Node(error)) => tracing::info!(node_id = %node, %error, "not reconciled"),
            Err(error) => tracing::error!(node_id = %node, %error, "not reconciled"),
        }
        node
    }

    async fn all(&self) -> Vec<NodeId> {
        let nodes = match self.store.read().await {
            Ok(mut conn) => fleet::nodes(&mut conn).await,
            Err(error) => Err(error),
        };
        match nodes {
            Ok(nodes) => nodes
                .into_iter()
                .map(|n| n.id)
                .filter(|n| self.commands.is_online(*n))
                .collect(),
            Err(error) => {
                tracing::error!(%error, "the registry cannot be read; nothing is reconciled");
                Vec::new()
            }
        }
    }

    /// Looks at one node, and at those of its cluster to which its containers have gone, and writes what it finds; how much that was.
    pub async fn node(&self, node: NodeId) -> Result<usize, ReconcileError> {
        let (mut found, gone_to) = self.look(node).await?;
        for other in gone_to {
            found += self.look(other).await?.0;
        }
        Ok(found)
    }

    /// Looks at one node alone; answers also where its containers have gone.
    async fn look(&self, node: NodeId) -> Result<(usize, BTreeSet<NodeId>), ReconcileError> {
        let (apps, nodes) = {
            let mut conn = self.store.read().await?;
            (apps::on_node(&mut conn, node).await?, fleet::nodes(&mut conn).await?)
        };
        let Some(this) = nodes.iter().find(|n| n.id == node) else {
            return Ok((0, BTreeSet::new()));
        };
        if let Some((_, sent)) = self.inventories.get(node)
            && apps.iter().all(|app| drift::find(app, &sent).is_none())
            && self.newcomers(&apps, this, &sent).await?.is_empty()
        {
            return Ok((0, BTreeSet::new()));
        }
        let inventory = self.ask(node).await?;
        let newcomers = self.newcomers(&apps, this, &inventory).await?;
        let findings = apps.iter().filter_map(|app| Some((app, drift::find(app, &inventory)?)));
        let arrivals = newcomers.iter().map(|(app, finding)| (app, finding.clone()));
        let (mut found, mut gone_to) = (0, BTreeSet::new());
        for (app, finding) in findings.chain(arrivals) {
            if let Finding::Moved(name) = &finding
                && let Some(to) = with_agent(&nodes, this.host_id, name)
                && self.commands.is_online(to.id)
            {
                // That node tells more of it: whether it runs there.
                gone_to.insert(to.id);
                continue;
            }
            if self.write(app, &finding, this, &nodes).await? {
                found += 1;
            }
        }
        gone_to.remove(&node);
        Ok((found, gone_to))
    }

    /// Apps of other nodes of the host whose containers are on this one now.
    async fn newcomers(
        &self,
        own: &[AppRow],
        this: &FleetNode,
        inventory: &Inventory,
    ) -> Result<Vec<(AppRow, Finding)>, StoreError> {
        let mut newcomers = Vec::new();
        for owner in inventory.containers.iter().filter_map(|c| c.owner.as_ref()) {
            if own.iter().any(|app| app.id == owner.app) {
                continue;
            }
            let app = apps::by_id(&mut *self.store.read().await?, owner.app.as_str()).await?;
            if let Some(app) = app.filter(|app| app.host_id == this.host_id && app.node_id != this.id)
                && let Some(finding) = drift::arrived(&app, inventory)
            {
                newcomers.push((app, finding));
            }
        }
        Ok(newcomers)
    }

    async fn ask(&self, node: NodeId) -> Result<Inventory, ReconcileError> {
        let command = Command {
            operation: OperationId(uuid::Uuid::now_v7()),
            step: StepKey {
                name: StepName::new("inventory").map_err(|_| ReconcileError::NotAnInventory)?,
                undo: false,
                attempt: 1,
            },
            epoch: self.epoch,
            verb: Verb::Inventory,
        };
        let (progress, _) = mpsc::unbounded_channel();
        match self.commands.execute(node, command, progress).await? {
            Outcome::Inventory(inventory) => Ok(*inventory),
            _ => Err(ReconcileError::NotAnInventory),
        }
    }

    /// Writes a finding, unless the app has changed since it was read.
    async fn write(
        &self,
        seen: &AppRow,
        finding: &Finding,
        node: &FleetNode,
        nodes: &[FleetNode],
    ) -> Result<bool, ReconcileError> {
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let Some(mut app) = apps::by_id(&mut tx, seen.id.as_str()).await? else {
            return Ok(false);
        };
        if app != *seen || !operations::unfinished_of(&mut tx, app.id.as_str()).await?.is_empty() {
            return Ok(false);
        }
        let vmid = app.vmid.unwrap_or_default();
        let mut publish = false;
        let message = match finding {
            Finding::Missing => {
                app.status = Status::Error;
                app.published = None;
                let text = format!(
                    "Container {vmid} is no longer on {} (its complete list of guests does not have it). Bring it back there and start the app, or delete the app.",
                    node.name
                );
                app.status_reason = Some(text.clone());
                text
            }
            Finding::NotOurs => {
                app.status = Status::Error;
                app.published = None;
                let text = format!(
                    "Container {vmid} on {} no longer belongs to this app. Delete the app; the container is left as it is.",
                    node.name
                );
                app.status_reason = Some(text.clone());
                text
            }
            Finding::Runs => {
                publish = true;
                app.status = Status::Running;
                app.status_reason = None;
                format!("Container {vmid} was started on {} without Proximity", node.name)
            }
            Finding::Stands => {
                app.status = Status::Stopped;
                app.status_reason = None;
                format!("Container {vmid} was stopped on {} without Proximity", node.name)
            }
            Finding::Unpublished => {
                publish = true;
                format!(
                    "Port {} of {} had been removed; publishing it again",
                    app.public_port.unwrap_or_default(),
                    node.name
                )
            }
            Finding::Moved(to) => match with_agent(nodes, app.host_id, to) {
                // Its agent is not connected: what it does there is told when it comes back.
                Some(target) => {
                    (app.node_id, app.published) = (target.id, None);
                    format!("Container {vmid} moved from {} to {to}", node.name)
                }
                None => {
                    let text = format!(
                        "Container {vmid} moved from {} to {to}, which has no agent. Run `proximity-agent join` there, or migrate the container back to a \
                         node that has one.",
                        node.name
                    );
                    if app.status_reason.as_ref() == Some(&text) {
                        return Ok(false);
                    }
                    if app.status != Status::Error {
                        app.status = Status::Unknown;
                    }
                    app.published = None;
                    app.status_reason = Some(text.clone());
                    text
                }
            },
            Finding::Arrived { running } => {
                let from = nodes.iter().find(|n| n.id == app.node_id);
                let from = from.map_or("another node", |n| n.name.as_str()).to_owned();
                (app.node_id, app.published) = (node.id, None);
                // An app in error keeps its error: it was there before.
                if app.status != Status::Error {
                    app.status = if *running { Status::Running } else { Status::Stopped };
                    app.status_reason = None;
                    publish = *running;
                }
                let how = if *running { "" } else { ", where it does not run" };
                format!("Container {vmid} moved from {from} to {}{how}", node.name)
            }
        };
        apps::update(&mut tx, now, &app).await?;
        operations::move_queued(&mut tx, app.id.as_str(), app.node_id).await?;
        let level = if app.status == Status::Error {
            LogLevel::Error
        } else {
            LogLevel::Warning
        };
        deployment_logs::append(&mut tx, now, app.id.as_str(), None, level, "reconcile", &message).await?;
        if publish {
            let params = serde_json::to_value(ActionParams {
                previous: app.status,
                health_timeout_s: DEFAULT_HEALTH_TIMEOUT_S,
            })
            .map_err(StoreError::from)?;
            let requester = Requester {
                name: "coordinator".into(),
                request_id: None,
            };
            submit::queue(&mut tx, now, &PUBLISH, &app, params, &requester).await?;
        }
        let event = store::insert_event(&mut tx, now, app_event(&app, false)).await?;
        tx.commit().await.map_err(StoreError::from)?;
        self.bus.publish(event);
        if publish {
            self.engine.wake();
        }
        tracing::warn!(app_id = %app.id, node_id = %node.id, ?finding, "{message}");
        Ok(true)
    }
}
