//! The links of connected agents, by node: commands and questions find their connection here.

use super::{
    command,
    seating::{self, Claim, History, Holder, Known, Verdict},
};
use crate::{
    nodes::{BoxFuture, CommandError, NodeChange, NodeCommands, NodeQueries, Shown},
    store::node_trust::NodeTrust,
};
use proximity_protocol::{
    close,
    command::{Command, Outcome, Progress, Verb},
    event::Notice,
    fault::{Fault, FaultKind},
    ids::{Epoch, NodeId, OperationId, StepKey, StepName},
    roots::Pin,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};

/// How long a node may take to send fresh facts and an inventory.
const REFRESH_LIMIT: Duration = Duration::from_secs(20);
/// Notices that wait for a link. More are dropped: Hello settles what is lost.
pub(super) const NOTICES_WAITING: usize = 1024;

/// What a node has sent since its Welcome, counted after it was stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) facts: u64,
    pub(super) inventories: u64,
}

/// What a Hello and the certificate below it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    /// Which boot of the machine, which run of the agent.
    pub(super) claim: Claim,
    pub(super) version: u16,
    /// Of the certificate that it came with.
    pub(super) serial: String,
    /// Whether it can follow from root to root.
    pub(super) follows: bool,
}

/// One connected agent.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: quinn::Connection,
    pub(super) greeting: Greeting,
    /// The roots that it has said to have on its disk.
    pub(super) stored: Mutex<Vec<Pin>>,
    pub(super) notices: mpsc::Sender<Notice>,
    pub(super) received: watch::Receiver<Received>,
    /// Welcome was sent: before, it holds the place but takes no commands.
    open: AtomicBool,
}

impl Link {
    pub(super) fn new(
        connection: quinn::Connection,
        greeting: Greeting,
        notices: mpsc::Sender<Notice>,
        received: watch::Receiver<Received>,
    ) -> Self {
        Self {
            connection,
            greeting,
            stored: Mutex::default(),
            notices,
            received,
            open: AtomicBool::new(false),
        }
    }

    /// Whether it has that root on its disk.
    pub(super) fn has_stored(&self, pin: &Pin) -> bool {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).contains(pin)
    }

    pub(super) fn close(&self, code: u32, reason: &str) {
        self.connection.close(code.into(), reason.as_bytes());
    }
}

#[derive(Debug, Default)]
struct Places {
    links: HashMap<NodeId, Arc<Link>>,
    histories: HashMap<NodeId, History>,
}

/// What is known when a newcomer is judged.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    /// What the registry says.
    pub(super) trust: NodeTrust,
    /// The link that had the place and was asked, and whether it lives.
    pub(super) asked: Option<(Arc<Link>, bool)>,
}

impl Inquiry {
    /// An answer counts for the link that has given it.
    fn answer_of(&self, link: &Arc<Link>) -> Option<bool> {
        let own = self.asked.as_ref().filter(|(of, _)| Arc::ptr_eq(of, link));
        own.map(|(_, lives)| *lives)
    }
}

/// What a newcomer finds.
#[derive(Debug)]
pub(super) enum Look {
    /// The place is its own.
    Free,
    /// Whoever has it is to be asked whether it lives.
    Ask(Arc<Link>),
    /// The newcomer is the newer of two machines; this one, if any, serves.
    Held(Option<Arc<Link>>),
}

/// What became of a link that wants its place.
#[derive(Debug)]
pub(super) enum Seat {
    /// It is the node's link now; the other one was before.
    Taken { replaced: Option<Arc<Link>> },
    /// The same, and the other one is of another machine, which is kept out from now on.
    Swapped { held: Arc<Link> },
    /// It is not: the place has changed hands since it was looked at.
    Lost,
}

impl Places {
    fn judge(&self, node: NodeId, claim: Claim, known: &Inquiry) -> (Verdict, Option<Arc<Link>>) {
        let link = self.links.get(&node);
        let holder = link.map(|link| Holder {
            claim: link.greeting.claim,
            answers: known.answer_of(link),
        });
        let cloned = known.trust.cloned.as_ref();
        let registry = Known {
            held: cloned.map_or(&[], |cloned| &cloned.held),
            alarmed: cloned.is_some(),
        };
        let fresh = History::default();
        let history = self.histories.get(&node).unwrap_or(&fresh);
        let verdict = seating::judge(claim, holder, history, registry, Instant::now());
        (verdict, link.cloned())
    }
}

/// Every connected agent. Implements both ports.
#[derive(Debug)]
pub struct Connections {
    places: RwLock<Places>,
    changes: broadcast::Sender<NodeChange>,
    /// This run of the coordinator, for questions.
    epoch: Epoch,
}

impl Connections {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            places: RwLock::default(),
            epoch,
            changes: broadcast::channel(4096).0,
        }
    }

    fn seated(&self, node: NodeId) -> Option<Arc<Link>> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        places.links.get(&node).cloned()
    }

    /// The node's link, if it takes commands.
    pub(super) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.seated(node).filter(|link| link.open.load(Ordering::Acquire))
    }

    /// What a newcomer finds.
    pub(super) fn look(&self, node: NodeId, claim: Claim, known: &Inquiry) -> Look {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        match places.judge(node, claim, known) {
            (Verdict::Ask, Some(holder)) => Look::Ask(holder),
            (Verdict::Hold, holder) => Look::Held(holder),
            (Verdict::Take | Verdict::Ask | Verdict::Swap, _) => Look::Free,
        }
    }

    /// Gives the node's place to a link, if it is still its to take.
    pub(super) fn seat(&self, node: NodeId, link: &Arc<Link>, known: &Inquiry) -> Seat {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let claim = link.greeting.claim;
        let (swap, holder) = match places.judge(node, claim, known) {
            (Verdict::Take, holder) => (false, holder),
            (Verdict::Swap, holder) => (true, holder),
            (Verdict::Ask | Verdict::Hold, _) => return Seat::Lost,
        };
        places.links.insert(node, Arc::clone(link));
        let history = places.histories.entry(node).or_default();
        let before = holder
            .as_ref()
            .map(|holder| holder.greeting.claim.boot)
            .or(known.trust.boot);
        if let Some(boot) = before.filter(|boot| *boot != claim.boot && !swap) {
            history.passed(boot);
        }
        match holder {
            Some(held) if swap => Seat::Swapped { held },
            Some(replaced) => {
                if replaced.connection.close_reason().is_none() {
                    history.replaced(Instant::now());
                }
                Seat::Taken {
                    replaced: Some(replaced),
                }
            }
            None => Seat::Taken { replaced: None },
        }
    }

    /// Welcome was sent: commands may come.
    pub(super) fn open(&self, node: NodeId, link: &Arc<Link>) {
        // Under the lock, as in `leave`, so that comings and goings are told in their order.
        let places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        link.open.store(true, Ordering::Release);
        if places.links.get(&node).is_some_and(|held| Arc::ptr_eq(held, link)) {
            self.tell(NodeChange::Online(node));
        }
    }

    /// Frees the place; whether this link still had it and was open.
    pub(super) fn leave(&self, node: NodeId, link: &Arc<Link>) -> bool {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let own = places.links.get(&node).is_some_and(|held| Arc::ptr_eq(held, link));
        let own_open = own && link.open.load(Ordering::Acquire);
        if own {
            places.links.remove(&node);
        }
        if own_open {
            self.tell(NodeChange::Offline(node));
        }
        own_open
    }

    fn tell(&self, change: NodeChange) {
        // Nobody listening is no error.
        let _ = self.changes.send(change);
    }

    fn notify(&self, node: NodeId, notice: Notice) -> bool {
        self.link(node)
            .is_some_and(|link| link.notices.try_send(notice).is_ok())
    }

    /// Sends a notice to every agent that can follow from root to root.
    pub(super) fn tell_followers(&self, notice: &Notice) {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        for (node, link) in places.links.iter().filter(|(_, link)| link.greeting.follows) {
            // To one that is not welcomed yet as well: it is read after Welcome, which may have been written before the change.
            if link.notices.try_send(notice.clone()).is_err() {
                tracing::warn!(node_id = %node, "the agent was not told of the change; its next Welcome tells it");
            }
        }
    }

    async fn refreshed(&self, node: NodeId) -> Result<(), CommandError> {
        let link = self.link(node).ok_or(CommandError::Offline)?;
        let mut received = link.received.clone();
        let before = *received.borrow();
        link.notices
            .send(Notice::Refresh)
            .await
            .map_err(|_| CommandError::Lost)?;
        drop(link);
        let fresh = received.wait_for(|now| now.facts > before.facts && now.inventories > before.inventories);
        match tokio::time::timeout(REFRESH_LIMIT, fresh).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CommandError::Lost),
            Err(_) => Err(CommandError::Fault(Fault::new(
                FaultKind::DeadlineExceeded,
                format!("the node sent no fresh facts within {} s", REFRESH_LIMIT.as_secs()),
            ))),
        }
    }
}

/// A question as a command of its own: no operation waits for its answer.
fn question(verb: Verb, epoch: Epoch) -> Result<Command, CommandError> {
    let malformed = |why: String| CommandError::Fault(Fault::new(FaultKind::Malformed, why));
    if !verb.reads_only() {
        return Err(malformed(format!("{} is no question", verb.name())));
    }
    let name = StepName::new(verb.name()).map_err(|error| malformed(error.to_string()))?;
    Ok(Command {
        operation: OperationId(uuid::Uuid::now_v7()),
        step: StepKey {
            name,
            undo: false,
            attempt: 1,
        },
        epoch,
        verb,
    })
}

impl NodeCommands for Connections {
    fn execute(
        &self,
        node: NodeId,
        command: Command,
        progress: mpsc::UnboundedSender<Progress>,
    ) -> BoxFuture<'_, Result<Outcome, CommandError>> {
        Box::pin(async move {
            let link = self.link(node).ok_or(CommandError::Offline)?;
            command::execute(&link, &command, &progress).await
        })
    }

    fn committed(&self, node: NodeId, operation: OperationId, step: Option<StepKey>) {
        if !self.notify(node, Notice::Committed { operation, step }) {
            tracing::debug!(%node, %operation, "the notice of a commit was not sent; the next Hello settles it");
        }
    }

    fn cancel(&self, node: NodeId, operation: OperationId) {
        if !self.notify(node, Notice::Cancel { operation }) {
            tracing::debug!(%node, %operation, "the cancellation was not sent; the command in flight is waited for");
        }
    }

    fn is_online(&self, node: NodeId) -> bool {
        self.link(node).is_some()
    }

    fn changes(&self) -> broadcast::Receiver<NodeChange> {
        self.changes.subscribe()
    }
}

impl NodeQueries for Connections {
    fn is_online(&self, node: NodeId) -> bool {
        self.link(node).is_some()
    }

    fn online(&self) -> Vec<NodeId> {
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let open = |(node, link): (&NodeId, &Arc<Link>)| link.open.load(Ordering::Acquire).then_some(*node);
        places.links.iter().filter_map(open).collect()
    }

    fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.link(node).map(|link| link.connection.rtt())
    }

    fn refresh(&self, node: NodeId) -> BoxFuture<'_, Result<(), CommandError>> {
        Box::pin(self.refreshed(node))
    }

    fn look(&self, node: NodeId, verb: Verb, bound: Duration) -> BoxFuture<'_, Result<Outcome, CommandError>> {
        Box::pin(async move {
            let command = question(verb, self.epoch)?;
            let (progress, _) = mpsc::unbounded_channel();
            tokio::time::timeout(bound, self.execute(node, command, progress))
                .await
                .unwrap_or(Err(CommandError::Lost))
        })
    }

    fn disconnect(&self, node: NodeId, code: u32, reason: &str) {
        if let Some(link) = self.seated(node) {
            tracing::info!(%node, code, reason, "closing the node's link");
            link.close(code, reason);
        }
    }

    fn shown(&self, node: NodeId) -> Option<Shown> {
        self.link(node).map(|link| Shown {
            serial: link.greeting.serial.clone(),
            follows: link.greeting.follows,
        })
    }

    fn renew_now(&self, node: NodeId) {
        if !self.notify(node, Notice::RenewNow) {
            tracing::debug!(%node, "the agent was not asked for another key; its next Welcome does it");
        }
    }
}

/// Why the newer link replaced an older one, for the older one.
pub(super) fn replaced(old: &Link) {
    old.close(close::REPLACED, "a newer connection of this agent took over");
}
