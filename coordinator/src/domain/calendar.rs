//! When a schedule is due: a Proxmox calendar event (`mon..fri 22:00`, `*/30`, `sat *-1..7 15:00`), a word with a time (`daily 02:30`), or five fields of cron
//! (`30 2 * * *`). All are brought into cron's form, whose arithmetic (months, leap years, clocks that are put forward and back) a library does.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, tz::TimeZone};
use std::{fmt, str::FromStr};

/// Longest text of a calendar, in characters.
pub const LONGEST: usize = 120;

/// Times at which something is due.
#[derive(Debug, Clone)]
pub struct Calendar {
    text: String,
    cron: Cron,
}

/// Why a text is no calendar, and how one looks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{why}: write for example \"daily 02:30\", \"mon..fri 22:00\", \"sat *-1..7 15:00\", \"*/30\" (every 30 minutes), or five fields of cron, \"30 2 * * *\""
)]
pub struct NotACalendar {
    why: String,
}

fn wrong<T>(why: impl Into<String>) -> Result<T, NotACalendar> {
    Err(NotACalendar { why: why.into() })
}

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl FromStr for Calendar {
    type Err = NotACalendar;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().count() > LONGEST {
            return wrong(format!("a calendar has at most {LONGEST} characters"));
        }
        let words: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
        let fields: Vec<&str> = words.iter().map(String::as_str).collect();
        let (cron, of_both) = match fields[..] {
            [] => return wrong("a calendar is not empty"),
            [_, _, _, _, _] => (fields.join(" "), false),
            _ => (event(&fields)?, true),
        };
        let parsed = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            // A calendar event means days that are both; cron, either.
            .dom_and_dow(of_both)
            .build()
            .parse(&cron);
        let calendar = match parsed {
            Ok(cron) => Self {
                text: fields.join(" "),
                cron,
            },
            Err(error) => return wrong(format!("{text:?} is no calendar ({error})")),
        };
        // From a fixed moment, in UTC: whether it is ever due does not depend on either.
        if calendar.next_after(0, &TimeZone::UTC).is_none() {
            return wrong(format!("{text:?} is never due"));
        }
        Ok(calendar)
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Calendar {
    /// The first moment after `unix_s` at which it is due, in seconds; `None`: never again. A time of day that a clock put forward leaves out counts as the moment
    /// after the gap; one that comes twice is due once.
    pub fn next_after(&self, unix_s: i64, zone: &TimeZone) -> Option<i64> {
        let from = Timestamp::from_second(unix_s).ok()?.to_zoned(zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?;
        Some(next.timestamp().as_second())
    }

    /// The last moment up to `unix_s` at which it was due, in seconds; `None`: never.
    pub fn last_until(&self, unix_s: i64, zone: &TimeZone) -> Option<i64> {
        let from = Timestamp::from_second(unix_s).ok()?.to_zoned(zone.clone());
        let last = self.cron.find_previous_occurrence(&from, true).ok()?;
        Some(last.timestamp().as_second())
    }
}

/// A calendar event in cron's form.
fn event(words: &[&str]) -> Result<String, NotACalendar> {
    let mut rest = words;
    let mut minute_hour = None;
    let mut date = ("*".to_owned(), "*".to_owned());
    let mut weekdays = "*".to_owned();
    if let Some(every) = rest.first().and_then(|word| keyword(word)) {
        rest = &rest[1..];
        if every.minute_hour.0 == "*" || every.minute_hour.1 == "*" {
            if let Some(more) = rest.first() {
                return wrong(format!("{:?} takes no time, but {more:?} follows", words[0]));
            }
        }
        minute_hour = Some((every.minute_hour.0.to_owned(), every.minute_hour.1.to_owned()));
        date = (every.day.to_owned(), every.month.to_owned());
        weekdays = every.weekday.to_owned();
    } else {
        if let Some(found) = rest.first().and_then(|word| weekday_list(word)) {
            weekdays = found?;
            rest = &rest[1..];
        }
        if let Some(word) = rest.first().filter(|word| is_date(word)) {
            date = month_day(word)?;
            rest = &rest[1..];
        }
    }
    if let Some(word) = rest.first() {
        minute_hour = Some(time_of_day(word)?);
        rest = &rest[1..];
    }
    if let Some(word) = rest.first() {
        return wrong(format!("{word:?} is one word too many"));
    }
    let (minute, hour) = minute_hour.unwrap_or(("0".to_owned(), "0".to_owned()));
    Ok(format!("{minute} {hour} {} {} {weekdays}", date.0, date.1))
}

struct Every {
    minute_hour: (&'static str, &'static str),
    day: &'static str,
    month: &'static str,
    weekday: &'static str,
}

/// Proxmox's words, with its meaning: `weekly` is monday at midnight.
fn keyword(word: &str) -> Option<Every> {
    let every = |minute_hour, day, month, weekday| {
        Some(Every {
            minute_hour,
            day,
            month,
            weekday,
        })
    };
    match word {
        "minutely" => every(("*", "*"), "*", "*", "*"),
        "hourly" => every(("0", "*"), "*", "*", "*"),
        "daily" => every(("0", "0"), "*", "*", "*"),
        "weekly" => every(("0", "0"), "*", "*", "1"),
        "monthly" => every(("0", "0"), "1", "*", "*"),
        "quarterly" => every(("0", "0"), "1", "1,4,7,10", "*"),
        "semiannually" | "semi-annually" => every(("0", "0"), "1", "1,7", "*"),
        "yearly" | "annually" => every(("0", "0"), "1", "1", "*"),
        _ => None,
    }
}

/// `mon..fri,sun`; `None`: the word does not begin like days.
fn weekday_list(word: &str) -> Option<Result<String, NotACalendar>> {
    let first: String = word.chars().take_while(char::is_ascii_alphabetic).collect();
    weekday(&first)?;
    Some(
        word.split(',')
            .map(|part| {
                let (from, to) = part.split_once("..").unwrap_or((part, part));
                let day = |name: &str| match weekday(name) {
                    Some(day) => Ok(day),
                    None => wrong(format!("{name:?} is no day of the week")),
                };
                let (from, to) = (day(from)?, day(to)?);
                // sat..mon goes over the end of the week.
                let days = (to + 7 - from) % 7;
                let all: Vec<String> = (0..=days).map(|n| ((from + n) % 7).to_string()).collect();
                Ok(all.join(","))
            })
            .collect::<Result<Vec<_>, _>>()
            .map(|parts| parts.join(",")),
    )
}

/// Sunday is 0. A day may be written out.
fn weekday(name: &str) -> Option<usize> {
    const LONG: [&str; 7] = [
        "sunday",
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
    ];
    WEEKDAYS
        .iter()
        .position(|day| *day == name)
        .or_else(|| LONG.iter().position(|day| *day == name))
}

fn is_date(word: &str) -> bool {
    word.contains('-') && !word.contains(':')
}

/// `*-1..7`, `1-1`, `*-*-15`: month and day, with a year that must be `*`. In cron's order: day, month.
fn month_day(word: &str) -> Result<(String, String), NotACalendar> {
    let parts: Vec<&str> = word.split('-').collect();
    match parts[..] {
        [month, day] | ["*", month, day] => Ok((values(day, 1, 31, "day")?, values(month, 1, 12, "month")?)),
        [year, _, _] => wrong(format!("year {year:?} is not served: what is due once is no schedule")),
        _ => wrong(format!("{word:?} is no date")),
    }
}

/// `22:00`, `8..17:0/15`, or the minutes alone (`*/30`). In cron's order: minute, hour.
fn time_of_day(word: &str) -> Result<(String, String), NotACalendar> {
    let parts: Vec<&str> = word.split(':').collect();
    match parts[..] {
        [minute] => Ok((values(minute, 0, 59, "minute")?, "*".to_owned())),
        [hour, minute] | [hour, minute, "0" | "00"] => {
            Ok((values(minute, 0, 59, "minute")?, values(hour, 0, 23, "hour")?))
        }
        [_, _, _] => wrong(format!("{word:?} has seconds, and the finest step is a minute")),
        _ => wrong(format!("{word:?} is no time of day")),
    }
}

/// `1..7`, `0/15`, `1,15`, `*`: ranges, steps and lists of numbers.
fn values(text: &str, least: u16, most: u16, what: &str) -> Result<String, NotACalendar> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => wrong(format!("{what} {text:?} is not within {least} to {most}")),
    };
    let part = |part: &str| -> Result<String, NotACalendar> {
        let (range, step) = match part.split_once('/') {
            None => (part, None),
            Some((range, step)) => match step.parse::<u16>() {
                Ok(step) if (1..=most).contains(&step) => (range, Some(step)),
                _ => return wrong(format!("step {step:?} of a {what} is not within 1 to {most}")),
            },
        };
        let (from, to) = match (range, range.split_once("..")) {
            ("*", _) => (least, most),
            (_, Some((from, to))) => (number(from)?, number(to)?),
            // Without an end, a step goes on to the last.
            (one, None) if step.is_some() => (number(one)?, most),
            (one, None) => (number(one)?, number(one)?),
        };
        if from > to {
            return wrong(format!("{what} {range:?} begins after its end"));
        }
        Ok(match step {
            None if (from, to) == (least, most) => "*".to_owned(),
            None if from == to => from.to_string(),
            None => format!("{from}-{to}"),
            Some(step) => format!("{from}-{to}/{step}"),
        })
    };
    text.split(',')
        .map(part)
        .collect::<Result<Vec<_>, _>>()
        .map(|parts| parts.join(","))
}

#[cfg(test)]
#[path = "calendar_tests.rs"]
mod tests;
