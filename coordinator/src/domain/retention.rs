//! Which backups stay. `keep-last|hourly|daily|weekly|monthly|yearly` mean what they mean to Proxmox (`prune_mark_backup_group` of PVE::Storage): the rules are
//! gone through in that order, each over all backups from the newest, and each keeps the newest of so many periods that no earlier rule has kept one of. What is
//! protected is not counted. Beyond Proxmox: the newest backup that can be restored is never removed.

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most that one rule may keep.
pub const MOST: u32 = 10_000;

/// How many to keep of each period; 0: that rule says nothing. Without any rule everything is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// The newest.
    #[serde(alias = "keep-last")]
    pub keep_last: u32,
    /// The newest of each hour.
    #[serde(alias = "keep-hourly")]
    pub keep_hourly: u32,
    /// The newest of each day.
    #[serde(alias = "keep-daily")]
    pub keep_daily: u32,
    /// The newest of each week, which begins on monday (ISO 8601).
    #[serde(alias = "keep-weekly")]
    pub keep_weekly: u32,
    /// The newest of each month.
    #[serde(alias = "keep-monthly")]
    pub keep_monthly: u32,
    /// The newest of each year.
    #[serde(alias = "keep-yearly")]
    pub keep_yearly: u32,
}

/// A backup, as far as retention looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its number in the registry.
    pub id: i64,
    /// When it was made, seconds.
    pub made_unix_s: i64,
    /// It is never removed.
    pub protected: bool,
    /// It can be restored, as far as is known.
    pub good: bool,
}

/// What becomes of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// A rule keeps it, or there is no rule.
    Keep,
    /// Somebody has protected it.
    Protected,
    /// No rule keeps it, but there is no other that could be restored.
    LastGood,
    /// It goes.
    Remove,
}

/// What becomes of a backup, and by which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub mark: Mark,
    /// The rule (`keep-daily`…) that keeps it, or that keeps a newer one of the same period in its place; `None`: no rule speaks of it.
    pub rule: Option<&'static str>,
}

impl From<Mark> for Verdict {
    fn from(mark: Mark) -> Self {
        Self { mark, rule: None }
    }
}

/// A rule's value is out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule} = {value} is not within 0 to {MOST}")]
pub struct OutOfBounds {
    rule: &'static str,
    value: u32,
}

impl Retention {
    fn rules(&self) -> [(&'static str, u32); 6] {
        [
            ("keep-last", self.keep_last),
            ("keep-hourly", self.keep_hourly),
            ("keep-daily", self.keep_daily),
            ("keep-weekly", self.keep_weekly),
            ("keep-monthly", self.keep_monthly),
            ("keep-yearly", self.keep_yearly),
        ]
    }

    /// Whether it keeps everything.
    pub fn keeps_all(&self) -> bool {
        self.rules().iter().all(|(_, keep)| *keep == 0)
    }

    /// Checks its numbers.
    ///
    /// # Errors
    /// The first that is out of bounds.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        match self.rules().into_iter().find(|(_, value)| *value > MOST) {
            Some((rule, value)) => Err(OutOfBounds { rule, value }),
            None => Ok(()),
        }
    }

    /// What becomes of each backup of one app, by its number. The order of `backups` does not matter; `zone` is where days begin.
    pub fn marks(&self, backups: &[Candidate], zone: &TimeZone) -> BTreeMap<i64, Mark> {
        let verdicts = self.verdicts(backups, zone);
        verdicts.into_iter().map(|(id, verdict)| (id, verdict.mark)).collect()
    }

    /// The same with the rules.
    pub fn verdicts(&self, backups: &[Candidate], zone: &TimeZone) -> BTreeMap<i64, Verdict> {
        let mut newest_first: Vec<&Candidate> = backups.iter().collect();
        newest_first.sort_by_key(|backup| std::cmp::Reverse((backup.made_unix_s, backup.id)));
        let mut verdicts: BTreeMap<i64, Verdict> = newest_first
            .iter()
            .filter(|backup| backup.protected)
            .map(|backup| (backup.id, Mark::Protected.into()))
            .collect();
        if self.keeps_all() {
            for backup in newest_first {
                verdicts.entry(backup.id).or_insert(Mark::Keep.into());
            }
            return verdicts;
        }
        for (rule, keep) in self.rules() {
            if keep > 0 {
                judge_by(rule, keep, &newest_first, zone, &mut verdicts);
            }
        }
        for backup in &newest_first {
            verdicts.entry(backup.id).or_insert(Mark::Remove.into());
        }
        let goes = |backup: &Candidate| {
            let verdict = verdicts.get(&backup.id);
            verdict.is_some_and(|verdict| verdict.mark == Mark::Remove)
        };
        if !newest_first.iter().any(|backup| backup.good && !goes(backup)) {
            if let Some(newest) = newest_first.iter().find(|backup| backup.good) {
                verdicts.insert(newest.id, Mark::LastGood.into());
            }
        }
        verdicts
    }
}

/// One rule over all backups, newest first.
fn judge_by(
    rule: &'static str,
    keep: u32,
    newest_first: &[&Candidate],
    zone: &TimeZone,
    verdicts: &mut BTreeMap<i64, Verdict>,
) {
    let by_rule = |mark| Verdict { mark, rule: Some(rule) };
    let period = |backup: &Candidate| period(rule, backup, zone);
    let is_kept = |backup: &Candidate| {
        let verdict = verdicts.get(&backup.id);
        verdict.is_some_and(|verdict| verdict.mark == Mark::Keep)
    };
    let served: BTreeSet<i64> = newest_first
        .iter()
        .filter(|backup| is_kept(backup))
        .map(|backup| period(backup))
        .collect();
    let mut serves: BTreeSet<i64> = BTreeSet::new();
    for backup in newest_first {
        let id = period(backup);
        if verdicts.contains_key(&backup.id) || served.contains(&id) {
            continue;
        }
        if serves.contains(&id) {
            verdicts.insert(backup.id, by_rule(Mark::Remove));
            continue;
        }
        if serves.len() as u64 >= u64::from(keep) {
            break;
        }
        serves.insert(id);
        verdicts.insert(backup.id, by_rule(Mark::Keep));
    }
}

/// The period of a rule that a backup falls into, as a number that no other period of the rule has.
fn period(rule: &str, backup: &Candidate, zone: &TimeZone) -> i64 {
    let made = Timestamp::from_second(backup.made_unix_s)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_zoned(zone.clone());
    let year = i64::from(made.year()) * 1_000_000;
    let day = i64::from(made.day_of_year()) * 100;
    match rule {
        "keep-hourly" => year + day + i64::from(made.hour()),
        "keep-daily" => year + day,
        "keep-weekly" => {
            let week = made.date().iso_week_date();
            i64::from(week.year()) * 1_000_000 + i64::from(week.week())
        }
        "keep-monthly" => year + i64::from(made.month()),
        "keep-yearly" => year,
        // Each is a period of its own.
        _ => backup.id,
    }
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
