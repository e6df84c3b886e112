//! The file's text: a policy, or where the mistake is.

use super::Policy;
use proximity_protocol::{command::Verb, ids::Vmid};
use std::fmt;

/// What is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// The key of that line, if it has one.
    pub key: Option<String>,
    /// Why it cannot be used.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(key) = &self.key {
            write!(f, ", key {key}")?;
        }
        write!(f, ": {}", self.reason)?;
        match self.key.as_deref().and_then(allowed) {
            Some(allowed) => write!(f, ". Allowed is {allowed}"),
            None => write!(f, ". The keys are {}", KEYS.map(|(key, _)| key).join(", ")),
        }
    }
}

/// The keys of the file, and what each may be.
const KEYS: [(&str, &str); 7] = [
    ("deny_verbs", "a list of verbs, such as [\"ensure_destroyed\"]"),
    (
        "vmid",
        "the first and the last of a range, such as [5000, 5999], from 100 to 999999999",
    ),
    (
        "storages",
        "a list of storages, such as [\"local-lvm\"]; an empty one means all",
    ),
    (
        "bridges",
        "a list of bridges, such as [\"vmbr0\"]; an empty one means all",
    ),
    (
        "ports",
        "the first and the last of a range, such as [8000, 8999], from 1 to 65535",
    ),
    ("adoption", "\"none\", \"any\", or a list of VMIDs"),
    ("destroy_adopted", "true or false"),
];

fn allowed(key: &str) -> Option<&'static str> {
    let found = KEYS.iter().find(|(name, _)| *name == key.trim_matches('"'));
    found.map(|(_, allowed)| *allowed)
}

pub(super) fn key_of(line: &str) -> Option<String> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let plain = key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '"' | '.'));
    (plain && !key.is_empty()).then(|| key.to_owned())
}

fn at(text: &str, line: usize, reason: String) -> Mistake {
    // A value may stand below its key.
    let key = text
        .lines()
        .take(line)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .find_map(key_of);
    Mistake { line, key, reason }
}

/// The line on which a key is set.
fn line_of(text: &str, key: &str) -> usize {
    let found = text
        .lines()
        .position(|line| key_of(line).is_some_and(|found| found == key));
    found.map_or(1, |index| index + 1)
}

impl Policy {
    /// Reads the text of a policy file.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        let policy: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
            at(text, line, error.message().to_owned())
        })?;
        let known = |name: &str| Verb::NAMES.contains(&name);
        if let Some(unknown) = policy.deny_verbs.iter().find(|name| !known(name)) {
            let line = text.lines().position(|line| line.contains(unknown.as_str()));
            let line = line.map_or_else(|| line_of(text, "deny_verbs"), |index| index + 1);
            let reason = format!("there is no verb {unknown:?}; the verbs are {}", Verb::NAMES.join(", "));
            return Err(at(text, line, reason));
        }
        for (key, turned) in [
            ("vmid", policy.vmid.0 > policy.vmid.1),
            ("ports", policy.ports.0 > policy.ports.1),
        ] {
            if turned {
                let reason = "the first number of a range must not be above the last".to_owned();
                return Err(at(text, line_of(text, key), reason));
            }
        }
        for (key, outside) in [
            ("vmid", policy.vmid.0 < Vmid::MIN || policy.vmid.1 > Vmid::MAX),
            ("ports", policy.ports.0 == 0),
        ] {
            if outside {
                let reason = "the range reaches beyond what there is".to_owned();
                return Err(at(text, line_of(text, key), reason));
            }
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_key_and_reason_are_named() {
        for (text, line, key, word) in [
            ("\nvmid = 'x'\n", 2, Some("vmid"), "invalid type"),
            ("ports = [1024, 65536]", 1, Some("ports"), "65536"),
            ("bridges = []\nvmids = [1, 2]\n", 2, Some("vmids"), "unknown field"),
            ("\n\nports = [9, 8]\n", 3, Some("ports"), "range"),
            ("deny_verbs = [\n 'rm']", 2, Some("deny_verbs"), "\"rm\""),
            ("vmid = [1, 5]\n", 1, Some("vmid"), "beyond"),
            ("ports = [0, 5]\n", 1, Some("ports"), "beyond"),
            ("what", 1, None, ""),
        ] {
            let mistake = Policy::parse(text).unwrap_err();
            assert_eq!(
                (mistake.line, mistake.key.as_deref()),
                (line, key),
                "{text:?}: {mistake}"
            );
            assert!(mistake.reason.contains(word), "{mistake}");
        }
    }

    #[test]
    fn what_is_allowed_is_told() {
        let told = |text: &str| Policy::parse(text).unwrap_err().to_string();
        assert!(told("vmid = 'x'").contains("Allowed is the first and the last of a range, such as [5000, 5999]"));
        assert!(told("adoption = 'some'").contains("\"none\", \"any\", or a list of VMIDs"));
        assert!(told("vmids = [1, 2]").contains("The keys are deny_verbs, vmid, storages"));
        assert!(told("storages = 'a'").contains("an empty one means all"));
    }

    /// The file that `policy check` explains is the one that is read.
    #[test]
    fn every_key_is_explained() {
        let error = toml::from_str::<Policy>("no_such_key = 1").unwrap_err();
        for (key, _) in KEYS {
            assert!(error.message().contains(&format!("`{key}`")), "{error}");
        }
        assert_eq!(error.message().matches('`').count(), 2 * (KEYS.len() + 1));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(vmid|ports|storages|=|\\[|\\]|,|'|[0-9]|\n|é| ){0,40}") {
            let _ = Policy::parse(&text);
        }
    }
}
