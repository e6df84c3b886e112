//! How well an app is covered: the age of its last good backup against its schedules.

use super::schedule::Terms;
use serde::{Deserialize, Serialize};

/// How long after its moment a scheduled backup may come before it is late, seconds: it takes a while to be made.
pub const LATE_AFTER_S: i64 = 3600;

/// How an app is covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Coverage {
    /// Its last good backup is as new as its schedules want.
    #[serde(rename = "covered")]
    Covered,
    /// It is older.
    #[serde(rename = "late")]
    Late,
    /// There is a schedule, and no good backup.
    #[serde(rename = "never")]
    Never,
    /// No schedule that runs covers it.
    #[serde(rename = "no schedule")]
    NoSchedule,
}

/// From when on a good backup has to be there by now, seconds; `None`: none was due yet. Up to `from_s` nothing was due.
pub fn wanted_since_s(terms: &Terms<'_>, app_id: &str, from_s: i64, now_s: i64) -> Option<i64> {
    let mut until = now_s;
    loop {
        let occasion = terms.calendar.last_until(until, terms.zone)?;
        if occasion <= from_s {
            return None;
        }
        if terms.moment_s(app_id, occasion).saturating_add(LATE_AFTER_S) <= now_s {
            return Some(occasion);
        }
        until = occasion - 1;
    }
}

/// How an app stands whose last good backup was begun at `last_good_s`. `wanted_s`: of each schedule that covers it, from when on there has to be one.
pub fn coverage(last_good_s: Option<i64>, wanted_s: &[Option<i64>]) -> Coverage {
    match (last_good_s, wanted_s) {
        (_, []) => Coverage::NoSchedule,
        (None, _) => Coverage::Never,
        (Some(made), wanted) if wanted.iter().flatten().any(|since| made < *since) => Coverage::Late,
        (Some(_), _) => Coverage::Covered,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::domain::calendar::Calendar;
    use jiff::tz::TimeZone;

    const DAY: i64 = 24 * 3600;
    /// 2026-01-01 00:00 UTC.
    const START: i64 = 1_767_225_600;

    #[test]
    fn a_backup_is_late_when_the_next_one_has_been_due_for_an_hour() {
        let calendar: Calendar = "daily 02:30".parse().unwrap();
        let terms = Terms {
            schedule_id: 1,
            calendar: &calendar,
            jitter_s: 0,
            catch_up: true,
            zone: &TimeZone::UTC,
        };
        let due = START + DAY + 9000;
        for (from, now, wanted) in [
            (START, due - DAY, None),
            (START, due - DAY + LATE_AFTER_S, Some(due - DAY)),
            (START, due + LATE_AFTER_S - 1, Some(due - DAY)),
            (START, due + LATE_AFTER_S, Some(due)),
            (due, due + LATE_AFTER_S, None),
        ] {
            assert_eq!(wanted_since_s(&terms, "a", from, now), wanted, "{from} {now}");
        }
    }

    #[test]
    fn each_state_has_its_cause() {
        for (last_good, wanted, state) in [
            (None, &[][..], Coverage::NoSchedule),
            (Some(5), &[][..], Coverage::NoSchedule),
            (None, &[Some(5)][..], Coverage::Never),
            (None, &[None][..], Coverage::Never),
            (Some(5), &[None][..], Coverage::Covered),
            (Some(5), &[Some(5), Some(3)][..], Coverage::Covered),
            (Some(4), &[Some(3), Some(5)][..], Coverage::Late),
        ] {
            assert_eq!(coverage(last_good, wanted), state, "{last_good:?} {wanted:?}");
        }
    }
}
