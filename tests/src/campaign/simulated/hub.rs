//! The links between the coordinator and its agents, in memory. Everything that is said is held here until the run decides that it arrives, or that it does not.

use crate::campaign::{
    dice::SharedDice,
    profile::{Profile, Trouble},
};
use proximity_coordinator::nodes::{BoxFuture, CommandError, NodeChange, NodeCommands, NodeQueries};
use proximity_protocol::{
    command::{Command, Outcome, Progress, Verb},
    event::Notice,
    fault::{Fault, FaultKind},
    ids::{Epoch, NodeId, OperationId, StepKey, StepName},
};
use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{broadcast, mpsc, oneshot};

/// What comes of a command.
pub type Answer = Result<Outcome, Fault>;

/// Where a command is.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// On its way to the agent.
    Sent,
    /// The agent has it.
    AtWork,
    /// Its answer is on the way back.
    Answered(Answer),
}

struct Held {
    node: usize,
    command: Command,
    stage: Stage,
    answer: oneshot::Sender<Result<Outcome, CommandError>>,
    progress: mpsc::UnboundedSender<Progress>,
}

struct Link {
    id: NodeId,
    open: bool,
    notices: VecDeque<Notice>,
}

struct State {
    links: Vec<Link>,
    held: BTreeMap<u64, Held>,
    next: u64,
    epoch: Epoch,
}

/// Where the coordinator meets its end.
struct Fate {
    dice: SharedDice,
    profile: Arc<Profile>,
    calm: AtomicBool,
    doomed: AtomicBool,
}

/// All links. Clones share them.
#[derive(Clone)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    fate: Arc<Fate>,
    changes: broadcast::Sender<NodeChange>,
}

/// A command as the run sees it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number in the order of sending.
    pub id: u64,
    /// To which node.
    pub node: usize,
    /// The command.
    pub command: Command,
    /// Where it is.
    pub stage: Stage,
}

impl Hub {
    /// Links to these nodes, all closed.
    pub fn new(nodes: &[NodeId], dice: SharedDice, profile: Arc<Profile>) -> Self {
        let link = |id: &NodeId| Link {
            id: *id,
            open: false,
            notices: VecDeque::new(),
        };
        Self {
            state: Arc::new(Mutex::new(State {
                links: nodes.iter().map(link).collect(),
                held: BTreeMap::new(),
                next: 0,
                epoch: Epoch(0),
            })),
            fate: Arc::new(Fate {
                dice,
                profile,
                calm: AtomicBool::new(true),
                doomed: AtomicBool::new(false),
            }),
            changes: broadcast::channel(1024).0,
        }
    }

    /// No trouble from now on, or again.
    pub fn set_calm(&self, calm: bool) {
        self.fate.calm.store(calm, Ordering::SeqCst);
    }

    /// Whether the coordinator is to be killed.
    pub fn is_doomed(&self) -> bool {
        self.fate.doomed.load(Ordering::SeqCst)
    }

    /// Another life of it begins.
    pub fn reborn(&self) {
        self.fate.doomed.store(false, Ordering::SeqCst);
    }

    /// Which life of it asks questions.
    pub fn live_in(&self, epoch: Epoch) {
        self.state().epoch = epoch;
    }

    /// The coordinator is about to say something, or was told something: this may be where it is killed. Then nothing of that happens any more.
    fn falls(&self) -> bool {
        let fate = &self.fate;
        let rate = fate.profile.rate(Trouble::CoordinatorKilledInAct);
        if !fate.calm.load(Ordering::SeqCst) && fate.dice.chance(rate) {
            fate.doomed.store(true, Ordering::SeqCst);
        }
        self.is_doomed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every command that is not answered, in the order of sending.
    pub fn seen(&self) -> Vec<Seen> {
        let state = self.state();
        let seen = |(id, held): (&u64, &Held)| Seen {
            id: *id,
            node: held.node,
            command: held.command.clone(),
            stage: held.stage.clone(),
        };
        state.held.iter().map(seen).collect()
    }

    /// Whether the link is open.
    pub fn is_open(&self, node: usize) -> bool {
        self.state().links[node].open
    }

    /// How many notices are on their way to the node.
    pub fn notices(&self, node: usize) -> usize {
        self.state().links[node].notices.len()
    }

    /// The node is welcome.
    pub fn open(&self, node: usize) {
        let id = {
            let mut state = self.state();
            let link = &mut state.links[node];
            link.open = true;
            link.notices.clear();
            link.id
        };
        // Nobody listening is no error: the coordinator may be busy with nothing.
        let _ = self.changes.send(NodeChange::Online(id));
    }

    /// The link breaks: whatever is on the way is lost, and whoever waits for an answer learns that none will come.
    pub fn close(&self, node: usize) {
        let (id, lost) = {
            let mut state = self.state();
            let link = &mut state.links[node];
            if !std::mem::replace(&mut link.open, false) {
                return;
            }
            link.notices.clear();
            let id = link.id;
            let lost: Vec<u64> = state
                .held
                .iter()
                .filter(|(_, held)| held.node == node)
                .map(|(id, _)| *id)
                .collect();
            (id, lost)
        };
        lost.into_iter().for_each(|id| self.lose(id));
        let _ = self.changes.send(NodeChange::Offline(id));
    }

    /// The command, or its answer, does not arrive.
    pub fn lose(&self, id: u64) {
        if let Some(held) = self.remove(id) {
            // The coordinator may have been killed meanwhile.
            let _ = held.answer.send(Err(CommandError::Lost));
        }
    }

    /// The command arrives at the agent.
    pub fn take(&self, id: u64) -> Option<Command> {
        let mut state = self.state();
        let held = state.held.get_mut(&id)?;
        held.stage = Stage::AtWork;
        Some(held.command.clone())
    }

    /// The agent says how far it is.
    pub fn progress(&self, id: u64, progress: Progress) {
        if let Some(held) = self.state().held.get(&id) {
            let _ = held.progress.send(progress);
        }
    }

    /// The agent answers.
    pub fn answer(&self, id: u64, answer: Answer) {
        if let Some(held) = self.state().held.get_mut(&id) {
            held.stage = Stage::Answered(answer);
        }
    }

    /// The answer arrives at the coordinator.
    pub fn deliver(&self, id: u64) {
        if let Some(held) = self.remove(id)
            && let Stage::Answered(answer) = held.stage
        {
            let _ = held.answer.send(answer.map_err(CommandError::Fault));
        }
    }

    /// The next notice arrives at the agent.
    pub fn next_notice(&self, node: usize) -> Option<Notice> {
        self.state().links[node].notices.pop_front()
    }

    fn remove(&self, id: u64) -> Option<Held> {
        self.state().held.remove(&id)
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        self.state().links.iter().position(|link| link.id == node)
    }

    fn notify(&self, node: NodeId, notice: Notice) {
        if self.falls() {
            return;
        }
        let mut state = self.state();
        if let Some(link) = state.links.iter_mut().find(|link| link.id == node && link.open) {
            link.notices.push_back(notice);
        }
    }
}

/// Whoever waits for an answer; gone, nobody takes it any more.
struct Waiting<'a> {
    hub: &'a Hub,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hub.remove(self.id);
    }
}

impl NodeCommands for Hub {
    fn execute(
        &self,
        node: NodeId,
        command: Command,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'_, Result<Outcome, CommandError>> {
        Box::pin(async move {
            if self.falls() {
                return pending().await;
            }
            let Some(place) = self.place(node).filter(|place| self.is_open(*place)) else {
                return Err(CommandError::Offline);
            };
            let (answer, answered) = oneshot::channel();
            let id = {
                let mut state = self.state();
                state.next += 1;
                let id = state.next;
                let held = Held {
                    node: place,
                    command,
                    stage: Stage::Sent,
                    answer,
                    progress,
                };
                state.held.insert(id, held);
                id
            };
            let _waiting = Waiting { hub: self, id };
            let answer = answered.await.unwrap_or(Err(CommandError::Lost));
            if self.falls() {
                return pending().await;
            }
            answer
        })
    }

    fn committed(&self, node: NodeId, operation: OperationId, step: Option<StepKey>) {
        self.notify(node, Notice::Committed { operation, step });
    }

    fn cancel(&self, node: NodeId, operation: OperationId) {
        self.notify(node, Notice::Cancel { operation });
    }

    fn is_online(&self, node: NodeId) -> bool {
        self.place(node).is_some_and(|place| self.is_open(place))
    }

    fn changes(&self) -> broadcast::Receiver<NodeChange> {
        self.changes.subscribe()
    }
}

impl NodeQueries for Hub {
    fn is_online(&self, node: NodeId) -> bool {
        NodeCommands::is_online(self, node)
    }

    fn online(&self) -> Vec<NodeId> {
        let state = self.state();
        let open = state.links.iter().filter(|link| link.open);
        open.map(|link| link.id).collect()
    }

    fn round_trip(&self, node: NodeId) -> Option<Duration> {
        NodeCommands::is_online(self, node).then_some(Duration::from_millis(1))
    }

    fn refresh(&self, node: NodeId) -> BoxFuture<'_, Result<(), CommandError>> {
        Box::pin(async move {
            if NodeCommands::is_online(self, node) {
                self.notify(node, Notice::Refresh);
                Ok(())
            } else {
                Err(CommandError::Offline)
            }
        })
    }

    /// A question that is lost is told so at once: nobody waits for the bound.
    fn look(&self, node: NodeId, verb: Verb, _: Duration) -> BoxFuture<'_, Result<Outcome, CommandError>> {
        Box::pin(async move {
            let malformed = |error: &dyn std::fmt::Display| {
                CommandError::Fault(Fault::new(FaultKind::Malformed, error.to_string()))
            };
            let step = StepKey {
                name: StepName::new(verb.name()).map_err(|error| malformed(&error))?,
                undo: false,
                attempt: 1,
            };
            let command = Command {
                operation: OperationId(uuid::Uuid::now_v7()),
                step,
                epoch: self.state().epoch,
                verb,
            };
            NodeCommands::execute(self, node, command, mpsc::unbounded_channel().0).await
        })
    }

    fn disconnect(&self, node: NodeId, _: u32, _: &str) {
        if let Some(place) = self.place(node) {
            self.close(place);
        }
    }
}
