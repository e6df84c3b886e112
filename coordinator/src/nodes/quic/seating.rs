//! Who may have a node's place when somebody has it already: the same agent again, another run of it, another boot of its machine, or another machine with a
//! copy of its disk. Pure.
//!
//! A machine has one boot at a time. So a newcomer of another boot means that the machine has booted, or that two machines hold one identity. If the one that
//! has the place still answers, it is the latter: the one that was there first goes on, the newer is kept out, boot by boot, until an admin has decided which of
//! the two the node is. A newcomer of the same boot is the same machine, and takes the place at once, unless the place changes hands again and again: that is what
//! two copies of a running machine look like, or two agents on copies of one state folder.
//!
//! What the decision rests on is asked of the connection itself, with a bound: one that does not answer is dead, whatever its idle time says.

use proximity_protocol::ids::{BootId, ProcessId};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Boots of a node that are remembered, newest last.
const PAST_MAX: usize = 8;
/// So many times in this time a living connection is replaced at most, before it is asked whether it lives.
const FLAPS: usize = 3;
const FLAPS_WITHIN: Duration = Duration::from_secs(120);

/// Who wants the place, or has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) boot: BootId,
    pub(super) process: ProcessId,
}

/// Who has the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) claim: Claim,
    /// Whether it has answered; `None`: it was not asked.
    pub(super) answers: Option<bool>,
}

/// What has happened at a node's place.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Boots that had the place before the present one.
    past: Vec<BootId>,
    /// When it was taken from a connection that had not ended.
    replaced: VecDeque<Instant>,
}

impl History {
    /// Another boot has the place now.
    pub(super) fn passed(&mut self, boot: BootId) {
        self.past.retain(|past| *past != boot);
        self.past.push(boot);
        let over = self.past.len().saturating_sub(PAST_MAX);
        self.past.drain(..over);
    }

    /// The place was taken from a connection that had not ended.
    pub(super) fn replaced(&mut self, now: Instant) {
        self.replaced.push_back(now);
        if self.replaced.len() > FLAPS {
            self.replaced.pop_front();
        }
    }

    fn flaps(&self, now: Instant) -> bool {
        self.replaced.len() >= FLAPS
            && self
                .replaced
                .front()
                .is_some_and(|first| now.duration_since(*first) < FLAPS_WITHIN)
    }
}

/// What the registry knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known<'a> {
    /// Boots that are kept out.
    pub(super) held: &'a [BootId],
    /// The identity is known to be alive twice.
    pub(super) alarmed: bool,
}

/// What becomes of the newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has the place.
    Take,
    /// Whoever has the place is to be asked first whether it lives.
    Ask,
    /// It is the newer of two machines: kept out.
    Hold,
    /// It is the older of two machines: it has the place, and the newer is kept out.
    Swap,
}

/// Decides.
pub(super) fn judge(
    claim: Claim,
    holder: Option<Holder>,
    history: &History,
    known: Known<'_>,
    now: Instant,
) -> Verdict {
    if known.held.contains(&claim.boot) {
        return Verdict::Hold;
    }
    let Some(holder) = holder else {
        return Verdict::Take;
    };
    let same_machine = holder.claim.boot == claim.boot;
    if same_machine && !known.alarmed && !history.flaps(now) {
        return Verdict::Take;
    }
    match holder.answers {
        None => Verdict::Ask,
        Some(false) => Verdict::Take,
        Some(true) if !same_machine && history.past.contains(&claim.boot) => Verdict::Swap,
        Some(true) => Verdict::Hold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn claim(boot: u128, process: u128) -> Claim {
        Claim {
            boot: BootId(Uuid::from_u128(boot)),
            process: ProcessId(Uuid::from_u128(process)),
        }
    }

    fn holder(boot: u128, process: u128, answers: Option<bool>) -> Option<Holder> {
        Some(Holder {
            claim: claim(boot, process),
            answers,
        })
    }

    const UNKNOWN: Known<'static> = Known {
        held: &[],
        alarmed: false,
    };

    #[test]
    fn the_same_machine_takes_its_place_again_at_once() {
        let (now, fresh) = (Instant::now(), History::default());
        assert_eq!(judge(claim(1, 1), None, &fresh, UNKNOWN, now), Verdict::Take);
        for process in [1, 2] {
            assert_eq!(
                judge(claim(1, process), holder(1, 1, None), &fresh, UNKNOWN, now),
                Verdict::Take
            );
        }
    }

    #[test]
    fn another_boot_takes_it_only_from_the_dead() {
        let (now, fresh) = (Instant::now(), History::default());
        let verdict = |answers| judge(claim(2, 2), holder(1, 1, answers), &fresh, UNKNOWN, now);
        assert_eq!(verdict(None), Verdict::Ask);
        assert_eq!(verdict(Some(false)), Verdict::Take, "a reboot");
        assert_eq!(verdict(Some(true)), Verdict::Hold, "a copy");
    }

    #[test]
    fn of_two_that_live_the_one_that_was_there_first_goes_on() {
        let now = Instant::now();
        let mut history = History::default();
        // A pause of the line let the copy in; now the first is back.
        history.passed(claim(1, 1).boot);
        let verdict = |answers| judge(claim(1, 1), holder(2, 2, answers), &history, UNKNOWN, now);
        assert_eq!(verdict(None), Verdict::Ask);
        assert_eq!(verdict(Some(true)), Verdict::Swap);
        assert_eq!(
            verdict(Some(false)),
            Verdict::Take,
            "a snapshot of a running machine was restored"
        );
        for boot in 10..30 {
            history.passed(claim(boot, 1).boot);
        }
        assert_eq!(history.past.len(), PAST_MAX);
    }

    #[test]
    fn who_is_kept_out_stays_out_even_when_the_place_is_free() {
        let (now, fresh) = (Instant::now(), History::default());
        let held = [claim(2, 2).boot];
        let known = Known {
            held: &held,
            alarmed: true,
        };
        assert_eq!(judge(claim(2, 3), None, &fresh, known, now), Verdict::Hold);
        assert_eq!(judge(claim(1, 1), None, &fresh, known, now), Verdict::Take);
        // Its reboot has another boot id: it is asked for, and kept out again.
        assert_eq!(
            judge(claim(3, 1), holder(1, 1, Some(true)), &fresh, known, now),
            Verdict::Hold
        );
        // With the alarm raised, the same boot proves nothing by itself.
        assert_eq!(judge(claim(1, 2), holder(1, 1, None), &fresh, known, now), Verdict::Ask);
        assert_eq!(
            judge(claim(1, 2), holder(1, 1, Some(false)), &fresh, known, now),
            Verdict::Take
        );
    }

    #[test]
    fn a_place_that_changes_hands_again_and_again_is_asked_about() {
        let start = Instant::now();
        let mut history = History::default();
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            assert_eq!(
                judge(claim(1, 2), holder(1, 1, None), &history, UNKNOWN, now),
                Verdict::Take
            );
            history.replaced(now);
        }
        let soon = start + Duration::from_secs(10);
        assert_eq!(
            judge(claim(1, 2), holder(1, 1, None), &history, UNKNOWN, soon),
            Verdict::Ask
        );
        assert_eq!(
            judge(claim(1, 1), holder(1, 1, Some(true)), &history, UNKNOWN, soon),
            Verdict::Hold
        );
        let later = start + FLAPS_WITHIN;
        assert_eq!(
            judge(claim(1, 2), holder(1, 1, None), &history, UNKNOWN, later),
            Verdict::Take
        );
    }
}
