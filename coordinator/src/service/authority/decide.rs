//! What comes next in a rotation, from the plan, the nodes and the clock. Pure.

use crate::{
    clock::UnixMs,
    pki::rotation::{Plan, Stage},
};

/// What is known of a node's part in a rotation. Revoked nodes have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Follower {
    pub(super) name: String,
    /// Whether its agent can follow from root to root; `None`: it has not been connected since this is known.
    pub(super) follows: Option<bool>,
    /// Whether it has the new root on its disk.
    pub(super) has_new: bool,
    /// Whether it holds a certificate of the old root that is valid now, and none of the new one.
    pub(super) lives_by_old: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// No rotation.
    Rest,
    /// Wait for these nodes to hear of the new root, at most until then.
    Tell { waiting: Vec<String>, until: UnixMs },
    /// Let the new root sign.
    Switch { without: Vec<String> },
    /// Wait for the end of the overlap.
    Overlap { until: UnixMs },
    /// The overlap is over, but these nodes would be locked out by it.
    Held { by: Vec<String> },
    /// Trust the old root no more.
    Retire,
}

fn names<'a>(nodes: impl Iterator<Item = &'a Follower>) -> Vec<String> {
    nodes.map(|node| node.name.clone()).collect()
}

/// Nodes that have not heard of the new root and can.
///
/// One whose agent cannot follow is not waited for: it believes the coordinator by the new root's key that the old one has signed.
pub(super) fn untold(nodes: &[Follower]) -> Vec<String> {
    names(nodes.iter().filter(|node| node.follows != Some(false) && !node.has_new))
}

/// Nodes whose agent has to be updated before the old root goes: their certificate is of that one, and they take no other. One that has not been seen since the
/// coordinator's own update is among them for as long as it has a certificate to come with.
pub(super) fn must_update(nodes: &[Follower]) -> Vec<String> {
    names(nodes.iter().filter(|node| match node.follows {
        Some(follows) => !follows,
        None => node.lives_by_old,
    }))
}

/// Decides. Whether the clock can be relied on is not judged here.
pub(super) fn next(plan: &Plan, nodes: &[Follower], now: UnixMs) -> Next {
    match &plan.rotation {
        None => Next::Rest,
        Some(Stage::Announced { announce_until, .. }) => {
            let waiting = untold(nodes);
            if waiting.is_empty() || now >= *announce_until {
                Next::Switch { without: waiting }
            } else {
                Next::Tell {
                    waiting,
                    until: *announce_until,
                }
            }
        }
        Some(Stage::Overlap { retire_at, .. }) if now < *retire_at => Next::Overlap { until: *retire_at },
        Some(Stage::Overlap { .. }) => {
            let by = must_update(nodes);
            if by.is_empty() { Next::Retire } else { Next::Held { by } }
        }
    }
}

impl Next {
    /// Whether it is the clock alone that brings it about.
    pub(super) fn is_by_date(&self) -> bool {
        match self {
            Self::Switch { without } => !without.is_empty(),
            Self::Retire => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(name: &str, follows: Option<bool>, has_new: bool, lives_by_old: bool) -> Follower {
        Follower {
            name: name.into(),
            follows,
            has_new,
            lives_by_old,
        }
    }

    fn plan(rotation: Option<Stage>) -> Plan {
        Plan {
            rotation,
            ..Plan::default()
        }
    }

    fn announced() -> Plan {
        plan(Some(Stage::Announced {
            begun_at: 0,
            announce_until: 100,
            overlap_ms: 1000,
            renew_within_s: 0,
        }))
    }

    fn overlap() -> Plan {
        plan(Some(Stage::Overlap {
            begun_at: 0,
            switched_at: 100,
            retire_at: 1100,
            renew_within_s: 0,
        }))
    }

    #[test]
    fn the_new_root_signs_once_everybody_has_heard_of_it() {
        let (told, old) = (
            node("told", Some(true), true, true),
            node("old", Some(false), false, true),
        );
        let switch = Next::Switch { without: vec![] };
        assert_eq!(next(&plan(None), &[], 0), Next::Rest);
        assert_eq!(next(&announced(), &[], 0), switch, "no node at all");
        assert_eq!(next(&announced(), &[told.clone(), old.clone()], 0), switch);
        let away = [
            told,
            old,
            node("away", Some(true), false, true),
            node("unknown", None, false, false),
        ];
        let waiting = vec!["away".to_owned(), "unknown".to_owned()];
        assert_eq!(
            next(&announced(), &away, 99),
            Next::Tell {
                waiting: waiting.clone(),
                until: 100
            }
        );
        let without = next(&announced(), &away, 100);
        assert_eq!(without, Next::Switch { without: waiting });
        assert!(without.is_by_date() && !switch.is_by_date());
    }

    #[test]
    fn the_old_root_does_not_go_while_a_node_can_live_by_no_other() {
        let fine = node("fine", Some(true), true, false);
        let away = node("away", Some(true), false, false);
        let old = node("old", Some(false), false, true);
        let unseen = |lives| node("unseen", None, false, lives);
        assert_eq!(
            next(&overlap(), std::slice::from_ref(&old), 1099),
            Next::Overlap { until: 1100 }
        );
        assert_eq!(
            next(&overlap(), &[fine.clone(), away.clone(), unseen(false)], 1100),
            Next::Retire
        );
        assert_eq!(
            next(&overlap(), &[fine, away, old, unseen(true)], 1100),
            Next::Held {
                by: vec!["old".into(), "unseen".into()]
            }
        );
    }
}
