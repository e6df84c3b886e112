//! Who may send a command to a node now. Each node has two rows of seats: a few for commands that load it (its tools take a second of a core each), more for
//! those that only wait inside a container, so that four long installations keep nobody from anything. A seat is held for one command, not for an operation.
//!
//! The queue is fair between the apps' owners: who has the fewest seats comes first, then what is on its way already or is quickly done, then who came first.
//! There is no bound on how many wait here; that is set where operations are accepted.

use proximity_protocol::ids::NodeId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// How a step's command loads its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// It runs tools of Proxmox.
    Node,
    /// It mostly waits: for something inside the container, or for a download.
    Inside,
}

/// For whom a seat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// The app's owner.
    pub(super) owner: i64,
    /// It has begun, or is short: it goes before what has not and is not.
    pub(super) first: bool,
}

struct Wish {
    claim: Claim,
    give: oneshot::Sender<Seat>,
}

#[derive(Default)]
struct Row {
    /// Seats in use by owner.
    taken: HashMap<i64, usize>,
    /// In the order in which they came.
    wishes: Vec<Wish>,
}

impl Row {
    fn in_use(&self) -> usize {
        self.taken.values().sum()
    }
}

/// Which wish is granted next: its place among those that came.
fn next(claims: impl Iterator<Item = Claim>, taken: &HashMap<i64, usize>) -> Option<usize> {
    claims
        .enumerate()
        .min_by_key(|(place, claim)| (taken.get(&claim.owner).copied().unwrap_or(0), !claim.first, *place))
        .map(|(place, _)| place)
}

type Rows = HashMap<(NodeId, bool), Row>;

/// The seats of all nodes. Clones share them.
#[derive(Clone)]
pub(super) struct Seats {
    rows: Arc<Mutex<Rows>>,
    node: usize,
    inside: usize,
}

/// Held while a command is on its way; dropped, the next one gets it.
pub(super) struct Seat {
    seats: Seats,
    node: NodeId,
    load: Load,
    owner: i64,
}

impl Seats {
    /// With so many of each kind per node.
    pub(super) fn new(node: usize, inside: usize) -> Self {
        Self {
            rows: Arc::default(),
            node: node.max(1),
            inside: inside.max(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat, as soon as it is this one's turn. Dropped while it waits, it was never asked for.
    pub(super) async fn take(&self, node: NodeId, load: Load, claim: Claim) -> Option<Seat> {
        let (give, given) = oneshot::channel();
        let key = (node, load == Load::Inside);
        self.lock().entry(key).or_default().wishes.push(Wish { claim, give });
        self.hand_out(node, load);
        // The sender is only dropped with a seat given.
        given.await.ok()
    }

    fn hand_out(&self, node: NodeId, load: Load) {
        let most = if load == Load::Inside { self.inside } else { self.node };
        // Seats for those who have gone away are dropped after the lock, since that hands them out anew.
        let mut unwanted = Vec::new();
        {
            let mut rows = self.lock();
            let key = (node, load == Load::Inside);
            let Some(row) = rows.get_mut(&key) else { return };
            row.wishes.retain(|wish| !wish.give.is_closed());
            while row.in_use() < most
                && let Some(place) = next(row.wishes.iter().map(|w| w.claim), &row.taken)
            {
                let wish = row.wishes.remove(place);
                let owner = wish.claim.owner;
                *row.taken.entry(owner).or_default() += 1;
                let seat = Seat {
                    seats: self.clone(),
                    node,
                    load,
                    owner,
                };
                unwanted.extend(wish.give.send(seat).err());
            }
            if row.wishes.is_empty() && row.taken.is_empty() {
                rows.remove(&key);
            }
        }
        drop(unwanted);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut rows = self.seats.lock();
            if let Some(row) = rows.get_mut(&(self.node, self.load == Load::Inside))
                && let Some(count) = row.taken.get_mut(&self.owner)
            {
                *count -= 1;
                if *count == 0 {
                    row.taken.remove(&self.owner);
                }
            }
        }
        self.seats.hand_out(self.node, self.load);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::{pin::Pin, task::Poll};

    const NODE: NodeId = NodeId(uuid::Uuid::from_u128(1));

    fn claim(owner: i64, first: bool) -> Claim {
        Claim { owner, first }
    }

    type Waiting<'a> = Pin<Box<dyn Future<Output = Option<Seat>> + 'a>>;

    async fn now(waiting: &mut Waiting<'_>) -> Option<Seat> {
        match futures_util::poll!(waiting.as_mut()) {
            Poll::Ready(seat) => seat,
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_has_least_comes_first_then_what_has_begun_then_who_came_first() {
        let taken = HashMap::from([(1, 3), (2, 1)]);
        let claims = [claim(1, true), claim(2, false), claim(2, true), claim(2, true)];
        assert_eq!(next(claims.into_iter(), &taken), Some(2));
        assert_eq!(next(claims.into_iter().chain([claim(3, false)]), &taken), Some(4));
        assert_eq!(next(std::iter::empty(), &taken), None);
    }

    #[tokio::test]
    async fn one_owners_many_do_not_keep_anothers_one_waiting() {
        let seats = Seats::new(2, 2);
        let mut many: Vec<Waiting<'_>> = (0..6)
            .map(|_| Box::pin(seats.take(NODE, Load::Node, claim(1, false))) as Waiting<'_>)
            .collect();
        let mut held = Vec::new();
        for waiting in &mut many {
            held.extend(now(waiting).await);
        }
        assert_eq!(held.len(), 2);
        let mut other: Waiting<'_> = Box::pin(seats.take(NODE, Load::Node, claim(2, false)));
        assert!(now(&mut other).await.is_none());
        held.pop();
        let other = now(&mut other).await;
        assert!(other.is_some(), "four of the first owner's came before it");
        let mut inside: Waiting<'_> = Box::pin(seats.take(NODE, Load::Inside, claim(1, false)));
        assert!(
            now(&mut inside).await.is_some(),
            "what waits inside has seats of its own"
        );
    }

    #[tokio::test]
    async fn a_seat_for_somebody_who_went_away_goes_to_the_next() {
        let seats = Seats::new(1, 1);
        let held = seats.take(NODE, Load::Node, claim(1, false)).await;
        let mut gone: Waiting<'_> = Box::pin(seats.take(NODE, Load::Node, claim(2, false)));
        let mut late: Waiting<'_> = Box::pin(seats.take(NODE, Load::Node, claim(3, false)));
        assert!(now(&mut gone).await.is_none() && now(&mut late).await.is_none());
        drop(held);
        // It was given the seat and never came to take it.
        drop(gone);
        assert!(now(&mut late).await.is_some());
        drop(late);
        assert!(seats.lock().is_empty(), "nodes that nobody wants are forgotten");
    }

    proptest! {
        #[test]
        fn no_more_than_there_are_and_everybody_in_the_end(
            most in 1_usize..4,
            claims in proptest::collection::vec((0_i64..4, any::<bool>()), 1..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let seats = Seats::new(most, 1);
                let mut waiting: Vec<Waiting<'_>> = claims
                    .iter()
                    .map(|(owner, first)| Box::pin(seats.take(NODE, Load::Node, claim(*owner, *first))) as Waiting<'_>)
                    .collect();
                let mut served = 0;
                while served < claims.len() {
                    let mut held = Vec::new();
                    let mut left = Vec::new();
                    for mut one in waiting {
                        match now(&mut one).await {
                            Some(seat) => held.push(seat),
                            None => left.push(one),
                        }
                    }
                    assert!(!held.is_empty() && held.len() <= most);
                    served += held.len();
                    waiting = left;
                }
                assert!(seats.lock().is_empty());
            });
        }
    }
}
