//! From the bytes of one file to an [`Entry`], or to everything that is wrong with it.

use super::{
    compose,
    entry::{AsWritten, Deploy, Entry, Input, Native, Volume},
    environment::whole_match,
    fields::{Fields, kind, lines},
};
use proximity_protocol::{
    ids::{ContainerPath, EnvName, TemplatePrefix},
    spec::{CONFIGURE_FILE, Recipe, RecipeFile, RecipeFileName},
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Fields of a file. `author` and `website` are of the original format.
pub(super) const FIELDS: &[&str] = &[
    "$schema",
    "id",
    "name",
    "description",
    "version",
    "category",
    "tags",
    "icon",
    "documentation",
    "homepage",
    "repository",
    "author",
    "website",
    "env_vars",
    "environment",
    "ports",
    "main_port",
    "volumes",
    "min_memory",
    "min_cpu",
    "min_disk",
    "docker_compose",
    "deploy",
];
pub(super) const INPUT_FIELDS: &[&str] = &[
    "description",
    "default",
    "required",
    "secret",
    "generated",
    "length",
    "pattern",
    "fixed",
];
pub(super) const DEPLOY_FIELDS: &[&str] = &[
    "kind",
    "template",
    "install",
    "health",
    "configure",
    "files",
    "install_timeout_s",
    "health_timeout_s",
];
pub(super) const VOLUME_FIELDS: &[&str] = &["path", "size_gb"];

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name.
    pub file: String,
    /// The field, with dots for fields inside; empty if the file as a whole is wrong.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub reason: String,
}

impl Problem {
    /// Names file, field and reason.
    pub fn new(file: impl Into<String>, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            field: field.into(),
            reason: reason.into(),
        }
    }
}
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}: {}", self.file, self.reason)
        } else {
            write!(f, "{}: {}: {}", self.file, self.field, self.reason)
        }
    }
}

fn dns_label(text: &str) -> bool {
    (1..=50).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Parses one file.
pub(super) fn entry(file: &str, content: &[u8]) -> Result<Entry, Vec<Problem>> {
    let whole: Value = serde_json::from_slice(content)
        .map_err(|error| vec![Problem::new(file, "", format!("is not JSON: {error}"))])?;
    let Some(object) = whole.as_object() else {
        return Err(vec![Problem::new(
            file,
            "",
            format!("has to be a JSON object, not {}", kind(&whole)),
        )]);
    };
    let mut f = Fields::new(file, "", object, FIELDS);

    let id = f.required_text("id", 50);
    if !id.is_empty() && !dns_label(&id) {
        f.problem(
            "id",
            "has to be 1 to 50 of a-z, 0-9 and '-', neither first nor last a '-'",
        );
    }
    let compose = f.raw("docker_compose").cloned();
    let ports = ports(&mut f);
    let has_deploy = f.raw("deploy").is_some();
    let main_port = main_port(&mut f, &ports, has_deploy);
    let mut tags = Vec::new();
    for (i, tag) in f.list("tags").iter().enumerate() {
        match tag.as_str() {
            Some(t) if !t.trim().is_empty() && t.len() <= 50 => tags.push(t.trim().to_owned()),
            _ => f.problem(&format!("tags[{i}]"), "has to be a text of 1 to 50 characters"),
        }
    }
    let environment = f.object("environment").cloned().unwrap_or_default();
    let env_vars = env_vars(&mut f, file, &environment);
    let (volumes, written_volumes) = volumes(&mut f, file, has_deploy);
    let deploy = match f.object("deploy") {
        Some(deploy) => native(&mut f, file, deploy),
        None if has_deploy => None,
        None => match &compose {
            Some(Value::Object(c))
                if c.get("services")
                    .is_some_and(|s| s.as_object().is_some_and(|m| !m.is_empty())) =>
            {
                Some(Deploy::Compose {
                    because: compose::because(&Value::Object(c.clone())),
                })
            }
            Some(_) => {
                f.problem(
                    "docker_compose",
                    "has to be an object with at least one entry in `services`",
                );
                None
            }
            None => {
                f.problem(
                    "deploy",
                    "is missing: an entry has `deploy`, or `docker_compose` of the original format",
                );
                None
            }
        },
    };
    let website = f.url("website");
    let entry = Entry {
        id,
        name: f.required_text("name", 100),
        description: f.required_text("description", 2000),
        version: f.required_text("version", 50),
        category: f.required_text("category", 50),
        tags,
        icon: f.text("icon", 500).filter(|s| !s.is_empty()),
        documentation: f.url("documentation"),
        homepage: f.url("homepage").or(website),
        repository: f.url("repository"),
        env_vars,
        ports,
        main_port,
        min_memory_mb: f.number("min_memory", 512, 16, 524_288),
        min_cpu: f.number("min_cpu", 1, 1, 128),
        min_disk_gb: f.number("min_disk", 4, 1, 10_240),
        volumes,
        deploy: deploy.unwrap_or(Deploy::Compose { because: String::new() }),
        as_written: AsWritten {
            environment,
            volumes: written_volumes,
            docker_compose: compose,
            author: f.text("author", 200),
        },
    };
    if f.problems.is_empty() {
        Ok(entry)
    } else {
        Err(f.problems)
    }
}

/// `{"http": 80}`, or the list of the original format: `[8080, 8443]` becomes `{"port": 8080, "port2": 8443}`.
fn ports(f: &mut Fields<'_>) -> BTreeMap<String, u16> {
    let named: Vec<(String, &Value)> = match f.raw("ports") {
        None => Vec::new(),
        Some(Value::Object(map)) => map.iter().map(|(n, v)| (n.clone(), v)).collect(),
        Some(Value::Array(list)) => (1..)
            .zip(list)
            .map(|(i, v)| (if i == 1 { "port".to_owned() } else { format!("port{i}") }, v))
            .collect(),
        Some(other) => {
            let message = format!(
                "has to be an object {{name: port}} or a list of ports, not {}",
                kind(other)
            );
            f.problem("ports", message);
            Vec::new()
        }
    };
    let mut ports = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (name, value) in named {
        let at = format!("ports.{name}");
        if name.is_empty() || name.len() > 40 {
            f.problem(&at, "the name has to have 1 to 40 characters");
        }
        match value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0) {
            Some(port) if seen.insert(port) => {
                ports.insert(name, port);
            }
            Some(port) => f.problem(&at, format!("port {port} stands there twice")),
            None => f.problem(&at, format!("has to be a port from 1 to 65535, not {value}")),
        }
    }
    ports
}

/// The port that is published: the named one, or the only one, or the first of the original format's list.
fn main_port(f: &mut Fields<'_>, ports: &BTreeMap<String, u16>, native: bool) -> u16 {
    if let Some(name) = f.text("main_port", 40) {
        return ports.get(&name).copied().unwrap_or_else(|| {
            f.problem("main_port", format!("{name:?} is none of the names in `ports`"));
            0
        });
    }
    let only = (ports.len() == 1).then(|| ports.values().next().copied()).flatten();
    match only
        .or_else(|| ports.get("http").copied())
        .or_else(|| ports.get("port").copied())
    {
        Some(port) => port,
        None if native && ports.is_empty() && f.problems.iter().all(|p| !p.field.starts_with("ports")) => {
            f.problem("ports", "is missing: at least the port that the app listens on");
            0
        }
        None if native && ports.len() > 1 => {
            f.problem(
                "main_port",
                "is missing: with several ports it names the one that is published",
            );
            0
        }
        None => 0,
    }
}

fn env_vars(f: &mut Fields<'_>, file: &str, environment: &Map<String, Value>) -> BTreeMap<EnvName, Input> {
    let mut inputs = BTreeMap::new();
    for (name, value) in f.object("env_vars").into_iter().flatten() {
        let at = format!("env_vars.{name}");
        let Ok(parsed) = EnvName::new(name.as_str()) else {
            f.problem(&at, "the name has to be A-Z, 0-9 and '_', not starting with a digit");
            continue;
        };
        // `{"NAME": "default"}` is the short form.
        if let Some(text) = scalar(value) {
            inputs.insert(
                parsed,
                Input {
                    default: Some(text),
                    ..Input::default()
                },
            );
        } else if let Some(object) = value.as_object() {
            let input = input(f, file, &at, object);
            inputs.insert(parsed, input);
        } else {
            f.problem(&at, format!("has to be an object or a text, not {}", kind(value)));
        }
    }
    for (name, value) in environment {
        let at = format!("environment.{name}");
        let Ok(parsed) = EnvName::new(name.as_str()) else {
            f.problem(&at, "the name has to be A-Z, 0-9 and '_', not starting with a digit");
            continue;
        };
        let default = if value.is_null() {
            Some(String::new())
        } else {
            scalar(value)
        };
        if default.is_none() {
            f.problem(&at, format!("has to be a text, not {}", kind(value)));
        }
        inputs.entry(parsed).or_insert_with(|| Input {
            default,
            ..Input::default()
        });
    }
    if inputs.len() > super::ENVIRONMENT_MAX {
        f.problem("env_vars", format!("at most {} variables", super::ENVIRONMENT_MAX));
    }
    inputs
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn input(f: &mut Fields<'_>, file: &str, at: &str, object: &Map<String, Value>) -> Input {
    let mut i = Fields::new(file, format!("{at}."), object, INPUT_FIELDS);
    let generated = i.flag("generated");
    let length = i.number("length", 32, 16, 128);
    let mut input = Input {
        description: i.text("description", 500).unwrap_or_default(),
        default: i.raw("default").and_then(scalar),
        required: i.flag("required"),
        secret: i.flag("secret") || generated,
        generated_length: generated.then(|| u8::try_from(length).unwrap_or(u8::MAX)),
        pattern: i.text("pattern", 500),
        fixed: i.flag("fixed"),
    };
    if input.default.is_none() && i.raw("default").is_some() {
        i.problem("default", "has to be a text, a number, true or false");
    }
    if input.secret && input.default.is_some() {
        i.problem(
            "default",
            "a secret has no default: say `generated: true` or `required: true`",
        );
    }
    if i.raw("length").is_some() && !generated {
        i.problem("length", "goes with `generated: true` only");
    }
    if let Some(pattern) = input.pattern.take() {
        match whole_match(&pattern) {
            Err(error) => i.problem("pattern", format!("is not a regular expression: {error}")),
            Ok(regex) => {
                if generated {
                    i.problem(
                        "pattern",
                        "does not go with `generated: true`: what is drawn might not match",
                    );
                }
                if let Some(default) = input.default.as_ref().filter(|d| !regex.is_match(d)) {
                    i.problem("default", format!("{default:?} does not match the pattern"));
                }
                input.pattern = Some(pattern);
            }
        }
    }
    f.problems.append(&mut i.problems);
    input
}

/// Volumes of native entries are objects; the original format's are names, which are only shown.
fn volumes(f: &mut Fields<'_>, file: &str, native: bool) -> (Vec<Volume>, Vec<Value>) {
    let written = f.list("volumes");
    let mut parsed: Vec<Volume> = Vec::new();
    if written.len() > 8 && native {
        f.problem("volumes", "at most 8");
    }
    for (i, value) in written.iter().enumerate() {
        let at = format!("volumes[{i}]");
        match value {
            Value::Object(object) => {
                let mut v = Fields::new(file, format!("{at}."), object, VOLUME_FIELDS);
                let path = v.required_text("path", 255);
                let size_gb = v.number("size_gb", 8, 1, 10_240);
                match ContainerPath::new(path.as_str()) {
                    Ok(path) if parsed.iter().any(|p| p.path == path) => v.problem("path", "stands there twice"),
                    Ok(path) => parsed.push(Volume { path, size_gb }),
                    Err(_) if path.is_empty() => {}
                    Err(error) => v.problem("path", format!("has to be {}", error.rule)),
                }
                f.problems.append(&mut v.problems);
            }
            Value::String(_) if !native => {}
            _ => f.problem(&at, "has to be an object {path, size_gb}"),
        }
    }
    (parsed, written.to_vec())
}

fn native(f: &mut Fields<'_>, file: &str, object: &Map<String, Value>) -> Option<Deploy> {
    let mut d = Fields::new(file, "deploy.", object, DEPLOY_FIELDS);
    let before = d.problems.len();
    match d.required_text("kind", 20).as_str() {
        "native" => {}
        "" => {}
        other => d.problem("kind", format!("{other:?} is not known; this version knows \"native\"")),
    }
    let prefix = d.required_text("template", 100);
    let template = TemplatePrefix::new(prefix.as_str());
    if let Err(error) = &template
        && !prefix.is_empty()
    {
        d.problem("template", format!("has to be {}", error.rule));
    }
    let install = d.script("install");
    let health = d.script("health");
    let mut files = Vec::new();
    for (name, content) in d.object("files").into_iter().flatten() {
        let at = format!("files.{name}");
        match (RecipeFileName::try_from(name.clone()), lines(content)) {
            (Ok(name), _) if name.as_str() == CONFIGURE_FILE => {
                d.problem(&at, "is the name under which `configure` is kept; choose another");
            }
            (Ok(name), Some(text)) => files.push(RecipeFile {
                name,
                content: text.into_bytes(),
            }),
            (Err(rule), _) => d.problem(&at, rule),
            (_, None) => d.problem(&at, "has to be a text or a list of lines"),
        }
    }
    if d.raw("configure").is_some() {
        let content = d.script("configure").into_bytes();
        // A constant that is a name.
        files.extend(RecipeFileName::try_from(CONFIGURE_FILE.to_owned()).map(|name| RecipeFile { name, content }));
    }
    if files.len() > 64 {
        d.problem("files", "at most 64, `configure` counted");
    }
    let size = install.len() + health.len() + files.iter().map(|x| x.content.len()).sum::<usize>();
    if size > Recipe::SIZE_MAX / 2 {
        // The other half is for the values that a user gives.
        d.problem(
            "install",
            format!(
                "scripts and files have {size} bytes, at most {} in all",
                Recipe::SIZE_MAX / 2
            ),
        );
    }
    let install_timeout_s = d.number("install_timeout_s", 900, 1, 7_200);
    let health_timeout_s = d.number("health_timeout_s", 120, 1, 3_600);
    let good = d.problems.len() == before && d.problems.is_empty();
    f.problems.append(&mut d.problems);
    match template {
        Ok(template) if good => Some(Deploy::Native(Box::new(Native {
            template,
            install,
            health,
            files,
            install_timeout_s,
            health_timeout_s,
        }))),
        _ => None,
    }
}
