//! Which roots there are and what each is good for, as it stands in `ca/roots.json`; and the steps from one root to the next. Pure.
//!
//! | stage | signs | trusted | ends |
//! |---|---|---|---|
//! | at rest | the root | the root | when an admin begins |
//! | announced | the old root | both, as far as nodes have heard of the new one | when every node has stored the new one, or its time is over |
//! | overlap | the new root | both | when its time is over, unless a node would be locked out |
//!
//! After the overlap the old root's key is destroyed and nothing that it signed is taken any more. Its certificate and the new root's key signed by it are
//! kept and shown: by them a node that was away all the time still believes the coordinator, and is told of the new root.

use crate::clock::UnixMs;
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// How long the old root stays trusted unless said otherwise: twice the life of a node's certificate.
pub const OVERLAP_DEFAULT_DAYS: u16 = 180;
/// At least so long: longer than any join token lives, so that none is worthless before its time.
pub const OVERLAP_MIN_DAYS: u16 = 2;
/// At most: five years.
pub const OVERLAP_MAX_DAYS: u16 = 1825;
/// How long nodes that are away are waited for before the new root signs.
pub const ANNOUNCE_DEFAULT_DAYS: u16 = 14;
/// Over how long connected nodes spread their renewals once the new root signs, seconds.
pub const RENEW_WITHIN_DEFAULT_S: u32 = 300;

/// What a root is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Made and told to the nodes; signs nothing yet.
    Incoming,
    /// Signs the coordinator's own certificate and those of nodes.
    Signing,
    /// What it signed is still taken.
    Outgoing,
    /// Its key is gone.
    Past,
}

/// A root by the name of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// `ca`, `ca-2`, …
    pub name: String,
    /// What it is good for.
    pub standing: Standing,
}

/// How far a rotation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    /// The new root is told to the nodes.
    Announced {
        /// Since when.
        begun_at: UnixMs,
        /// Then it goes on without those who have not heard.
        announce_until: UnixMs,
        /// How long the old root will be trusted after that.
        overlap_ms: i64,
        /// See [`Terms::renew_within_s`].
        renew_within_s: u32,
    },
    /// The new root signs, the old one is still trusted.
    Overlap {
        /// Since when the rotation goes on.
        begun_at: UnixMs,
        /// Since when the new root signs.
        switched_at: UnixMs,
        /// Then the old one is trusted no more.
        retire_at: UnixMs,
        /// See [`Terms::renew_within_s`].
        renew_within_s: u32,
    },
}

/// What an admin says when a rotation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// [`OVERLAP_MIN_DAYS`] to [`OVERLAP_MAX_DAYS`].
    pub overlap_days: u16,
    /// How long nodes that are away are waited for, days.
    pub announce_days: u16,
    /// Over how long connected nodes spread their renewals, seconds; 0: all at once.
    pub renew_within_s: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            overlap_days: OVERLAP_DEFAULT_DAYS,
            announce_days: ANNOUNCE_DEFAULT_DAYS,
            renew_within_s: RENEW_WITHIN_DEFAULT_S,
        }
    }
}

/// Why a step cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// One at a time.
    #[error("a rotation is under way already; `proximity-coordinator ca status` says how far it is")]
    UnderWay,
    /// None to go on with.
    #[error("no rotation is under way; `proximity-coordinator ca rotate` begins one")]
    NoRotation,
    /// Too late.
    #[error(
        "the new root signs already: the rotation cannot be called off any more; let it end, and rotate again if the new root is not to stay"
    )]
    Switched,
    /// Another step was expected.
    #[error("the rotation has gone on meanwhile; look at `proximity-coordinator ca status`")]
    OutOfOrder,
    /// Out of bounds.
    #[error("the old root can stay trusted for {OVERLAP_MIN_DAYS} to {OVERLAP_MAX_DAYS} days, not for {0}")]
    Overlap(u16),
    /// The clock.
    #[error("a time that far away cannot be written down")]
    Time,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub(crate) format: u32,
    /// Oldest first.
    pub roots: Vec<Entry>,
    /// `None`: at rest.
    pub rotation: Option<Stage>,
    /// When the keys were last saved as they are now.
    pub backed_up_at: Option<UnixMs>,
}

impl Default for Plan {
    /// Before the first rotation there is no file.
    fn default() -> Self {
        Self {
            format: FORMAT,
            roots: vec![Entry {
                name: "ca".into(),
                standing: Standing::Signing,
            }],
            rotation: None,
            backed_up_at: None,
        }
    }
}

fn days(count: u16) -> i64 {
    i64::from(count) * DAY_MS
}

impl Plan {
    /// Reads the file's text and checks that it makes sense.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let plan: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if plan.format != FORMAT {
            return Err(format!("format {}, this version knows {FORMAT}", plan.format));
        }
        let count = |standing| plan.roots.iter().filter(|entry| entry.standing == standing).count();
        let (incoming, outgoing) = match plan.rotation {
            None => (0, 0),
            Some(Stage::Announced { .. }) => (1, 0),
            Some(Stage::Overlap { .. }) => (0, 1),
        };
        let named = |entry: &Entry| {
            !entry.name.is_empty()
                && entry
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let whole = count(Standing::Signing) == 1
            && count(Standing::Incoming) == incoming
            && count(Standing::Outgoing) == outgoing
            && plan.roots.iter().all(named);
        whole
            .then_some(plan)
            .ok_or_else(|| "its roots do not fit its stage".into())
    }

    fn entry(&mut self, standing: Standing) -> Option<&mut Entry> {
        self.roots.iter_mut().find(|entry| entry.standing == standing)
    }

    /// The name of the root with that standing.
    pub fn name(&self, standing: Standing) -> Option<&str> {
        self.roots
            .iter()
            .find(|entry| entry.standing == standing)
            .map(|entry| entry.name.as_str())
    }

    /// The name that the next root gets.
    pub(super) fn next_name(&self) -> String {
        format!("ca-{}", self.roots.len() + 1)
    }

    /// A new root is there and told to the nodes.
    pub(super) fn announce(mut self, now: UnixMs, terms: Terms) -> Result<Self, StepError> {
        if self.rotation.is_some() {
            return Err(StepError::UnderWay);
        }
        if !(OVERLAP_MIN_DAYS..=OVERLAP_MAX_DAYS).contains(&terms.overlap_days) {
            return Err(StepError::Overlap(terms.overlap_days));
        }
        let name = self.next_name();
        self.roots.push(Entry {
            name,
            standing: Standing::Incoming,
        });
        self.rotation = Some(Stage::Announced {
            begun_at: now,
            announce_until: now.checked_add(days(terms.announce_days)).ok_or(StepError::Time)?,
            overlap_ms: days(terms.overlap_days),
            renew_within_s: terms.renew_within_s,
        });
        self.backed_up_at = None;
        Ok(self)
    }

    /// The new root signs from now on.
    pub(super) fn switch(mut self, now: UnixMs) -> Result<Self, StepError> {
        let (begun_at, overlap_ms, renew_within_s) = match self.rotation {
            Some(Stage::Announced {
                begun_at,
                overlap_ms,
                renew_within_s,
                ..
            }) => (begun_at, overlap_ms, renew_within_s),
            Some(Stage::Overlap { .. }) => return Err(StepError::OutOfOrder),
            None => return Err(StepError::NoRotation),
        };
        for (from, to) in [
            (Standing::Signing, Standing::Outgoing),
            (Standing::Incoming, Standing::Signing),
        ] {
            if let Some(entry) = self.entry(from) {
                entry.standing = to;
            }
        }
        self.rotation = Some(Stage::Overlap {
            begun_at,
            switched_at: now,
            retire_at: now.checked_add(overlap_ms).ok_or(StepError::Time)?,
            renew_within_s,
        });
        Ok(self)
    }

    /// The old root is trusted no more.
    pub(super) fn retire(mut self) -> Result<Self, StepError> {
        match self.rotation {
            Some(Stage::Overlap { .. }) => {}
            Some(Stage::Announced { .. }) => return Err(StepError::OutOfOrder),
            None => return Err(StepError::NoRotation),
        }
        if let Some(entry) = self.entry(Standing::Outgoing) {
            entry.standing = Standing::Past;
        }
        self.rotation = None;
        self.backed_up_at = None;
        Ok(self)
    }

    /// The new root is forgotten; it has signed nothing.
    pub(super) fn call_off(mut self) -> Result<Self, StepError> {
        match self.rotation {
            Some(Stage::Announced { .. }) => {}
            Some(Stage::Overlap { .. }) => return Err(StepError::Switched),
            None => return Err(StepError::NoRotation),
        }
        self.roots.retain(|entry| entry.standing != Standing::Incoming);
        self.rotation = None;
        self.backed_up_at = None;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: UnixMs = 1_790_000_000_000;

    fn standings(plan: &Plan) -> Vec<Standing> {
        plan.roots.iter().map(|entry| entry.standing).collect()
    }

    fn read_again(plan: &Plan) -> Plan {
        Plan::parse(&serde_json::to_vec(plan).unwrap()).unwrap()
    }

    #[test]
    fn a_root_comes_signs_and_goes() {
        use Standing::*;
        let rest = Plan::default();
        let announced = rest.clone().announce(NOW, Terms::default()).unwrap();
        assert_eq!(standings(&announced), [Signing, Incoming]);
        assert_eq!(
            announced.clone().announce(NOW, Terms::default()),
            Err(StepError::UnderWay)
        );
        assert_eq!(announced.clone().retire(), Err(StepError::OutOfOrder));
        assert_eq!(announced.clone().call_off().unwrap(), rest);

        let overlap = announced.switch(NOW + DAY_MS).unwrap();
        assert_eq!(standings(&overlap), [Outgoing, Signing]);
        assert!(matches!(overlap.rotation, Some(Stage::Overlap { retire_at, .. }) if retire_at == NOW + 181 * DAY_MS));
        assert_eq!(overlap.clone().call_off(), Err(StepError::Switched));
        assert_eq!(overlap.clone().switch(NOW), Err(StepError::OutOfOrder));

        let rest = overlap.retire().unwrap();
        assert_eq!(standings(&rest), [Past, Signing]);
        assert_eq!(rest.clone().retire(), Err(StepError::NoRotation));
        let again = rest.announce(NOW, Terms::default()).unwrap();
        assert_eq!(again.name(Incoming), Some("ca-3"));
        assert_eq!(read_again(&again), again);
    }

    #[test]
    fn an_overlap_shorter_than_a_join_token_is_refused() {
        for overlap_days in [0, 1, 1826] {
            let terms = Terms {
                overlap_days,
                ..Terms::default()
            };
            assert_eq!(
                Plan::default().announce(NOW, terms),
                Err(StepError::Overlap(overlap_days))
            );
        }
    }

    #[test]
    fn a_file_that_makes_no_sense_is_not_believed() {
        let announced = Plan::default().announce(NOW, Terms::default()).unwrap();
        let mut without = announced.clone();
        without.roots.pop();
        let mut two = Plan::default();
        two.roots.push(two.roots[0].clone());
        let mut outside = Plan::default();
        outside.roots[0].name = "../ca".into();
        let newer = Plan {
            format: 2,
            ..Plan::default()
        };
        for plan in [without, two, outside, newer] {
            assert!(Plan::parse(&serde_json::to_vec(&plan).unwrap()).is_err(), "{plan:?}");
        }
        assert!(Plan::parse(b"{\"format\":1").is_err());
    }
}
