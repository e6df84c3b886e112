//! Two clocks differ: which of them is wrong, as far as this node can tell. Pure.

use super::judge::Dates;
use time::{Duration, OffsetDateTime};

/// Clocks that differ by less than this are as good as equal.
const SLACK: Duration = Duration::hours(1);

/// What is known when a certificate's dates do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evidence {
    /// What this node's clock says.
    pub(super) now: OffsetDateTime,
    /// Of this node's certificate, which the coordinator has made by its clock.
    pub(super) own: Dates,
    /// Of the certificate that the coordinator has shown.
    pub(super) theirs: Option<Dates>,
    /// By how much this node's clock was set since both were last in agreement.
    pub(super) set_by: Duration,
}

fn span(by: Duration) -> String {
    // To the nearest: what is compared is always some seconds off.
    let seconds = by.abs().whole_seconds();
    let (count, unit) = match (seconds + 1800) / 3600 {
        hours @ 0..48 => (hours, "hour"),
        _ => ((seconds + 43_200) / 86_400, "day"),
    };
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{end}")
}

/// The clock to look at, in one sentence.
pub(super) fn suspect(evidence: &Evidence) -> String {
    let Evidence {
        now,
        own,
        theirs,
        set_by,
    } = evidence;
    if set_by.abs() > SLACK {
        let direction = if set_by.is_positive() { "ahead" } else { "back" };
        return format!(
            "this node's clock was set {direction} by {} while the agent was running: set this node's clock right",
            span(*set_by)
        );
    }
    if *now + SLACK < own.not_before {
        return format!(
            "this node's clock is behind: its own certificate was made {} later: set this node's clock",
            span(own.not_before - *now)
        );
    }
    let compare = "compare `date -u` on both machines and set the clock that is wrong";
    match theirs {
        Some(theirs) if *now < theirs.not_before => format!(
            "the coordinator's clock is ahead of this node's by {} or more, and this node's fits its own certificate: look at the coordinator's clock first; {compare}",
            span(theirs.not_before - *now)
        ),
        Some(theirs) if *now >= theirs.not_after && *now < own.not_after => format!(
            "the coordinator's clock is behind this node's by {} or more, and this node's fits its own certificate: look at the coordinator's clock first; {compare}",
            span(*now - theirs.not_after)
        ),
        Some(theirs) if *now >= theirs.not_after => format!(
            "this node's clock is ahead of the coordinator's by {} or more, and past the end of its own certificate: look at this node's clock first; {compare}",
            span(*now - theirs.not_after)
        ),
        _ if *now >= own.not_after => "it has ended by this node's clock too".into(),
        _ => format!("by this node's clock it is good, so the coordinator's clock says something else: {compare}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::days(20_000 + number)
    }

    fn dates(from: i64, to: i64) -> Dates {
        Dates {
            not_before: day(from),
            not_after: day(to),
        }
    }

    fn at(now: i64, theirs: Option<Dates>, set_days: i64) -> String {
        suspect(&Evidence {
            now: day(now),
            own: dates(0, 90),
            theirs,
            set_by: Duration::days(set_days),
        })
    }

    #[test]
    fn the_clock_that_was_set_is_named() {
        assert!(at(210, Some(dates(0, 90)), 200).starts_with("this node's clock was set ahead by 200 days"));
        assert!(at(-190, Some(dates(0, 90)), -200).starts_with("this node's clock was set back by 200 days"));
    }

    #[test]
    fn a_node_behind_its_own_certificate_is_behind() {
        let words = at(-2, Some(dates(0, 90)), 0);
        assert!(
            words.starts_with("this node's clock is behind") && words.contains("2 days later"),
            "{words}"
        );
    }

    #[test]
    fn the_coordinators_clock_is_named_where_this_nodes_fits() {
        let ahead = at(10, Some(dates(209, 300)), 0);
        assert!(
            ahead.starts_with("the coordinator's clock is ahead of this node's by 199 days"),
            "{ahead}"
        );
        let behind = at(60, Some(dates(-140, -50)), 0);
        assert!(
            behind.starts_with("the coordinator's clock is behind this node's by 110 days"),
            "{behind}"
        );
        let own = at(10, None, 0);
        assert!(own.contains("by this node's clock it is good"), "{own}");
    }

    #[test]
    fn past_the_end_of_its_own_certificate_this_node_may_be_ahead() {
        let words = at(200, Some(dates(0, 90)), 0);
        assert!(
            words.starts_with("this node's clock is ahead of the coordinator's by 110 days"),
            "{words}"
        );
        assert!(at(100, None, 0).contains("has ended by this node's clock too"));
    }
}
