//! Tests of when a schedule is due.

#![allow(clippy::unwrap_used)]
use super::*;
use jiff::civil::date;
use proptest::prelude::*;

fn at(zone: &TimeZone, y: i16, m: i8, d: i8, hour: i8, minute: i8) -> i64 {
    let moment = zone.to_ambiguous_zoned(date(y, m, d).at(hour, minute, 0, 0));
    moment.compatible().unwrap().timestamp().as_second()
}

fn utc(y: i16, m: i8, d: i8, hour: i8, minute: i8) -> i64 {
    at(&TimeZone::UTC, y, m, d, hour, minute)
}

#[test]
fn each_form_is_due_when_it_says() {
    // A wednesday.
    let from = utc(2026, 11, 25, 12, 0);
    for (text, next) in [
        ("daily 02:30", utc(2026, 11, 26, 2, 30)),
        ("daily", utc(2026, 11, 26, 0, 0)),
        ("02:30", utc(2026, 11, 26, 2, 30)),
        ("02:30:00", utc(2026, 11, 26, 2, 30)),
        ("30 2 * * *", utc(2026, 11, 26, 2, 30)),
        ("mon..fri 22:00", utc(2026, 11, 25, 22, 0)),
        ("Sat,Sun 04:00", utc(2026, 11, 28, 4, 0)),
        ("fri..mon 04:00", utc(2026, 11, 27, 4, 0)),
        ("saturday", utc(2026, 11, 28, 0, 0)),
        ("sat *-1..7 15:00", utc(2026, 12, 5, 15, 0)),
        ("*-*-31 01:00", utc(2026, 12, 31, 1, 0)),
        ("1-1", utc(2027, 1, 1, 0, 0)),
        ("hourly", utc(2026, 11, 25, 13, 0)),
        ("weekly", utc(2026, 11, 30, 0, 0)),
        ("weekly 03:15", utc(2026, 11, 30, 3, 15)),
        ("monthly", utc(2026, 12, 1, 0, 0)),
        ("quarterly", utc(2027, 1, 1, 0, 0)),
        ("semiannually", utc(2027, 1, 1, 0, 0)),
        ("yearly", utc(2027, 1, 1, 0, 0)),
        ("*/30", utc(2026, 11, 25, 12, 30)),
        ("8..17:0/15", utc(2026, 11, 25, 12, 15)),
        ("2,14:05", utc(2026, 11, 25, 14, 5)),
        // Cron's days are either, not both.
        ("0 15 1 * sat", utc(2026, 11, 28, 15, 0)),
    ] {
        let calendar: Calendar = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(calendar.next_after(from, &TimeZone::UTC), Some(next), "{text}");
        assert_eq!(calendar.last_until(next, &TimeZone::UTC), Some(next), "{text}");
        let again: Calendar = calendar.to_string().parse().unwrap();
        assert_eq!(again, calendar);
    }
}

#[test]
fn what_is_no_calendar_says_why_and_how_one_looks() {
    for (text, says) in [
        ("", "not empty"),
        ("sometimes", "sometimes"),
        ("daily 25:00", "hour \"25\" is not within 0 to 23"),
        ("mon..fry 22:00", "\"fry\" is no day"),
        ("22:00:30", "has seconds"),
        ("2026-12-24 18:00", "year \"2026\" is not served"),
        ("10..2:00", "begins after its end"),
        ("*/0", "step \"0\""),
        ("hourly 02:30", "takes no time"),
        ("daily 02:30 please", "\"please\""),
        ("0 0 30 2 *", "never due"),
        ("2-30", "never due"),
        ("61 * * * *", "61 * * * *"),
        (&"1".repeat(121), "at most 120"),
    ] {
        let error = text.parse::<Calendar>().unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("daily 02:30"), "{text}: {error}");
    }
}

#[test]
fn clocks_that_are_put_forward_and_back_miss_nothing_and_repeat_nothing() {
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let calendar: Calendar = "daily 02:30".parse().unwrap();
    let due = |mut from: i64, until: i64| {
        let mut all = Vec::new();
        while let Some(next) = calendar.next_after(from, &zone).filter(|next| *next < until) {
            all.push(next);
            from = next;
        }
        all
    };
    // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
    for (month, day) in [(3, 29), (10, 25)] {
        let found = due(
            at(&zone, 2026, month, day - 1, 12, 0),
            at(&zone, 2026, month, day + 2, 12, 0),
        );
        assert_eq!(found.len(), 3, "{month}-{day}: {found:?}");
    }
}

proptest! {
    #[test]
    fn the_next_is_later_and_nothing_is_due_between(from in 0i64..4_000_000_000, minute in 0u8..60, hour in 0u8..24, day in 0usize..7) {
        let text = format!("{} {hour:02}:{minute:02}", WEEKDAYS[day]);
        let calendar: Calendar = text.parse().unwrap();
        let next = calendar.next_after(from, &TimeZone::UTC).unwrap();
        prop_assert!(next > from && next - from <= 7 * 86_400);
        prop_assert_eq!(calendar.last_until(next - 1, &TimeZone::UTC).unwrap(), next - 7 * 86_400);
    }

    #[test]
    fn no_text_is_too_strange(text in "\\PC{0,130}") {
        let _ = text.parse::<Calendar>();
    }

    #[test]
    fn what_looks_like_one_never_panics(text in "[a-z0-9*/.:, -]{0,40}") {
        if let Ok(calendar) = text.parse::<Calendar>() {
            let next = calendar.next_after(1_700_000_000, &TimeZone::UTC);
            prop_assert!(next.is_none_or(|next| next > 1_700_000_000));
        }
    }
}
