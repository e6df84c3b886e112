//! How the authority stands, for people and for programs.

use super::decide::{self, Follower, Next};
use crate::{
    clock::{UnixMs, rfc3339},
    pki::{
        Pki, RootView,
        rotation::{Plan, Stage, Standing},
    },
    store::{node_trust, nodes::NodeRow},
};
use data_encoding::HEXLOWER;
use serde::Serialize;

/// A root that ends within this time should be replaced.
const SOON_MS: i64 = 365 * 24 * 3600 * 1000;

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootLine {
    /// SHA-256 of its public key, hexadecimal.
    pub pin: String,
    /// `incoming`, `signing`, `outgoing`, `past`.
    pub standing: Standing,
    /// From when, RFC 3339.
    pub valid_from: String,
    /// Until when.
    pub valid_until: String,
}

/// A node's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether its agent can follow from root to root; null: it has not been connected since this is known.
    pub follows: Option<bool>,
    /// Pins of the roots that it has on its disk.
    pub roots: Vec<String>,
    /// Pin of the root of its certificate; null: it has none.
    pub certificate_root: Option<String>,
    /// Until when its certificate is valid; null: it has none that is.
    pub certificate_until: Option<String>,
    /// When it was last connected.
    pub last_seen: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuthorityView {
    /// Oldest first.
    pub roots: Vec<RootLine>,
    /// `at_rest`, `announced`, `overlap`.
    pub stage: &'static str,
    /// Since when, RFC 3339.
    pub stage_since: Option<String>,
    /// When the stage ends at the latest, unless something holds it up.
    pub stage_until: Option<String>,
    /// When the keys were last saved as they are now.
    pub backed_up_at: Option<String>,
    /// Nodes that have the newest root on their disk.
    pub told: usize,
    /// Nodes that have a certificate of the newest root.
    pub renewed: usize,
    /// Every node that is not revoked.
    pub nodes: Vec<NodeView>,
    /// Nodes that have not heard of the new root.
    pub untold: Vec<String>,
    /// Nodes whose agent has to be updated before the old root goes.
    pub must_update: Vec<String>,
    /// What to do, or what happens by itself; each a sentence.
    pub next: Vec<String>,
}

/// What is known of a node.
pub(super) struct NodeTrust {
    pub(super) row: NodeRow,
    pub(super) trust: node_trust::NodeTrust,
    /// The root of its newest certificate.
    pub(super) issuer: Option<RootView>,
    /// Until when that one is valid, if it is.
    pub(super) valid_until: Option<UnixMs>,
}

fn newest(pki: &Pki) -> Option<RootView> {
    pki.roots().pop()
}

/// What the decision needs.
pub(super) fn followers(pki: &Pki, nodes: &[NodeTrust]) -> Vec<Follower> {
    let newest = newest(pki);
    let pin = newest.map(|root| HEXLOWER.encode(&root.root.pin)).unwrap_or_default();
    let follower = |node: &NodeTrust| Follower {
        name: node.row.name.clone(),
        follows: node.trust.follows_roots,
        has_new: node.trust.roots.contains(&pin),
        lives_by_old: node.valid_until.is_some()
            && node
                .issuer
                .as_ref()
                .is_none_or(|issuer| HEXLOWER.encode(&issuer.root.pin) != pin),
    };
    nodes.iter().map(follower).collect()
}

fn line(root: &RootView) -> RootLine {
    RootLine {
        pin: HEXLOWER.encode(&root.root.pin),
        standing: root.standing,
        valid_from: rfc3339(root.root.not_before),
        valid_until: rfc3339(root.root.not_after),
    }
}

fn node(node: &NodeTrust) -> NodeView {
    NodeView {
        id: node.row.id.to_string(),
        name: node.row.name.clone(),
        follows: node.trust.follows_roots,
        roots: node.trust.roots.clone(),
        certificate_root: node.issuer.as_ref().map(|issuer| HEXLOWER.encode(&issuer.root.pin)),
        certificate_until: node.valid_until.map(rfc3339),
        last_seen: node.row.last_seen.map(rfc3339),
    }
}

pub(super) fn view(pki: &Pki, nodes: &[NodeTrust], now: UnixMs) -> AuthorityView {
    let (plan, roots) = (pki.plan(), pki.roots());
    let followers = followers(pki, nodes);
    let (stage, since, until) = match &plan.rotation {
        None => ("at_rest", None, None),
        Some(Stage::Announced {
            begun_at,
            announce_until,
            ..
        }) => ("announced", Some(*begun_at), Some(*announce_until)),
        Some(Stage::Overlap {
            switched_at, retire_at, ..
        }) => ("overlap", Some(*switched_at), Some(*retire_at)),
    };
    let in_rotation = plan.rotation.is_some();
    let newest = newest(pki).map(|root| root.root.pin);
    let renewed = |node: &&NodeTrust| node.issuer.as_ref().map(|issuer| issuer.root.pin) == newest;
    AuthorityView {
        stage,
        stage_since: since.map(rfc3339),
        stage_until: until.map(rfc3339),
        backed_up_at: plan.backed_up_at.map(rfc3339),
        told: followers.iter().filter(|node| node.has_new).count(),
        renewed: nodes.iter().filter(renewed).count(),
        untold: if in_rotation {
            decide::untold(&followers)
        } else {
            Vec::new()
        },
        must_update: if in_rotation {
            decide::must_update(&followers)
        } else {
            Vec::new()
        },
        next: advice(&plan, &roots, &followers, now),
        roots: roots.iter().map(line).collect(),
        nodes: nodes.iter().map(node).collect(),
    }
}

/// What to do, or what happens by itself.
fn advice(plan: &Plan, roots: &[RootView], followers: &[Follower], now: UnixMs) -> Vec<String> {
    let mut next = Vec::new();
    match decide::next(plan, followers, now) {
        Next::Rest => {
            let ends = roots.iter().find(|root| root.standing == Standing::Signing).map(|root| root.root.not_after);
            if let Some(ends) = ends.filter(|ends| *ends < now.saturating_add(SOON_MS)) {
                next.push(format!(
                    "The root ends on {}: begin its rotation now, `proximity-coordinator ca rotate`.",
                    rfc3339(ends)
                ));
            }
        }
        Next::Tell { waiting, until } => next.push(format!(
            "The new root signs by itself once {} {} heard of it, on {} at the latest; `proximity-coordinator ca rotate --proceed` does not wait for them, \
             `--call-off` forgets the new root.",
            list(&waiting),
            if waiting.len() == 1 { "has" } else { "have" },
            rfc3339(until)
        )),
        Next::Switch { .. } => {
            next.push("The new root signs within seconds, if the coordinator runs.".into());
        }
        Next::Overlap { until } => next.push(format!(
            "The old root is trusted until {}; then the coordinator destroys its key by itself.",
            rfc3339(until)
        )),
        Next::Retire => next.push("The old root goes within the hour, if the coordinator runs.".into()),
        Next::Held { by } => next.push(format!(
            "The overlap is over, but the old root is kept for the sake of {}; `proximity-coordinator ca rotate --proceed` retires it all the same, and \
             these nodes come back once their agent is updated.",
            list(&by)
        )),
    }
    let old = if plan.rotation.is_some() {
        decide::must_update(followers)
    } else {
        Vec::new()
    };
    if !old.is_empty() {
        next.push(format!(
            "Update proximity-agent on {} before the old root is retired: it cannot follow to another root.",
            list(&old)
        ));
    }
    if plan.backed_up_at.is_none() {
        next.push("Save the keys as they are now: `proximity-coordinator ca backup FILE`.".into());
    }
    if next.is_empty() {
        next.push("Nothing to do.".into());
    }
    next
}

/// Names, but not a thousand.
fn list(names: &[String]) -> String {
    const MOST: usize = 10;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}
