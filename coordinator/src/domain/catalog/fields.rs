//! Reads fields out of a JSON object and collects what is wrong with them.

use super::parse::Problem;
use serde_json::{Map, Value};

/// An object of a file under inspection.
pub(super) struct Fields<'a> {
    file: &'a str,
    /// Where it stands, e.g. `deploy.`; empty for the file itself.
    prefix: String,
    object: &'a Map<String, Value>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        file: &'a str,
        prefix: impl Into<String>,
        object: &'a Map<String, Value>,
        known: &[&str],
    ) -> Self {
        let mut fields = Self {
            file,
            prefix: prefix.into(),
            object,
            problems: Vec::new(),
        };
        for key in object.keys().filter(|k| !known.contains(&k.as_str())) {
            fields.problem(
                key,
                format!("is not a field of an entry; known here: {}", known.join(", ")),
            );
        }
        fields
    }

    pub(super) fn problem(&mut self, field: &str, reason: impl Into<String>) {
        self.problems
            .push(Problem::new(self.file, format!("{}{field}", self.prefix), reason));
    }

    /// Absent and `null` are the same.
    pub(super) fn raw(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|v| !v.is_null())
    }

    pub(super) fn text(&mut self, field: &str, max: usize) -> Option<String> {
        match self.raw(field)? {
            Value::String(s) if s.chars().count() <= max => Some(s.trim().to_owned()),
            Value::String(s) => {
                self.problem(
                    field,
                    format!("at most {max} characters, this has {}", s.chars().count()),
                );
                None
            }
            other => {
                self.problem(field, format!("has to be a text, not {}", kind(other)));
                None
            }
        }
    }

    pub(super) fn required_text(&mut self, field: &str, max: usize) -> String {
        if self.raw(field).is_none() {
            self.problem(field, "is missing");
            return String::new();
        }
        let before = self.problems.len();
        let text = self.text(field, max).unwrap_or_default();
        if text.is_empty() && self.problems.len() == before {
            self.problem(field, "cannot be empty");
        }
        text
    }

    /// A script: a text, or a list of lines.
    pub(super) fn script(&mut self, field: &str) -> String {
        match self.raw(field) {
            None => {
                self.problem(field, "is missing: a shell script as a text or as a list of lines");
                String::new()
            }
            Some(value) => match lines(value) {
                Some(text) if text.trim().is_empty() => {
                    self.problem(field, "cannot be empty");
                    String::new()
                }
                Some(text) => text,
                None => {
                    self.problem(field, "has to be a text or a list of lines");
                    String::new()
                }
            },
        }
    }

    pub(super) fn url(&mut self, field: &str) -> Option<String> {
        let text = self.text(field, 500)?;
        if text.is_empty() {
            return None;
        }
        if !(text.starts_with("https://") || text.starts_with("http://")) {
            self.problem(field, "has to begin with https:// or http://");
        }
        Some(text)
    }

    pub(super) fn number(&mut self, field: &str, default: u32, min: u32, max: u32) -> u32 {
        let Some(value) = self.raw(field) else { return default };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) if (min..=max).contains(&n) => n,
            _ => {
                self.problem(
                    field,
                    format!("has to be a whole number from {min} to {max}, not {value}"),
                );
                default
            }
        }
    }

    pub(super) fn flag(&mut self, field: &str) -> bool {
        match self.raw(field) {
            None => false,
            Some(Value::Bool(b)) => *b,
            Some(other) => {
                self.problem(field, format!("has to be true or false, not {}", kind(other)));
                false
            }
        }
    }

    pub(super) fn list(&mut self, field: &str) -> &'a [Value] {
        match self.raw(field) {
            None => &[],
            Some(Value::Array(list)) => list,
            Some(other) => {
                self.problem(field, format!("has to be a list, not {}", kind(other)));
                &[]
            }
        }
    }

    pub(super) fn object(&mut self, field: &str) -> Option<&'a Map<String, Value>> {
        match self.raw(field)? {
            Value::Object(map) => Some(map),
            other => {
                self.problem(field, format!("has to be an object, not {}", kind(other)));
                None
            }
        }
    }
}

/// A text, or lines that are put together.
pub(super) fn lines(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Array(list) => {
            let mut text = String::new();
            for line in list {
                text.push_str(line.as_str()?);
                text.push('\n');
            }
            Some(text)
        }
        _ => None,
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
