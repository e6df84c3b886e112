//! A node in memory: idempotent verbs, a journal by step key, and one place at which something goes wrong.

use super::{
    backups::{self, Archives},
    changes,
};
use crate::nodes::{BoxFuture, CommandError, NodeChange, NodeCommands, NodeQueries};
use proximity_protocol::{
    command::{Command, Outcome, Progress, Target, Verb},
    fault::{Fault, FaultKind},
    ids::{Epoch, NodeId, OperationId, Owner, StepKey, Vmid, VolumeId},
    observed::{ContainerObserved, Inventory, PublishedObserved, RecordObserved, RunState},
    spec::{AddressSpec, Recipe, Settings},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::{Notify, broadcast, mpsc, watch};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// A fault before anything was done, so many times.
    Fault(FaultKind, u32),
    /// It was done, and the fault is reported nevertheless, so many times.
    Half(FaultKind, u32),
    /// The answer is lost after the act, once.
    LoseAfter,
    /// The command is lost before the act, once.
    LoseBefore,
    /// The node goes away before the command and comes back later, once.
    GoAway,
    /// The container moves to the other node of the cluster before the command, once; with `true` the node is dead from then on.
    Move(bool),
    /// The container stops before the command, once.
    Stop,
}

/// Where.
#[derive(Debug, Clone)]
pub(crate) struct Trap {
    pub(crate) step: &'static str,
    pub(crate) undo: bool,
    pub(crate) wrong: Wrong,
    pub(crate) sprung: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    /// `None`: somebody else made it, and nobody has adopted it.
    pub(crate) owner: Option<Owner>,
    pub(crate) adopted: bool,
    pub(crate) running: bool,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) recipe: Option<Recipe>,
    /// What is in force.
    pub(crate) settings: Settings,
    pub(crate) disk_gb: u32,
    /// Keys that wait for the next start.
    pub(crate) pending: Vec<String>,
    pub(crate) ha: bool,
    /// Whether it is started with its node.
    pub(crate) onboot: bool,
}

impl Container {
    pub(crate) fn new(owner: Option<Owner>, running: bool, address: Option<Ipv4Addr>) -> Self {
        Self {
            owner,
            adopted: false,
            running,
            address,
            recipe: None,
            settings: Settings {
                cpu_cores: Some(1),
                memory_mb: Some(128),
                swap_mb: Some(0),
            },
            disk_gb: 2,
            pending: vec![],
            ha: false,
            onboot: true,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) online: bool,
    /// It never answers.
    pub(crate) hangs: bool,
    /// An inventory is given when that is let go.
    pub(crate) holds_inventory: bool,
    /// A command of this step waits until it is cancelled.
    pub(crate) waits_at: Option<&'static str>,
    /// It is at work by then: it is carried out nevertheless.
    pub(crate) goes_on: bool,
    pub(crate) containers: BTreeMap<u32, Container>,
    pub(crate) published: BTreeMap<u16, Target>,
    /// Containers on other nodes of the cluster, by the names of those.
    pub(crate) elsewhere: BTreeMap<u32, String>,
    /// A container that the command just carried out has sent to the node of that name.
    pub(super) sent: Option<(u32, String)>,
    pub(crate) no_quorum: bool,
    /// What it cannot read.
    pub(crate) unreadable: Vec<String>,
    /// Containers of nobody.
    pub(crate) adoptable: BTreeSet<u32>,
    /// Ownership records without a container.
    pub(crate) stray_records: BTreeMap<u32, Owner>,
    pub(crate) stranger_vmids: BTreeSet<u32>,
    pub(crate) stranger_ports: BTreeSet<u16>,
    pub(crate) stranger_addresses: BTreeSet<Ipv4Addr>,
    /// What the node's policy says.
    pub(crate) adopts: BTreeSet<u32>,
    pub(crate) destroys_adopted: bool,
    /// A running container takes its memory over at the next start only.
    pub(crate) memory_waits: bool,
    pub(crate) archives: Archives,
    /// How often a container was really made.
    pub(crate) made: u32,
    /// How many commands that load the node are being carried out now, and the most that ever were.
    pub(crate) busy: usize,
    pub(crate) busiest: usize,
    journal: HashMap<(OperationId, StepKey), Result<Outcome, Fault>>,
    /// What each key asked when it came first.
    asked: HashMap<(OperationId, StepKey), Verb>,
}

pub(crate) struct FakeNodes {
    pub(crate) models: Mutex<HashMap<NodeId, Model>>,
    pub(crate) traps: Mutex<Vec<Trap>>,
    /// Every command that arrived, in order.
    pub(crate) seen: Mutex<Vec<Command>>,
    changes: broadcast::Sender<NodeChange>,
    cancels: watch::Sender<BTreeSet<OperationId>>,
    /// How many commands have waited to be cancelled or to be let go.
    pub(crate) waiting: watch::Sender<usize>,
    /// Lets go of inventories.
    pub(crate) let_go: Notify,
}

impl FakeNodes {
    pub(crate) fn new(nodes: &[NodeId]) -> Arc<Self> {
        let models = nodes
            .iter()
            .map(|n| {
                let model = Model {
                    name: format!("pve{}", n.0.as_u128()),
                    online: true,
                    ..Model::default()
                };
                (*n, model)
            })
            .collect();
        Arc::new(Self {
            models: Mutex::new(models),
            traps: Mutex::default(),
            seen: Mutex::default(),
            changes: broadcast::channel(64).0,
            cancels: watch::Sender::default(),
            waiting: watch::Sender::default(),
            let_go: Notify::new(),
        })
    }

    pub(crate) fn model<T>(&self, node: NodeId, read: impl FnOnce(&mut Model) -> T) -> T {
        read(self.models.lock().unwrap().get_mut(&node).unwrap())
    }

    pub(crate) fn set_online(&self, node: NodeId, online: bool) {
        self.model(node, |m| m.online = online);
        let change = if online {
            NodeChange::Online(node)
        } else {
            NodeChange::Offline(node)
        };
        let _ = self.changes.send(change);
    }

    pub(crate) fn trap(&self, step: &'static str, undo: bool, wrong: Wrong) {
        self.traps.lock().unwrap().push(Trap {
            step,
            undo,
            wrong,
            sprung: 0,
        });
    }

    /// The container goes to another node of the cluster; the agent of the old one drops its ports by itself.
    pub(crate) fn move_container(&self, vmid: u32, from: NodeId, to: NodeId, name_of_to: &str) {
        let moved = self.model(from, |m| {
            m.published.retain(|_, target| target.vmid.get() != vmid);
            m.elsewhere.insert(vmid, name_of_to.to_owned());
            m.containers.remove(&vmid)
        });
        self.model(to, |m| {
            m.elsewhere.remove(&vmid);
            m.containers.extend(moved.map(|container| (vmid, container)));
        });
    }

    fn named(&self, name: &str) -> NodeId {
        let models = self.models.lock().unwrap();
        *models.iter().find(|(_, model)| model.name == name).unwrap().0
    }

    fn spring(&self, key: &StepKey) -> Option<Wrong> {
        let mut traps = self.traps.lock().unwrap();
        let trap = traps.iter_mut().find(|t| {
            let limit = match t.wrong {
                Wrong::Fault(_, n) | Wrong::Half(_, n) => n,
                _ => 1,
            };
            t.step == key.name.as_str() && t.undo == key.undo && t.sprung < limit
        })?;
        trap.sprung += 1;
        Some(trap.wrong)
    }

    async fn run(self: Arc<Self>, node: NodeId, command: Command) -> Result<Outcome, CommandError> {
        tokio::task::yield_now().await;
        if !self.model(node, |m| m.online) {
            return Err(CommandError::Offline);
        }
        self.seen.lock().unwrap().push(command.clone());
        if self.model(node, |m| m.hangs) {
            std::future::pending::<()>().await;
        }
        let key = (command.operation, command.step.clone());
        let first = self.model(node, |m| {
            m.asked
                .entry(key.clone())
                .or_insert_with(|| command.verb.clone())
                .clone()
        });
        assert_eq!(
            first, command.verb,
            "an agent refuses a key that comes back with another content"
        );
        if let Some(recorded) = self.model(node, |m| m.journal.get(&key).cloned()) {
            return recorded.map_err(CommandError::Fault);
        }
        if self.model(node, |m| m.waits_at) == Some(command.step.name.as_str()) && !command.step.undo {
            let mut cancels = self.cancels.subscribe();
            self.waiting.send_modify(|count| *count += 1);
            cancels.wait_for(|all| all.contains(&command.operation)).await.unwrap();
            if !self.model(node, |m| m.goes_on) {
                return Err(Fault::new(FaultKind::Cancelled, "cancelled while it waited").into());
            }
        }
        if command.verb == Verb::Inventory && self.model(node, |m| m.holds_inventory) {
            let let_go = self.let_go.notified();
            self.waiting.send_modify(|count| *count += 1);
            let_go.await;
        }
        let wrong = self.spring(&command.step);
        match wrong {
            Some(Wrong::LoseBefore) => return Err(CommandError::Lost),
            Some(Wrong::GoAway) => {
                self.set_online(node, false);
                let nodes = self.clone();
                tokio::spawn(async move {
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                    nodes.set_online(node, true);
                });
                return Err(CommandError::Lost);
            }
            Some(Wrong::Move(dies)) => {
                let other = *self
                    .models
                    .lock()
                    .unwrap()
                    .keys()
                    .find(|other| **other != node)
                    .unwrap();
                let name = self.model(other, |m| m.name.clone());
                self.move_container(100, node, other, &name);
                if dies {
                    self.set_online(node, false);
                    return Err(CommandError::Lost);
                }
            }
            Some(Wrong::Stop) => self.model(node, |m| m.containers.values_mut().for_each(|c| c.running = false)),
            _ => {}
        }
        let loads = !matches!(
            command.verb,
            Verb::EnsureTemplate { .. }
                | Verb::AwaitNetwork { .. }
                | Verb::InstallRecipe { .. }
                | Verb::RewriteValues { .. }
                | Verb::AwaitHealthy { .. }
                | Verb::CheckFiles { .. }
        );
        self.model(node, |m| {
            m.busy += usize::from(loads);
            m.busiest = m.busiest.max(m.busy);
        });
        tokio::task::yield_now().await;
        let result = self.model(node, |m| {
            m.busy -= usize::from(loads);
            let fault =
                |kind| Err(Fault::new(kind, format!("the trap says {kind:?}")).with_detail("a line of the tool"));
            let result = match wrong {
                Some(Wrong::Fault(kind, _)) => fault(kind),
                Some(Wrong::Half(kind, _)) => act(m, &command).and_then(|_| fault(kind)),
                _ => act(m, &command),
            };
            m.journal.insert(key, result.clone());
            result
        });
        if let Some((vmid, name)) = self.model(node, |m| m.sent.take()) {
            let to = self.named(&name);
            self.move_container(vmid, node, to, &name);
        }
        if wrong == Some(Wrong::LoseAfter) {
            return Err(CommandError::Lost);
        }
        result.map_err(CommandError::Fault)
    }
}

pub(super) fn no(kind: FaultKind) -> Result<Outcome, Fault> {
    Err(Fault::new(kind, format!("{kind:?}")))
}

pub(super) fn ours<'m>(model: &'m mut Model, target: &Target) -> Result<Option<&'m mut Container>, Fault> {
    if model.stranger_vmids.contains(&target.vmid.get()) {
        return Err(Fault::new(FaultKind::NotOurs, "not ours"));
    }
    if let Some(node) = model.elsewhere.get(&target.vmid.get()) {
        let words = format!("container {} is on node {node} now", target.vmid);
        return Err(Fault::new(FaultKind::MovedToOtherNode, words));
    }
    match model.containers.get_mut(&target.vmid.get()) {
        Some(container) if container.owner.as_ref() != Some(&target.owner) => {
            Err(Fault::new(FaultKind::NotOurs, "not ours"))
        }
        other => Ok(other),
    }
}

pub(crate) fn inventory(model: &Model) -> Inventory {
    let observed = |(vmid, container): (&u32, &Container)| ContainerObserved {
        vmid: Vmid::new(*vmid).unwrap(),
        hostname: None,
        state: if container.running {
            RunState::Running
        } else {
            RunState::Stopped
        },
        lock: None,
        owner: container.owner.clone(),
        addresses: container.address.into_iter().filter(|_| container.running).collect(),
        memory_mb: None,
        cpu_cores: None,
    };
    let nobodys = |vmid: &u32| ContainerObserved {
        vmid: Vmid::new(*vmid).unwrap(),
        hostname: Some("somebody".into()),
        state: RunState::Stopped,
        lock: None,
        owner: None,
        addresses: vec![],
        memory_mb: None,
        cpu_cores: None,
    };
    let published = |(port, target): (&u16, &Target)| PublishedObserved {
        public_port: *port,
        owner: target.owner.clone(),
        vmid: target.vmid,
        address: model.containers[&target.vmid.get()].address.unwrap(),
        port: 80,
    };
    Inventory {
        quorate: !model.no_quorum,
        unreadable: model.unreadable.clone(),
        containers: model
            .containers
            .iter()
            .map(observed)
            .chain(model.adoptable.iter().map(nobodys))
            .collect(),
        elsewhere: model
            .elsewhere
            .iter()
            .map(|(vmid, node)| (Vmid::new(*vmid).unwrap(), node.clone()))
            .collect(),
        published: model
            .published
            .iter()
            .filter(|(_, t)| model.containers.contains_key(&t.vmid.get()))
            .map(published)
            .collect(),
    }
}

/// Refuses what is for containers that we made only.
pub(super) fn made(container: Container) -> Result<(), Fault> {
    if container.adopted {
        return Err(Fault::new(FaultKind::PolicyDenied, "it was adopted"));
    }
    Ok(())
}

pub(super) fn there(model: &mut Model, target: &Target, running: bool) -> Result<Container, Fault> {
    match ours(model, target)? {
        None => Err(Fault::new(FaultKind::ContainerMissing, "missing")),
        Some(c) if running && !c.running => Err(Fault::new(FaultKind::ContainerStopped, "stopped")),
        Some(c) => Ok(c.clone()),
    }
}

fn act(model: &mut Model, command: &Command) -> Result<Outcome, Fault> {
    match &command.verb {
        Verb::Inventory => Ok(Outcome::Inventory(Box::new(inventory(model)))),
        Verb::Records => {
            let record = |vmid: u32, owner: &Owner| RecordObserved {
                vmid: Vmid::new(vmid).unwrap(),
                owner: owner.clone(),
                operation: command.operation,
                began_unix_s: 0,
            };
            let of_containers = model
                .containers
                .iter()
                .filter_map(|(vmid, c)| Some(record(*vmid, c.owner.as_ref()?)));
            let stray = model.stray_records.iter().map(|(vmid, owner)| record(*vmid, owner));
            Ok(Outcome::Records(of_containers.chain(stray).collect()))
        }
        Verb::Confirm(confirm) => {
            if model.stranger_vmids.contains(&confirm.vmid.get()) {
                return no(FaultKind::VmidTaken);
            }
            if model.stranger_ports.contains(&confirm.public_port) {
                return no(FaultKind::PortTaken);
            }
            match confirm.address {
                Some(address) if model.stranger_addresses.contains(&address) => no(FaultKind::AddressTaken),
                _ => Ok(Outcome::Confirmed),
            }
        }
        Verb::EnsureTemplate { prefix, .. } => Ok(Outcome::Template {
            volume: VolumeId::new(format!("local:vztmpl/{prefix}_12.7-1_amd64.tar.zst")).unwrap(),
        }),
        Verb::EnsureCreated(spec) => {
            spec.check().unwrap();
            if model.stranger_vmids.contains(&spec.vmid.get()) {
                return no(FaultKind::VmidTaken);
            }
            if model.elsewhere.contains_key(&spec.vmid.get()) {
                return no(FaultKind::MovedToOtherNode);
            }
            if !model.containers.contains_key(&spec.vmid.get()) {
                model.made += 1;
                let address = match spec.network.address {
                    AddressSpec::Static { address, .. } => address,
                    AddressSpec::Dhcp => Ipv4Addr::from(0x0a00_0000 + spec.vmid.get()),
                };
                let container = Container::new(Some(spec.owner.clone()), false, Some(address));
                model.containers.insert(spec.vmid.get(), container);
            }
            match model.containers[&spec.vmid.get()].owner.as_ref() == Some(&spec.owner) {
                true => Ok(Outcome::Created { mac: None }),
                false => no(FaultKind::VmidTaken),
            }
        }
        Verb::EnsureStarted(target) => {
            there(model, target, false)?;
            let beside = model.containers.iter().find(|(vmid, c)| {
                let same = c.owner.as_ref().is_some_and(|owner| owner.app == target.owner.app);
                // One without an address is in nobody's way.
                **vmid != target.vmid.get() && same && c.running && c.address.is_some()
            });
            let alone = model
                .containers
                .get(&target.vmid.get())
                .is_some_and(|c| c.address.is_none());
            assert!(
                alone || beside.is_none(),
                "two containers of one app run: {target:?} and {beside:?}"
            );
            let container = ours(model, target)?.unwrap();
            if !container.running {
                container.pending.clear();
            }
            container.running = true;
            Ok(Outcome::Done)
        }
        Verb::EnsureStopped { target, .. } => {
            there(model, target, false)?;
            ours(model, target)?.unwrap().running = false;
            Ok(Outcome::Done)
        }
        Verb::AwaitNetwork { target, expect, .. } => {
            let address = there(model, target, true)?.address.unwrap();
            assert!(expect.is_none_or(|e| e == address));
            Ok(Outcome::Network { address })
        }
        Verb::InstallRecipe { target, recipe } => {
            recipe.check().unwrap();
            made(there(model, target, true)?)?;
            ours(model, target)?.unwrap().recipe = Some(recipe.clone());
            Ok(Outcome::Done)
        }
        Verb::AwaitHealthy { target, .. } => {
            made(there(model, target, true)?)?;
            Ok(Outcome::Done)
        }
        Verb::EnsurePublished {
            target, public_port, ..
        } => {
            there(model, target, true)?;
            if model.stranger_ports.contains(public_port) {
                return no(FaultKind::PortTaken);
            }
            let held = model.published.insert(*public_port, target.clone());
            assert!(held.is_none_or(|h| h == *target), "two owners of port {public_port}");
            Ok(Outcome::Published {
                address: Ipv4Addr::new(192, 0, 2, 1),
            })
        }
        Verb::EnsureUnpublished { target, public_port } => {
            if model.published.get(public_port) == Some(target) {
                model.published.remove(public_port);
            }
            Ok(Outcome::Done)
        }
        Verb::EnsureDestroyed(target) => {
            if let Some(container) = ours(model, target)? {
                if container.adopted && !model.destroys_adopted {
                    return no(FaultKind::PolicyDenied);
                }
                model.published.retain(|_, t| t != target);
                model.containers.remove(&target.vmid.get());
            }
            Ok(Outcome::Done)
        }
        Verb::Examine { only } => Ok(Outcome::Examined(Box::new(changes::examination(model, *only)))),
        _ => backups::act(model, command),
    }
}

/// The port behind which the nodes are.
pub(crate) struct Port(pub(crate) Arc<FakeNodes>);

impl NodeCommands for Port {
    fn execute(
        &self,
        node: NodeId,
        command: Command,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'_, Result<Outcome, CommandError>> {
        let nodes = self.0.clone();
        Box::pin(async move {
            let _ = progress.send(Progress {
                message: format!("working on {}", command.step),
                percent: Some(50),
            });
            nodes.run(node, command).await
        })
    }
    fn committed(&self, node: NodeId, operation: OperationId, step: Option<StepKey>) {
        self.0.model(node, |m| match step {
            Some(step) => drop(m.journal.remove(&(operation, step))),
            None => m.journal.retain(|(o, _), _| *o != operation),
        });
    }
    fn cancel(&self, _: NodeId, operation: OperationId) {
        self.0.cancels.send_modify(|all| {
            all.insert(operation);
        });
    }
    fn is_online(&self, node: NodeId) -> bool {
        self.0.model(node, |m| m.online)
    }
    fn changes(&self) -> broadcast::Receiver<NodeChange> {
        self.0.changes.subscribe()
    }
}

impl NodeQueries for Port {
    fn is_online(&self, node: NodeId) -> bool {
        self.0.model(node, |m| m.online)
    }
    fn online(&self) -> Vec<NodeId> {
        let models: MutexGuard<'_, _> = self.0.models.lock().unwrap();
        models.iter().filter(|(_, m)| m.online).map(|(n, _)| *n).collect()
    }
    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        None
    }
    fn refresh(&self, _: NodeId) -> BoxFuture<'_, Result<(), CommandError>> {
        Box::pin(async { Ok(()) })
    }
    fn look(&self, node: NodeId, verb: Verb, _: Duration) -> BoxFuture<'_, Result<Outcome, CommandError>> {
        Box::pin(async move {
            assert!(verb.reads_only());
            if !self.0.model(node, |m| m.online) {
                return Err(CommandError::Offline);
            }
            let command = Command {
                operation: OperationId(uuid::Uuid::new_v4()),
                step: StepKey {
                    name: "look".parse().unwrap(),
                    undo: false,
                    attempt: 1,
                },
                epoch: Epoch(1),
                verb,
            };
            self.0.model(node, |m| act(m, &command)).map_err(CommandError::Fault)
        })
    }
    fn disconnect(&self, _: NodeId, _: u32, _: &str) {}
}
