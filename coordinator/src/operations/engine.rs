//! The engine: one task for each operation that has not ended. It holds nothing that the registry does not hold; stopping it is dropping it.

use super::{
    drive::{Drive, Pause},
    retry::EngineSettings,
    revoked,
    seats::Seats,
};
use crate::{
    clock::{SharedClock, UnixMs},
    events::{Bus, Event},
    nodes::{NodeChange, SharedCommands, inventories::Inventories},
    secrets::Sealer,
    store::{Store, StoreError, operations},
};
use proximity_protocol::ids::{Epoch, NodeId, OperationId};
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, broadcast, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Pause after the registry could not be read or written.
const AFTER_STORE_ERROR: Duration = Duration::from_secs(5);

/// What the engine works with.
#[derive(Clone)]
pub struct EngineDeps {
    /// The registry.
    pub store: Store,
    /// The nodes.
    pub commands: SharedCommands,
    /// What is in use on nodes.
    pub inventories: Inventories,
    /// Time.
    pub clock: SharedClock,
    /// Whom to tell.
    pub bus: Bus,
    /// This run.
    pub epoch: Epoch,
    /// How patient it is.
    pub settings: EngineSettings,
    /// Opens the apps' secrets.
    pub secrets: Arc<Sealer>,
}

type Locks = Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

struct Inner {
    deps: EngineDeps,
    wake: Notify,
    /// Counts ended operations: one that is queued behind another of its app looks again.
    ended: watch::Sender<u64>,
    active: Mutex<HashMap<OperationId, Arc<Notify>>>,
    seats: Seats,
    exclusive: Locks,
}

/// A handle; clones share the engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// An engine that does nothing until it runs.
    pub fn new(deps: EngineDeps) -> Self {
        let seats = Seats::new(deps.settings.per_node, deps.settings.inside_per_node);
        Self(Arc::new(Inner {
            deps,
            seats,
            wake: Notify::new(),
            ended: watch::Sender::new(0),
            active: Mutex::default(),
            exclusive: Mutex::default(),
        }))
    }

    /// Something was queued.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// An operation is to look at its row again (it was asked to stop).
    pub fn kick(&self, id: OperationId) {
        if let Some(notify) = lock(&self.0.active).get(&id) {
            notify.notify_one();
        }
    }

    /// How patient it is, and how much it takes.
    pub fn settings(&self) -> &EngineSettings {
        &self.0.deps.settings
    }

    pub(super) fn deps(&self) -> &EngineDeps {
        &self.0.deps
    }

    /// Carries out operations until `shutdown`: first those that an earlier run left, then what comes. On shutdown it parks: what is under way on nodes goes
    /// on there, and the next run asks for the results.
    pub async fn run(&self, shutdown: CancellationToken) {
        let revocations = self.listen(self.0.deps.bus.subscribe());
        tokio::select! {
            biased;
            () = self.rounds(shutdown) => {}
            never = revocations => match never {},
        }
    }

    /// A node was thrown out: whatever waits for it waits in vain. Which operations those are, their rows say.
    async fn listen(&self, mut events: broadcast::Receiver<Event>) -> Infallible {
        loop {
            match events.recv().await {
                Ok(event) if !revoked::is_revocation(&event) => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    for notify in lock(&self.0.active).values() {
                        notify.notify_one();
                    }
                }
                // It cannot be: this engine holds the bus.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn rounds(&self, shutdown: CancellationToken) {
        let mut tasks: JoinSet<OperationId> = JoinSet::new();
        let mut names: HashMap<tokio::task::Id, OperationId> = HashMap::new();
        loop {
            match self.unfinished().await {
                Ok(ids) => {
                    for id in ids {
                        if let Some(notify) = self.claim(id) {
                            let handle = tasks.spawn(self.clone().drive(id, notify));
                            names.insert(handle.id(), id);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the registry cannot be read; operations wait");
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => break,
                        () = self.0.deps.clock.wait(AFTER_STORE_ERROR) => continue,
                    }
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.0.wake.notified() => {}
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    let task = match &ended {
                        Ok((task, _)) => *task,
                        Err(error) => {
                            tracing::error!(%error, "an operation's task broke; it goes on when the coordinator starts again");
                            error.id()
                        }
                    };
                    // A broken one stays claimed: begun again at once it would break again.
                    if let (Some(id), Ok(_)) = (names.remove(&task), &ended) {
                        lock(&self.0.active).remove(&id);
                    }
                }
            }
        }
        tasks.shutdown().await;
        lock(&self.0.active).clear();
    }

    async fn unfinished(&self) -> Result<Vec<OperationId>, StoreError> {
        operations::unfinished(&mut *self.0.deps.store.read().await?).await
    }

    fn claim(&self, id: OperationId) -> Option<Arc<Notify>> {
        let mut active = lock(&self.0.active);
        if active.contains_key(&id) {
            return None;
        }
        let notify = Arc::new(Notify::new());
        active.insert(id, notify.clone());
        Some(notify)
    }

    /// The nodes' seats.
    pub(super) fn seats(&self) -> &Seats {
        &self.0.seats
    }

    /// The lock of that name.
    pub(super) fn exclusive(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        lock(&self.0.exclusive).entry(name.to_owned()).or_default().clone()
    }

    /// One operation, to its end.
    async fn drive(self, id: OperationId, kicked: Arc<Notify>) -> OperationId {
        let mut drive = Drive::new(&self, id, &kicked);
        loop {
            // Listen before looking, so that nothing that happens in between is missed.
            let mut ended = self.0.ended.subscribe();
            let mut changes = self.0.deps.commands.changes();
            let mut arrivals = self.0.deps.inventories.arrivals();
            let pause = drive.advance().await;
            match pause {
                Ok(Pause::Ended) => {
                    self.0.ended.send_modify(|n| *n += 1);
                    return id;
                }
                Ok(Pause::Behind) => {
                    // The sender lives as long as this engine.
                    let _ = ended.changed().await;
                }
                Ok(Pause::Until(at)) => tokio::select! {
                    biased;
                    () = self.until(at) => {}
                    () = kicked.notified() => {}
                },
                Ok(Pause::Look(at)) => tokio::select! {
                    biased;
                    () = self.until(at) => {}
                    () = kicked.notified() => {}
                    () = told_by(drive.at_node, &mut arrivals) => drive.eager = true,
                },
                Ok(Pause::Offline(node)) => tokio::select! {
                    biased;
                    () = self.online(node, &mut changes) => {}
                    () = seen_elsewhere(&drive, node, &mut arrivals) => {}
                    () = kicked.notified() => {}
                },
                Err(error) => {
                    tracing::error!(operation_id = %id, %error, "the registry cannot be read or written; the operation waits");
                    self.0.deps.clock.wait(AFTER_STORE_ERROR).await;
                }
            }
        }
    }

    async fn until(&self, at: UnixMs) {
        let left = at.saturating_sub(self.0.deps.clock.now_ms());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        self.0.deps.clock.wait(left).await;
    }

    async fn online(&self, node: NodeId, changes: &mut broadcast::Receiver<NodeChange>) {
        while !self.0.deps.commands.is_online(node) {
            match changes.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                // The link is being taken down; so is this engine.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// Waits for an inventory of that node: what is waited for there may have changed.
async fn told_by(node: Option<NodeId>, arrivals: &mut broadcast::Receiver<NodeId>) {
    loop {
        match arrivals.recv().await {
            Ok(other) if Some(other) == node => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Waits for an inventory of another node that has the operation's container.
async fn seen_elsewhere(drive: &Drive<'_>, node: NodeId, arrivals: &mut broadcast::Receiver<NodeId>) {
    loop {
        match arrivals.recv().await {
            Ok(other) if other != node && drive.is_seen_at(other) => return,
            Ok(_) => {}
            // Too many to tell which: look.
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
