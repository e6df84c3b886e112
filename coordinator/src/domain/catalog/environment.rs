//! What a user gave, joined with what the entry says.

use super::entry::{Entry, Input};
use proximity_protocol::{ids::EnvName, secret::SecretText};
use std::collections::{BTreeMap, BTreeSet};

/// Most variables of an app.
pub const ENVIRONMENT_MAX: usize = 100;
/// Longest value, bytes.
pub const VALUE_MAX_BYTES: usize = 32 * 1024;
/// All values of an app together, bytes: with its scripts and files they have to fit one command to an agent.
pub(super) const ENVIRONMENT_BYTES_MAX: usize = 512 * 1024;

/// A variable that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentError {
    /// Its name as given.
    pub name: String,
    /// What is allowed.
    pub msg: String,
}

/// A secret to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedInput {
    /// Its name.
    pub name: EnvName,
    /// How many letters and digits.
    pub length: u8,
}

/// The environment of an app to be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// May be stored and shown.
    pub plain: BTreeMap<EnvName, String>,
    /// Stored encrypted, shown to nobody.
    pub secrets: BTreeMap<EnvName, SecretText>,
    /// Secrets that are to be drawn.
    pub generated: Vec<GeneratedInput>,
}

/// The environment of an app that is there, as it shall be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChangedEnvironment {
    /// All that may be stored and shown.
    pub plain: BTreeMap<EnvName, String>,
    /// Secrets that were given; those that are not named stay as they are.
    pub secrets: BTreeMap<EnvName, SecretText>,
    /// Secrets that are to be drawn anew.
    pub generated: Vec<GeneratedInput>,
    /// Secrets that go, because the name goes or is no secret any more.
    pub forget: BTreeSet<EnvName>,
}

/// A name that the entry does not know but that says what it holds. Better one plain value too many encrypted than a password in a list.
fn sounds_secret(name: &str) -> bool {
    [
        "PASSWORD",
        "PASSWD",
        "SECRET",
        "TOKEN",
        "API_KEY",
        "PRIVATE_KEY",
        "CREDENTIAL",
    ]
    .iter()
    .any(|word| name.contains(word))
}

fn check_value(input: Option<&Input>, value: &str) -> Result<(), String> {
    if value.len() > VALUE_MAX_BYTES {
        return Err(format!("at most {VALUE_MAX_BYTES} bytes, this has {}", value.len()));
    }
    if value.contains('\0') {
        return Err("a value cannot contain a NUL character".into());
    }
    let Some(input) = input else { return Ok(()) };
    if input.required && value.is_empty() {
        return Err("cannot be empty".into());
    }
    if let Some(pattern) = &input.pattern
        && !whole_match(pattern).is_ok_and(|p| p.is_match(value))
    {
        return Err(format!("has to match {pattern}"));
    }
    Ok(())
}

/// Compiles a pattern that the whole value has to match. regex-lite matches in linear time, whatever the pattern.
pub(super) fn whole_match(pattern: &str) -> Result<regex_lite::Regex, regex_lite::Error> {
    regex_lite::Regex::new(&format!("^(?:{pattern})$"))
}

impl Entry {
    /// Joins what was given with defaults and generated secrets, or answers everything that is wrong with it.
    pub fn resolve_environment(&self, given: &BTreeMap<String, String>) -> Result<Resolved, Vec<EnvironmentError>> {
        let mut resolved = Resolved::default();
        let mut errors = Vec::new();
        if given.len() > ENVIRONMENT_MAX {
            return Err(vec![EnvironmentError {
                name: String::new(),
                msg: format!("at most {ENVIRONMENT_MAX} variables, there are {}", given.len()),
            }]);
        }
        let mut known: BTreeMap<EnvName, &String> = BTreeMap::new();
        for (name, value) in given {
            match EnvName::new(name.as_str()) {
                Ok(parsed) => match check_value(self.env_vars.get(&parsed), value) {
                    Ok(()) => {
                        known.insert(parsed, value);
                    }
                    Err(msg) => errors.push(EnvironmentError {
                        name: name.clone(),
                        msg,
                    }),
                },
                Err(invalid) => errors.push(EnvironmentError {
                    name: name.chars().take(80).collect(),
                    msg: format!("a name is {}", invalid.rule),
                }),
            }
        }
        for (name, input) in &self.env_vars {
            if given.contains_key(name.as_str()) {
                continue;
            }
            match (&input.default, input.generated_length) {
                (_, Some(length)) => resolved.generated.push(GeneratedInput {
                    name: name.clone(),
                    length,
                }),
                (Some(default), None) => {
                    if input.secret {
                        resolved.secrets.insert(name.clone(), SecretText::new(default.as_str()));
                    } else {
                        resolved.plain.insert(name.clone(), default.clone());
                    }
                }
                (None, None) if input.required => errors.push(EnvironmentError {
                    name: name.to_string(),
                    msg: if input.description.is_empty() {
                        "is required".into()
                    } else {
                        format!("is required: {}", input.description)
                    },
                }),
                (None, None) => {}
            }
        }
        for (name, value) in known {
            let secret = match self.env_vars.get(&name) {
                Some(input) => input.secret || input.generated_length.is_some(),
                None => sounds_secret(name.as_str()),
            };
            if secret {
                resolved.secrets.insert(name, SecretText::new(value.as_str()));
            } else {
                resolved.plain.insert(name, value.clone());
            }
        }
        let total = resolved.plain.len() + resolved.secrets.len() + resolved.generated.len();
        if total > ENVIRONMENT_MAX {
            errors.push(EnvironmentError {
                name: String::new(),
                msg: format!("at most {ENVIRONMENT_MAX} variables, with those of the catalog entry there are {total}"),
            });
        }
        errors.extend(too_large(resolved.plain.values(), resolved.secrets.values()));
        if errors.is_empty() { Ok(resolved) } else { Err(errors) }
    }

    /// Joins what an app has (`plain`, and the names of its secrets) with changes: a value is set, `None` brings back what the app would have got without
    /// one. Answers everything that is wrong.
    pub fn change_environment(
        &self,
        plain: &BTreeMap<String, String>,
        secrets: &BTreeSet<String>,
        given: &BTreeMap<String, Option<String>>,
    ) -> Result<ChangedEnvironment, Vec<EnvironmentError>> {
        let mut errors = Vec::new();
        let mut changed = ChangedEnvironment::default();
        for (name, value) in plain {
            match EnvName::new(name.as_str()) {
                Ok(name) => drop(changed.plain.insert(name, value.clone())),
                Err(invalid) => errors.push(error(name, format!("a name is {}", invalid.rule))),
            }
        }
        for (name, value) in given {
            match EnvName::new(name.as_str()) {
                Ok(parsed) => {
                    if let Err(msg) = self.change(&mut changed, secrets, parsed, value.as_deref()) {
                        errors.push(error(name, msg));
                    }
                }
                Err(invalid) => errors.push(error(name, format!("a name is {}", invalid.rule))),
            }
        }
        let mut names: BTreeSet<&str> = secrets.iter().map(String::as_str).collect();
        names.retain(|name| !changed.forget.iter().any(|gone| gone.as_str() == *name));
        names.extend(changed.plain.keys().map(EnvName::as_str));
        names.extend(changed.secrets.keys().map(EnvName::as_str));
        names.extend(changed.generated.iter().map(|input| input.name.as_str()));
        if names.len() > ENVIRONMENT_MAX {
            let msg = format!("at most {ENVIRONMENT_MAX} variables, there would be {}", names.len());
            errors.push(error("", msg));
        }
        errors.extend(too_large(changed.plain.values(), changed.secrets.values()));
        if errors.is_empty() { Ok(changed) } else { Err(errors) }
    }

    /// One change.
    fn change(
        &self,
        changed: &mut ChangedEnvironment,
        secrets: &BTreeSet<String>,
        name: EnvName,
        value: Option<&str>,
    ) -> Result<(), String> {
        let input = self.env_vars.get(&name);
        if input.is_some_and(|input| input.fixed) {
            return Err("is taken at creation only and cannot be changed".into());
        }
        let secret = match input {
            Some(input) => input.secret || input.generated_length.is_some(),
            None => sounds_secret(name.as_str()),
        };
        let was_secret = secrets.contains(name.as_str());
        changed.plain.remove(&name);
        let value = match (value, input) {
            (Some(value), _) => Some(value.to_owned()),
            (None, Some(input)) => match input.generated_length {
                Some(length) => {
                    changed.generated.push(GeneratedInput { name, length });
                    return Ok(());
                }
                None if input.default.is_none() && input.required => return Err("is required".into()),
                None => input.default.clone(),
            },
            (None, None) => None,
        };
        let Some(value) = value else {
            if was_secret {
                changed.forget.insert(name);
            }
            return Ok(());
        };
        check_value(input, &value)?;
        if secret {
            changed.secrets.insert(name, SecretText::new(value));
        } else {
            if was_secret {
                changed.forget.insert(name.clone());
            }
            changed.plain.insert(name, value);
        }
        Ok(())
    }
}

/// What is generated is short, and not made yet.
fn too_large<'v>(
    plain: impl Iterator<Item = &'v String>,
    secrets: impl Iterator<Item = &'v SecretText>,
) -> Option<EnvironmentError> {
    let bytes = plain.map(String::len).sum::<usize>() + secrets.map(|secret| secret.expose().len()).sum::<usize>();
    let (most, there) = (ENVIRONMENT_BYTES_MAX / 1024, bytes.div_ceil(1024));
    (bytes > ENVIRONMENT_BYTES_MAX).then(|| {
        let msg = format!(
            "at most {most} KiB of values in all, these are {there} KiB; keep what is large in a file of the app"
        );
        error("", msg)
    })
}

fn error(name: &str, msg: impl Into<String>) -> EnvironmentError {
    EnvironmentError {
        name: name.chars().take(80).collect(),
        msg: msg.into(),
    }
}
