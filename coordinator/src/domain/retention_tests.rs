//! Tests of which backups stay. The cases with times of the recorded storage are what `pvesm prune-backups` printed for it (`pvesm-prune.txt`,
//! `vzdump-stdout-noprune.txt`); the others follow the text of its manual, rule by rule.

#![allow(clippy::unwrap_used)]
use super::*;
use jiff::civil::DateTime;
use proptest::prelude::*;

fn backup(id: i64, made: &str) -> Candidate {
    let made: DateTime = made.parse().unwrap();
    Candidate {
        id,
        made_unix_s: made.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second(),
        protected: false,
        good: true,
    }
}

fn backups(made: &[&str]) -> Vec<Candidate> {
    (1..).zip(made).map(|(id, made)| backup(id, made)).collect()
}

fn kept(retention: Retention, backups: &[Candidate]) -> Vec<i64> {
    let marks = retention.marks(backups, &TimeZone::UTC);
    assert_eq!(marks.len(), backups.len());
    marks
        .into_iter()
        .filter(|(_, mark)| *mark != Mark::Remove)
        .map(|(id, _)| id)
        .collect()
}

const NONE: Retention = Retention {
    keep_last: 0,
    keep_hourly: 0,
    keep_daily: 0,
    keep_weekly: 0,
    keep_monthly: 0,
    keep_yearly: 0,
};

#[test]
fn as_proxmox_did_on_record() {
    let three = backups(&["2026-11-22 21:10:48", "2026-11-22 21:11:12", "2026-11-22 21:19:04"]);
    assert_eq!(kept(Retention { keep_last: 1, ..NONE }, &three), [3]);
    let six = backups(&[
        "2026-11-22 21:09:27",
        "2026-11-22 21:09:37",
        "2026-11-22 21:09:46",
        "2026-11-22 21:10:38",
        "2026-11-22 21:10:48",
        "2026-11-22 21:11:12",
    ]);
    assert_eq!(kept(Retention { keep_last: 2, ..NONE }, &six), [5, 6]);
}

#[test]
fn each_rule_and_each_after_those_before_it() {
    let days = backups(&[
        "2026-10-30 02:30",
        "2026-11-01 02:30",
        "2026-11-21 02:30",
        "2026-11-22 02:30", // a sunday
        "2026-11-23 02:30", // a monday
        "2026-11-24 02:30",
        "2026-11-24 14:30",
        "2026-11-24 14:50",
        "2026-11-25 02:30",
    ]);
    for (retention, stay) in [
        (NONE, vec![1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Retention { keep_last: 3, ..NONE }, vec![7, 8, 9]),
        (Retention { keep_last: 99, ..NONE }, vec![1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Retention { keep_hourly: 3, ..NONE }, vec![6, 8, 9]),
        (Retention { keep_daily: 3, ..NONE }, vec![5, 8, 9]),
        (Retention { keep_weekly: 2, ..NONE }, vec![4, 9]),
        (
            Retention {
                keep_monthly: 2,
                ..NONE
            },
            vec![1, 9],
        ),
        (Retention { keep_yearly: 2, ..NONE }, vec![9]),
        // The day of what keep-last keeps is served already: the next two days are kept.
        (
            Retention {
                keep_last: 1,
                keep_daily: 2,
                ..NONE
            },
            vec![5, 8, 9],
        ),
        // An older one of a day that is served by this rule goes, and no later rule takes it.
        (
            Retention {
                keep_daily: 2,
                keep_hourly: 0,
                keep_weekly: 1,
                ..NONE
            },
            vec![4, 8, 9],
        ),
        (
            Retention {
                keep_last: 1,
                keep_daily: 1,
                keep_weekly: 1,
                keep_monthly: 1,
                ..NONE
            },
            vec![1, 4, 8, 9],
        ),
    ] {
        assert_eq!(kept(retention, &days), stay, "{retention:?}");
    }
}

#[test]
fn a_week_goes_over_the_end_of_a_year() {
    let days = backups(&[
        "2026-12-27 01:00",
        "2026-12-31 01:00",
        "2027-01-03 01:00",
        "2027-01-04 01:00",
    ]);
    assert_eq!(kept(Retention { keep_weekly: 9, ..NONE }, &days), [1, 3, 4]);
    assert_eq!(kept(Retention { keep_yearly: 9, ..NONE }, &days), [2, 4]);
}

#[test]
fn days_begin_where_the_zone_says() {
    let zone = TimeZone::posix("CET-1").unwrap();
    let two = backups(&["2026-11-24 22:50", "2026-11-24 23:10"]);
    let retention = Retention { keep_daily: 5, ..NONE };
    assert_eq!(kept(retention, &two), [2]);
    let here = retention.marks(&two, &zone);
    assert!(here.values().all(|mark| *mark == Mark::Keep), "{here:?}");
}

#[test]
fn what_is_protected_stays_and_is_not_counted() {
    let mut days = backups(&["2026-11-23 02:30", "2026-11-24 02:30", "2026-11-25 02:30"]);
    days[2].protected = true;
    let marks = Retention { keep_last: 1, ..NONE }.marks(&days, &TimeZone::UTC);
    assert_eq!(
        marks.into_values().collect::<Vec<_>>(),
        [Mark::Remove, Mark::Keep, Mark::Protected]
    );
}

#[test]
fn the_last_that_can_be_restored_stays() {
    let mut days = backups(&["2026-11-23 02:30", "2026-11-24 02:30", "2026-11-25 02:30"]);
    days[2].good = false;
    let marks = Retention { keep_last: 1, ..NONE }.marks(&days, &TimeZone::UTC);
    assert_eq!(
        marks.into_values().collect::<Vec<_>>(),
        [Mark::Remove, Mark::LastGood, Mark::Keep]
    );
}

#[test]
fn numbers_out_of_bounds_are_named() {
    assert_eq!(
        Retention {
            keep_weekly: MOST,
            ..NONE
        }
        .check(),
        Ok(())
    );
    let error = Retention {
        keep_weekly: MOST + 1,
        ..NONE
    }
    .check()
    .unwrap_err();
    assert_eq!(error.to_string(), "keep-weekly = 10001 is not within 0 to 10000");
}

fn any_backups() -> impl Strategy<Value = Vec<Candidate>> {
    proptest::collection::vec((0i64..90 * 86_400, any::<bool>(), 0u8..5), 0..40).prop_map(|made| {
        (1..)
            .zip(made)
            .map(|(id, (made, protected, good))| Candidate {
                id,
                made_unix_s: 1_790_000_000 + made,
                protected: protected && id % 7 == 0,
                good: good > 0,
            })
            .collect()
    })
}

fn any_retention() -> impl Strategy<Value = Retention> {
    proptest::collection::vec(0u32..6, 6).prop_map(|keep| Retention {
        keep_last: keep[0],
        keep_hourly: keep[1],
        keep_daily: keep[2],
        keep_weekly: keep[3],
        keep_monthly: keep[4],
        keep_yearly: keep[5],
    })
}

proptest! {
    #[test]
    fn the_order_of_what_is_asked_does_not_matter(all in any_backups(), retention in any_retention(), seed in any::<u64>()) {
        let mut other = all.clone();
        let mut state = seed;
        for i in (1..other.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            other.swap(i, (state >> 33) as usize % (i + 1));
        }
        prop_assert_eq!(retention.marks(&all, &TimeZone::UTC), retention.marks(&other, &TimeZone::UTC));
    }

    #[test]
    fn never_below_one_good_one(all in any_backups(), retention in any_retention()) {
        let marks = retention.marks(&all, &TimeZone::UTC);
        let stays = |backup: &Candidate| marks[&backup.id] != Mark::Remove;
        prop_assert_eq!(all.iter().any(|b| b.good), all.iter().any(|b| b.good && stays(b)));
        prop_assert!(all.iter().filter(|b| b.protected).all(stays));
    }

    #[test]
    fn done_twice_removes_nothing_more(all in any_backups(), retention in any_retention()) {
        let marks = retention.marks(&all, &TimeZone::UTC);
        let left: Vec<Candidate> = all.into_iter().filter(|b| marks[&b.id] != Mark::Remove).collect();
        let again = retention.marks(&left, &TimeZone::UTC);
        prop_assert!(again.values().all(|mark| *mark != Mark::Remove), "{:?}", again);
    }
}
