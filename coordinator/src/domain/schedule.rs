//! When a schedule's backup of an app begins. An *occasion* is a moment of the calendar; the run of it begins up to `jitter_s` later, by a draw that depends on
//! the schedule, the app and the occasion alone: whoever computes it again, after a restart too, gets the same.

use super::{
    app_state::{UnknownWord, words},
    calendar::Calendar,
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// Longest jitter, seconds.
pub const JITTER_MOST_S: u32 = 6 * 3600;
/// Least time between two occasions, seconds.
pub const LEAST_APART_S: i64 = 600;
/// A run that begins later than that after its moment is a caught up one, seconds.
pub const LATE_S: i64 = 600;
/// How long a run that nobody has on the calendar is tried, seconds.
pub const TRIED_FOR_S: i64 = 24 * 3600;
/// Longest pause between two tries, seconds.
const PAUSE_MOST_S: i64 = 900;

words!(
    /// How the latest run of a schedule for an app stands.
    RunState {
        /// None was due yet.
        New = "new",
        /// It is due, and could not begin so far.
        Trying = "trying",
        /// The backup is being made.
        Started = "started",
        /// The backup was made.
        Done = "done",
        /// The backup could not be made.
        Failed = "failed",
        /// It did not begin before the next one was due.
        Missed = "missed",
    }
);

/// What the calendar of a schedule says.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'s> {
    /// Its id.
    pub schedule_id: i64,
    /// When.
    pub calendar: &'s Calendar,
    /// At most so many seconds later.
    pub jitter_s: u32,
    /// Whether a run for which nobody was there is made up for.
    pub catch_up: bool,
    /// Where days begin.
    pub zone: &'s TimeZone,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before that moment, in seconds; `None`: never again.
    NotBefore(Option<i64>),
    /// The run of that occasion begins.
    Now {
        /// The occasion.
        occasion_s: i64,
        /// It should have begun long ago.
        late: bool,
    },
    /// Nobody was there when it was due, and it is not made up for.
    Missed {
        /// The occasion.
        occasion_s: i64,
    },
}

impl Terms<'_> {
    /// When the run of an occasion begins.
    pub fn moment_s(&self, app_id: &str, occasion_s: i64) -> i64 {
        let next = self.calendar.next_after(occasion_s, self.zone);
        // At most half of the way, so that no run is overtaken by the next one.
        let half = next.map_or(i64::MAX, |next| (next - occasion_s) / 2);
        let most = half.min(self.jitter_s.into()).unsigned_abs();
        let drawn = Sha256::digest(format!("{} {app_id} {occasion_s}", self.schedule_id));
        let mut first = [0_u8; 8];
        first.copy_from_slice(&drawn[..8]);
        let extra = u64::from_be_bytes(first) % (most + 1);
        occasion_s.saturating_add_unsigned(extra)
    }

    /// What is to be done for an app of which everything up to `served_s` has been done. Of several occasions that have passed, the last one counts: what is made
    /// up for is made up for once.
    pub fn due(&self, app_id: &str, served_s: i64, now_s: i64) -> Due {
        let passed = self.calendar.last_until(now_s, self.zone);
        let Some(occasion_s) = passed.filter(|occasion| *occasion > served_s) else {
            let next = self.calendar.next_after(now_s.max(served_s), self.zone);
            return Due::NotBefore(next.map(|next| self.moment_s(app_id, next)));
        };
        let begins_s = self.moment_s(app_id, occasion_s);
        if now_s < begins_s {
            return Due::NotBefore(Some(begins_s));
        }
        let late = now_s - begins_s > LATE_S;
        if late && !self.catch_up {
            return Due::Missed { occasion_s };
        }
        Due::Now { occasion_s, late }
    }
}

/// How long to wait before the next try, seconds, after so many.
pub fn pause_s(tries: u32) -> i64 {
    60_i64
        .checked_shl(tries.min(8))
        .unwrap_or(PAUSE_MOST_S)
        .min(PAUSE_MOST_S)
}

/// The smallest distance of the next occasions after `from_s`, seconds; `None`: there is at most one.
pub fn closest_s(calendar: &Calendar, from_s: i64, zone: &TimeZone) -> Option<i64> {
    let mut at = calendar.next_after(from_s, zone)?;
    let mut closest = None;
    for _ in 0..100 {
        let Some(next) = calendar.next_after(at, zone) else {
            break;
        };
        closest = Some(closest.map_or(next - at, |least: i64| least.min(next - at)));
        at = next;
    }
    closest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    const DAY: i64 = 24 * 3600;
    /// 2026-01-01 00:00 UTC.
    const START: i64 = 1_767_225_600;
    static UTC: TimeZone = TimeZone::UTC;

    fn daily() -> Calendar {
        "daily 02:30".parse().unwrap()
    }

    fn terms(calendar: &Calendar, jitter_s: u32, catch_up: bool) -> Terms<'_> {
        Terms {
            schedule_id: 1,
            calendar,
            jitter_s,
            catch_up,
            zone: &UTC,
        }
    }

    #[test]
    fn it_runs_once_for_each_occasion() {
        let calendar = daily();
        let terms = terms(&calendar, 0, true);
        let (mut served, mut now, mut runs) = (START, START, Vec::new());
        while now < START + 30 * DAY {
            match terms.due("a", served, now) {
                Due::Now { occasion_s, late } => {
                    assert!(!late);
                    runs.push(now);
                    served = occasion_s;
                }
                Due::NotBefore(Some(next)) => now = next,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(runs.len(), 30);
        assert!(runs.iter().all(|at| at % DAY == 9000), "{runs:?}");
    }

    #[test]
    fn what_was_missed_is_made_up_for_once_or_told() {
        let calendar = daily();
        let back = START + 10 * DAY + 12 * 3600;
        let last = START + 10 * DAY + 9000;
        let due = terms(&calendar, 0, true).due("a", START, back);
        assert_eq!(
            due,
            Due::Now {
                occasion_s: last,
                late: true
            }
        );
        assert_eq!(
            terms(&calendar, 0, true).due("a", last, back),
            Due::NotBefore(Some(last + DAY))
        );
        assert_eq!(
            terms(&calendar, 0, false).due("a", START, back),
            Due::Missed { occasion_s: last }
        );
        // A moment late is on time: nobody looks at each second.
        let due = terms(&calendar, 0, false).due("a", START, last + LATE_S);
        assert_eq!(
            due,
            Due::Now {
                occasion_s: last,
                late: false
            }
        );
    }

    #[test]
    fn the_draw_is_bounded_and_the_same_for_whoever_asks_again() {
        let calendar = daily();
        let wide = terms(&calendar, 3600, true);
        let occasion = START + 9000;
        let moments: BTreeSet<i64> = (0..500).map(|n| wide.moment_s(&format!("app-{n}"), occasion)).collect();
        assert!(moments.iter().all(|at| (occasion..=occasion + 3600).contains(at)));
        assert!(moments.len() > 400, "they are spread: {}", moments.len());
        assert_eq!(wide.moment_s("app-1", occasion), wide.moment_s("app-1", occasion));
        let begins = wide.moment_s("app-1", occasion);
        assert_eq!(wide.due("app-1", START, begins - 1), Due::NotBefore(Some(begins)));
        assert_eq!(wide.due("app-1", START, occasion - 1), Due::NotBefore(Some(begins)));
        // It never reaches the next occasion.
        let often: Calendar = "*/30".parse().unwrap();
        let often = terms(&often, 6 * 3600, true);
        assert!((0..500).all(|n| often.moment_s(&format!("app-{n}"), START) <= START + 900));
        assert_eq!(terms(&calendar, 0, true).moment_s("a", occasion), occasion);
    }

    #[test]
    fn pauses_grow_and_distances_are_measured() {
        let pauses: Vec<i64> = (0..6).map(pause_s).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 900, 900]);
        assert_eq!(pause_s(u32::MAX), 900);
        let closest = |text: &str| closest_s(&text.parse().unwrap(), START, &TimeZone::UTC);
        assert_eq!(closest("daily 02:30"), Some(DAY));
        assert_eq!(closest("*/30"), Some(1800));
        assert_eq!(closest("22:00,05"), Some(300));
    }
}
