//! What is asked for, checked.

use super::ServiceError;
use crate::{
    domain::{
        backups::{compression, mode},
        calendar::{Calendar, NotACalendar},
        retention::Retention,
        schedule::{JITTER_MOST_S, LEAST_APART_S, closest_s},
    },
    service::FieldError,
    store::schedules::{Covers, ScheduleRow},
};
use jiff::tz::TimeZone;
use proximity_protocol::ids::{AppId, StorageId};
use serde::{Deserialize, Deserializer};

/// Longest name, characters.
const NAME_MOST: usize = 64;
/// Longest time between two proofs, days.
const VERIFY_MOST_DAYS: u32 = 3650;

/// Body of `POST` and, where what is absent stays, of `PATCH`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleBody {
    /// An app, or
    pub app_id: Option<String>,
    /// the apps that bear this label.
    pub label: Option<String>,
    /// `daily 02:30`, `mon..fri 22:00`, `30 2 * * *`.
    pub calendar: Option<String>,
    /// At most 64 characters; by default what it covers.
    pub name: Option<String>,
    /// Each run begins up to so many seconds later, 0 (the default) to 21600.
    pub jitter_s: Option<u32>,
    /// Whether a run that was missed is made up for (the default).
    pub catch_up: Option<bool>,
    /// `snapshot` (the default), `suspend`, `stop`.
    pub backup_type: Option<String>,
    /// `zstd` (the default), `gzip`, `lzo`.
    pub compression: Option<String>,
    /// Where; null: chosen at each run.
    #[serde(deserialize_with = "given")]
    pub storage: Option<Option<String>>,
    /// What stays; without any rule everything does.
    pub retention: Option<Retention>,
    /// How old the latest proven restore may become before a new backup is tried out, days; 0 (the default): none is.
    pub verify_every_days: Option<u32>,
    /// Whether it runs by itself (the default).
    pub enabled: Option<bool>,
}

/// Keeps null apart from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

fn calendar(text: &str, now_s: i64, zone: &TimeZone, wrong: &mut Vec<FieldError>) -> Option<Calendar> {
    let calendar: Calendar = match text.parse() {
        Ok(calendar) => calendar,
        Err(error) => {
            let error: NotACalendar = error;
            wrong.push(FieldError::body("calendar", error.to_string()));
            return None;
        }
    };
    if closest_s(&calendar, now_s, zone).is_some_and(|closest| closest < LEAST_APART_S) {
        wrong.push(FieldError::body(
            "calendar",
            format!(
                "has runs that are less than {} minutes apart; make it rarer",
                LEAST_APART_S / 60
            ),
        ));
    }
    Some(calendar)
}

impl ScheduleBody {
    /// Puts what is given into the row.
    fn apply(&self, row: &mut ScheduleRow, wrong: &mut Vec<FieldError>) {
        if let Some(name) = &self.name {
            let fits = (1..=NAME_MOST).contains(&name.trim().chars().count()) && !name.chars().any(char::is_control);
            if !fits {
                wrong.push(FieldError::body("name", format!("has 1 to {NAME_MOST} characters")));
            }
            row.name = name.trim().to_owned();
        }
        if let Some(jitter_s) = self.jitter_s {
            if jitter_s > JITTER_MOST_S {
                wrong.push(FieldError::body("jitter_s", format!("is 0 to {JITTER_MOST_S} seconds")));
            }
            row.jitter_s = jitter_s;
        }
        row.catch_up = self.catch_up.unwrap_or(row.catch_up);
        if let Some(word) = &self.backup_type {
            if mode(word).is_none() {
                wrong.push(FieldError::body("backup_type", "is one of: snapshot, suspend, stop"));
            }
            row.backup_type.clone_from(word);
        }
        if let Some(word) = &self.compression {
            if compression(word).is_none() {
                wrong.push(FieldError::body("compression", "is one of: zstd, gzip, lzo"));
            }
            row.compression.clone_from(word);
        }
        if let Some(storage) = &self.storage {
            if let Some(Err(error)) = storage.as_deref().map(StorageId::new) {
                wrong.push(FieldError::body("storage", format!("is {}", error.rule)));
            }
            row.storage.clone_from(storage);
        }
        if let Some(retention) = self.retention {
            if let Err(error) = retention.check() {
                wrong.push(FieldError::body("retention", error.to_string()));
            }
            row.retention = retention;
        }
        if let Some(days) = self.verify_every_days {
            if days > VERIFY_MOST_DAYS {
                wrong.push(FieldError::body(
                    "verify_every_days",
                    format!("is 0 to {VERIFY_MOST_DAYS} days"),
                ));
            }
            row.verify_every_days = days;
        }
        row.enabled = self.enabled.unwrap_or(row.enabled);
    }

    /// The row, without an owner.
    pub(super) fn checked(&self, now_s: i64, zone: &TimeZone, by: &str) -> Result<ScheduleRow, ServiceError> {
        let mut wrong = Vec::new();
        let covers = match (&self.app_id, &self.label) {
            (Some(app), None) => match AppId::new(app.as_str()) {
                Ok(app) => Some(Covers::App(app)),
                Err(_) => {
                    wrong.push(FieldError::body(
                        "app_id",
                        "is the id of an app, as GET /api/apps shows it",
                    ));
                    None
                }
            },
            (None, Some(label)) if (1..=64).contains(&label.chars().count()) => Some(Covers::Label(label.clone())),
            (None, Some(_)) => {
                wrong.push(FieldError::body("label", "has 1 to 64 characters"));
                None
            }
            _ => {
                wrong.push(FieldError::body(
                    "app_id",
                    "or `label` says what is backed up: give one of the two",
                ));
                None
            }
        };
        let calendar = match &self.calendar {
            Some(text) => calendar(text, now_s, zone, &mut wrong),
            None => {
                wrong.push(FieldError::body("calendar", "is required, for example \"daily 02:30\""));
                None
            }
        };
        let Some(calendar) = calendar else {
            return Err(ServiceError::Invalid(wrong));
        };
        let now_ms = now_s.saturating_mul(1000);
        let name = match &covers {
            Some(Covers::App(app)) => app.to_string(),
            Some(Covers::Label(label)) => label.clone(),
            None => String::new(),
        };
        let mut row = ScheduleRow {
            id: 0,
            name,
            owner_id: None,
            covers: covers.unwrap_or(Covers::Label(String::new())),
            calendar,
            jitter_s: 0,
            catch_up: true,
            backup_type: "snapshot".into(),
            compression: "zstd".into(),
            storage: None,
            retention: Retention::default(),
            verify_every_days: 0,
            enabled: true,
            since: now_ms,
            created_by: by.to_owned(),
            created_at: now_ms,
            updated_at: now_ms,
        };
        self.apply(&mut row, &mut wrong);
        if wrong.is_empty() {
            Ok(row)
        } else {
            Err(ServiceError::Invalid(wrong))
        }
    }

    /// What is wrong with a change, whatever it changes.
    pub(super) fn looked_at_alone(&self, now_s: i64, zone: &TimeZone) -> Result<(), ServiceError> {
        let any = Self {
            label: Some("any".into()),
            calendar: Some("daily".into()),
            ..Self::default()
        };
        let any = any.checked(now_s, zone, "")?;
        self.applied(&any, now_s, zone).map(drop)
    }

    /// The row as it becomes. A new calendar, and one that begins to run, is due from now on.
    pub(super) fn applied(&self, row: &ScheduleRow, now_s: i64, zone: &TimeZone) -> Result<ScheduleRow, ServiceError> {
        let (mut new, mut wrong) = (row.clone(), Vec::new());
        for (field, is_there) in [("app_id", self.app_id.is_some()), ("label", self.label.is_some())] {
            if is_there {
                wrong.push(FieldError::body(field, "stays as it is; make another schedule"));
            }
        }
        if let Some(text) = &self.calendar
            && let Some(calendar) = calendar(text, now_s, zone, &mut wrong)
        {
            new.calendar = calendar;
        }
        self.apply(&mut new, &mut wrong);
        if !wrong.is_empty() {
            return Err(ServiceError::Invalid(wrong));
        }
        if new.calendar != row.calendar || (new.enabled && !row.enabled) {
            new.since = now_s.saturating_mul(1000);
        }
        Ok(new)
    }
}
