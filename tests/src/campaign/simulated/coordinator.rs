//! One life of the coordinator of a run: everything that `proximity-coordinator serve` runs, without its two doors. Users come in through the use cases, agents
//! through the hub.

use super::{hub::Hub, lockstep::Lockstep, node::RunNode, time::Time};
use anyhow::{Context, Result};
use proximity_coordinator::{
    clock::SharedClock,
    domain::{catalog::SharedCatalog, role::Role},
    events::{Bus, Event},
    live::Live,
    nodes::inventories::Inventories,
    operations::{Engine, EngineDeps, EngineSettings},
    reconcile::{Reconciler, janitor::Janitor, rounds::Rounds},
    secrets::Sealer,
    service::{
        Caller,
        apps::{Apps, AppsDeps},
        nodes::Nodes,
        operations::Operations,
        rescue::Rescue,
    },
    store::{
        Store, app_secrets,
        hosts::{self, HostFields, NetworkRow},
        nodes, users,
    },
};
use proximity_protocol::{
    event::Notice,
    ids::{Epoch, NodeId, OperationId},
    observed::{Inventory, NodeFacts},
};
use std::{path::Path, sync::Arc};
use tokio::sync::{
    Notify,
    broadcast::{self, error::TryRecvError},
};
use tokio_util::sync::CancellationToken;

/// The parts of a life.
pub struct Coordinator {
    process: Lockstep,
    /// The registry.
    pub store: Store,
    /// The apps' use cases.
    pub apps: Apps,
    /// The nodes' use cases.
    pub nodes: Nodes,
    /// The operations' use cases.
    pub operations: Operations,
    /// What operators do about stuck ones.
    pub rescue: Rescue,
    /// Who asks.
    pub caller: Caller,
    /// This run of it.
    pub epoch: Epoch,
    inventories: Inventories,
    clock: SharedClock,
    events: broadcast::Receiver<Event>,
}

fn caller() -> Caller {
    Caller {
        user_id: 1,
        username: "ada".into(),
        role: Role::Admin,
        remote: None,
        request_id: None,
    }
}

impl Coordinator {
    /// Starts it on the registry below `state`.
    pub fn start(state: &Path, catalog: &SharedCatalog, hub: &Hub, time: &Time) -> Result<Self> {
        let process = Lockstep::new()?;
        let (store, epoch, in_use) = process.run(async {
            let store = Store::open_serial(&state.join("registry.db")).await?;
            let epoch = Epoch(store.raise_epoch().await?);
            let in_use = app_secrets::any(&mut *store.read().await?).await?;
            Ok::<_, anyhow::Error>((store, epoch, in_use))
        })??;
        let secrets = Arc::new(Sealer::open(state, in_use)?);
        let clock: SharedClock = Arc::new(time.clone());
        let (bus, inventories) = (Bus::default(), Inventories::default());
        let events = bus.subscribe();
        let engine = Engine::new(EngineDeps {
            store: store.clone(),
            commands: Arc::new(hub.clone()),
            inventories: inventories.clone(),
            clock: clock.clone(),
            bus: bus.clone(),
            epoch,
            settings: EngineSettings::default(),
            secrets: secrets.clone(),
        });
        let (for_reconciler, for_janitor) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let rounds = Rounds::new(store.clone(), clock.clone(), for_reconciler, for_janitor);
        let janitor = Janitor {
            store: store.clone(),
            engine: engine.clone(),
            clock: clock.clone(),
            bus: bus.clone(),
            rounds: rounds.clone(),
        };
        let reconciler = Reconciler {
            store: store.clone(),
            commands: Arc::new(hub.clone()),
            inventories: inventories.clone(),
            engine: engine.clone(),
            clock: clock.clone(),
            bus: bus.clone(),
            epoch,
            rounds,
        };
        hub.live_in(epoch);
        let nodes = Nodes::new(
            store.clone(),
            clock.clone(),
            Arc::new(hub.clone()),
            Live::default(),
            inventories.clone(),
            bus.clone(),
        );
        let operations = Operations::new(store.clone(), engine.clone());
        let rescue = Rescue::new(store.clone(), clock.clone(), Some((engine.clone(), bus.clone())));
        let apps = Apps::new(AppsDeps {
            store: store.clone(),
            engine: engine.clone(),
            queries: Arc::new(hub.clone()),
            live: Live::default(),
            inventories: inventories.clone(),
            catalog: catalog.clone(),
            clock: clock.clone(),
            bus,
            secrets,
        });
        let at_rest = store.clone();
        process.busy_while(move || !at_rest.is_at_rest());
        // Nobody ever cancels these: a run of the campaign ends it by killing it.
        process.spawn(async move { engine.run(CancellationToken::new()).await });
        process.spawn(async move { reconciler.run(CancellationToken::new()).await });
        process.spawn(async move { janitor.run(CancellationToken::new()).await });
        process.settle()?;
        Ok(Self {
            process,
            store,
            apps,
            nodes,
            operations,
            rescue,
            caller: caller(),
            epoch,
            inventories,
            clock,
            events,
        })
    }

    /// Enters the user, and each node with its host and that host's network.
    pub fn enrol(&self, all: &[RunNode], ids: &[NodeId], facts: &[NodeFacts]) -> Result<()> {
        let now = self.clock.now_ms();
        self.run(async {
            let mut tx = self.store.begin().await?;
            let ada = users::NewUser {
                username: "ada",
                email: None,
                password_hash: "",
                role: Role::Admin,
            };
            users::insert(&mut tx, now, &ada).await?;
            for ((node, id), facts) in all.iter().zip(ids).zip(facts) {
                let fields = HostFields {
                    name: format!("host of {}", node.name),
                    host: String::new(),
                    port: 8006,
                    is_active: true,
                    is_default: false,
                };
                if let Some(host) = hosts::by_fingerprint(&mut tx, &facts.host_fingerprint).await? {
                    // Of a cluster that has entered with its first node, network and all.
                    nodes::insert(&mut tx, now, *id, host.id, facts).await?;
                    continue;
                }
                let host = hosts::insert(&mut tx, now, None, &fields, Some(&facts.host_fingerprint)).await?;
                nodes::insert(&mut tx, now, *id, host, facts).await?;
                let (subnet, first, last) = node.network();
                let network = NetworkRow {
                    bridge: Some("vmbr0".into()),
                    vlan: None,
                    address_mode: "static".into(),
                    subnet: Some(subnet),
                    pool_first: Some(first),
                    pool_last: Some(last),
                    exclusions: "[]".into(),
                    gateway: None,
                    dns: "[]".into(),
                };
                hosts::set_network(&mut tx, now, host, &network).await?;
            }
            tx.commit().await?;
            Ok::<_, anyhow::Error>(())
        })?
    }

    /// Begins a user's request that asks nodes, and so does not end at once.
    pub fn spawn(&self, request: impl Future<Output = ()> + Send + 'static) {
        self.process.spawn(request);
    }

    /// Lets it move until that has ended.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.process.run(work).context("the coordinator")
    }

    /// Lets it move until it rests.
    pub fn settle(&self) -> Result<()> {
        self.process.settle().context("the coordinator")
    }

    /// An agent says Hello: what it may forget.
    pub fn welcome(&self, node: NodeId, facts: &NodeFacts, open: &[OperationId]) -> Result<Vec<Notice>> {
        let now = self.clock.now_ms();
        self.run(async {
            let mut tx = self.store.begin().await?;
            nodes::set_facts(&mut tx, now, node, facts).await?;
            nodes::seen(&mut tx, now, node).await?;
            let settled = nodes::settled(&mut tx, node, open).await?;
            tx.commit().await?;
            let notice = |operation| Notice::Committed { operation, step: None };
            Ok::<_, anyhow::Error>(settled.into_iter().map(notice).collect())
        })?
    }

    /// An agent tells what is on its node.
    pub fn report(&self, node: NodeId, inventory: Inventory) {
        self.inventories.put(node, self.clock.now_ms(), inventory);
    }

    /// What was told since the last call; `None` if some of it was missed.
    pub fn events(&mut self) -> Option<Vec<Event>> {
        let mut all = Vec::new();
        loop {
            match self.events.try_recv() {
                Ok(event) => all.push(event),
                Err(TryRecvError::Lagged(_)) => return None,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(all),
            }
        }
    }

    /// As `kill -9`.
    pub fn kill(self) {
        self.process.kill();
    }
}
