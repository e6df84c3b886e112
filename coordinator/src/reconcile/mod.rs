//! Brings the registry and what is on the nodes together again ([`Reconciler`]), and ends and forgets what is old ([`janitor`]).
//!
//! Reconciliation listens for inventories (an agent sends one when it has connected, and when something changed), and looks at every node each hour and when
//! somebody asks: a *round*. What an inventory seems to say is never believed at once: it may be older than an operation that has just ended. So the apps' rows
//! are read first, then the node is asked anew (`survey`), and a finding ([`drift`], pure) is written only if the row has not changed since and the app's
//! lease is free (`write`). A round then looks, for each host whose nodes have all told everything, for what is left of apps that are no more ([`leftovers`],
//! pure), and frees what is proven to be nobody's (`free`). Containers that were kept for a while after a restore go at its end (`previous`). What was looked
//! at, found and done is kept as a [`report`].
//!
//! No finding is lost: one that was not written because the app had changed is looked at again at once, and when an operation ends, its node is looked at
//! again, since what was told while it was at work counted for nothing. A node tells only what has changed, so nobody else would ask until the next round.
//!
//! Unreachable is not gone: a node that does not answer changes nothing here, and neither does one without quorum, or one that could not read everything. A
//! container that has moved within its cluster is found by the node that has it now: the one that had it may be dead.
//!
//! None of this takes any input but the world: timer, reconnect and request run the same code ([`rounds`]).

pub mod drift;
pub mod janitor;
pub mod leftovers;
pub mod report;
pub mod rounds;
pub mod schedules;

mod free;
mod look;
mod previous;
mod survey;
#[cfg(test)]
mod tests;
mod write;

use crate::{
    clock::SharedClock,
    domain::{
        operation_state::OperationState,
        settings::{Group as _, OperationSettings},
        upkeep::{Cause, Round},
    },
    events::{Bus, Event},
    nodes::{NodeChange, SharedCommands, inventories::Inventories},
    operations::Engine,
    store::{Store, StoreError, apps, fleet, operations, settings},
};
use look::Looked;
use proximity_protocol::ids::{Epoch, NodeId, OperationId};
use report::{Done, Report, Told};
use rounds::Rounds;
use std::{collections::HashSet, time::Duration};
use tokio::{sync::broadcast::error::RecvError, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Who asked for what reconciliation queues, as it stands in the registry.
const REQUESTER: &str = "coordinator";

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
    /// Who asks for a round.
    pub rounds: Rounds,
}

/// Why a node was not reconciled.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A task that has ended.
enum Ended {
    /// A node was looked at; whether it has to be at once again.
    Node(NodeId, bool),
    /// A round was made; which nodes have to be looked at at once again.
    Round(Vec<NodeId>),
    /// Which node an operation was at that has ended.
    Operation(Option<NodeId>),
}

/// What is being looked at, and what is to be looked at once more since something came in meanwhile.
#[derive(Default)]
struct Work {
    tasks: JoinSet<Ended>,
    busy: HashSet<NodeId>,
    again: HashSet<NodeId>,
    /// Connected anew, and not looked at since.
    back: HashSet<NodeId>,
    round: bool,
    round_again: Option<Cause>,
}

impl Reconciler {
    /// Reconciles until `shutdown`. Each node by itself: one that is slow to answer keeps no other waiting.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut arrivals = self.inventories.arrivals();
        let mut changes = self.commands.changes();
        let mut events = self.bus.subscribe();
        let mut work = Work::default();
        match self.rounds.recover(Round::Reconcile).await {
            Ok(true) => self.begin_round(&mut work, Cause::Request),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "what was asked of reconciliation cannot be read"),
        }
        let mut due = self.clock.wait(self.interval().await);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                change = changes.recv() => if let Ok(NodeChange::Online(node)) = change {
                    work.back.insert(node);
                },
                arrival = arrivals.recv() => match arrival {
                    Ok(node) => self.begin_node(&mut work, node),
                    // Too many at once to know which: all of them.
                    Err(RecvError::Lagged(_)) => self.begin_round(&mut work, Cause::Change),
                    Err(RecvError::Closed) => break,
                },
                event = events.recv() => match event {
                    Ok(event) => if let Some(operation) = ended(&event) {
                        let this = self.clone();
                        work.tasks.spawn(async move { Ended::Operation(this.node_of(operation).await) });
                    },
                    Err(RecvError::Lagged(_)) => self.begin_round(&mut work, Cause::Change),
                    Err(RecvError::Closed) => break,
                },
                () = &mut due => {
                    due = self.clock.wait(self.interval().await);
                    self.begin_round(&mut work, Cause::Timer);
                }
                () = self.rounds.asked(Round::Reconcile) => self.begin_round(&mut work, Cause::Request),
                Some(ended) = work.tasks.join_next(), if !work.tasks.is_empty() => match ended {
                    Ok(Ended::Node(node, changed)) => {
                        work.busy.remove(&node);
                        if work.again.remove(&node) || changed {
                            self.begin_node(&mut work, node);
                        }
                    }
                    Ok(Ended::Round(changed)) => {
                        work.round = false;
                        if let Some(cause) = work.round_again.take() {
                            self.begin_round(&mut work, cause);
                        }
                        for node in changed {
                            self.begin_node(&mut work, node);
                        }
                    }
                    Ok(Ended::Operation(node)) => if let Some(node) = node {
                        self.begin_node(&mut work, node);
                    },
                    Err(error) => tracing::error!(%error, "reconciling broke"),
                },
            }
        }
        work.tasks.shutdown().await;
    }

    fn begin_node(&self, work: &mut Work, node: NodeId) {
        if !work.busy.insert(node) {
            work.again.insert(node);
            return;
        }
        let cause = if work.back.remove(&node) {
            Cause::Reconnect
        } else {
            Cause::Change
        };
        let this = self.clone();
        work.tasks.spawn(async move {
            let changed = match this.node(node, cause).await {
                Ok(report) => report.findings.iter().any(|line| line.done == Done::Changed),
                Err(error) => {
                    tracing::error!(node_id = %node, %error, "not reconciled");
                    false
                }
            };
            Ended::Node(node, changed)
        });
    }

    fn begin_round(&self, work: &mut Work, cause: Cause) {
        if std::mem::replace(&mut work.round, true) {
            work.round_again = Some(cause);
            return;
        }
        let this = self.clone();
        work.tasks.spawn(async move {
            let changed = this.round_and_again(cause).await.map(|(_, changed)| changed);
            Ended::Round(changed.unwrap_or_else(|error| {
                tracing::error!(%error, "a round of reconciliation could not be made");
                Vec::new()
            }))
        });
    }

    /// The node of an operation that has ended; `None`: nothing has to be looked at. What reconciliation itself queued and what was not done is not looked at:
    /// the same would be found and queued again, without end.
    async fn node_of(&self, id: OperationId) -> Option<NodeId> {
        let read = async { operations::by_id(&mut *self.store.read().await?, id).await };
        match read.await {
            Ok(row) => {
                let row = row.filter(|row| row.state == OperationState::Done || row.requested_by != REQUESTER)?;
                row.node_id
            }
            Err(error) => {
                tracing::error!(operation_id = %id, %error, "where an operation has ended cannot be read; its node is looked at in the next round");
                None
            }
        }
    }

    async fn interval(&self) -> Duration {
        let read = async {
            let mut conn = self.store.read().await?;
            settings::get::<OperationSettings>(&mut conn, OperationSettings::NAME).await
        };
        let settings = read.await.unwrap_or_else(|error: StoreError| {
            tracing::error!(%error, "the interval of reconciliation cannot be read");
            None
        });
        Duration::from_secs(settings.unwrap_or_default().reconcile_interval_s.into())
    }

    /// Looks at one node on an occasion; how much was written. A report is kept of each reconnection, and of what had something to say.
    pub async fn node(&self, node: NodeId, cause: Cause) -> Result<Report, ReconcileError> {
        let started = self.clock.now_ms();
        let Some(report) = self.look(node, cause == Cause::Reconnect).await? else {
            return Ok(Report::default());
        };
        let untold = report.nodes.iter().any(|look| look.told != Told::Complete);
        if cause == Cause::Reconnect || untold || !report.findings.is_empty() {
            self.rounds.keep(Round::Reconcile, cause, started, &report).await?;
        }
        Ok(report)
    }

    /// Looks at every node, and then for what is left on the hosts.
    pub async fn round(&self, cause: Cause) -> Result<Report, ReconcileError> {
        Ok(self.round_and_again(cause).await?.0)
    }

    /// The same; answers also which nodes have to be looked at at once again.
    async fn round_and_again(&self, cause: Cause) -> Result<(Report, Vec<NodeId>), ReconcileError> {
        let ids = self.rounds.begin(Round::Reconcile, cause).await?;
        let made = async {
            let looked = self.look_at_all().await?;
            self.discard_due().await?;
            Ok(looked)
        };
        let (report, changed) = match made.await {
            Ok(looked) => looked,
            Err(error) => {
                self.rounds.break_off(Round::Reconcile).await;
                return Err(error);
            }
        };
        self.rounds.finish(&ids, &report).await?;
        tracing::info!(
            nodes = report.nodes.len(),
            findings = report.findings.len(),
            freed = report.freed.len(),
            alarms = report.alarms.len(),
            "reconciled"
        );
        Ok((report, changed))
    }

    async fn look_at_all(&self) -> Result<(Report, Vec<NodeId>), ReconcileError> {
        let (nodes, before) = {
            let mut conn = self.store.read().await?;
            (fleet::nodes(&mut conn).await?, apps::by_host(&mut conn).await?)
        };
        let mut asked = JoinSet::new();
        for (place, node) in nodes.iter().enumerate() {
            let (this, id) = (self.clone(), node.id);
            asked.spawn(async move { (place, this.look_at(id, true).await) });
        }
        let mut all: Vec<(usize, Looked)> = Vec::with_capacity(nodes.len());
        while let Some(ended) = asked.join_next().await {
            match ended {
                Ok((place, looked)) => all.extend(looked?.map(|looked| (place, looked))),
                Err(error) => tracing::error!(%error, "looking at a node broke"),
            }
        }
        all.sort_by_key(|(place, _)| *place);
        let all: Vec<Looked> = all.into_iter().map(|(_, looked)| looked).collect();
        let mut report = Report::default();
        self.look_for_leftovers(&nodes, &all, &before, &mut report).await?;
        let changed = all
            .iter()
            .filter(|looked| looked.has_changed())
            .map(|looked| looked.node)
            .collect();
        all.into_iter().for_each(|looked| looked.tell(&mut report));
        Ok((report, changed))
    }
}

/// The operation of which an event says that it has ended.
fn ended(event: &Event) -> Option<OperationId> {
    if event.kind != "operation" {
        return None;
    }
    let state: OperationState = event.data["state"].as_str()?.parse().ok()?;
    let id = event.operation_id.as_ref()?.parse().ok()?;
    state.ended().then_some(OperationId(id))
}
