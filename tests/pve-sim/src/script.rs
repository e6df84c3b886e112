//! The fault script of a node, `<root>/script.json`: what goes wrong, when, and how often.
//!
//! A list of rules, `[{"tool": "pct", "sub": "create", "vmid": 100, "at": "middle", "skip": 0, "times": 1,
//! "do": {"delay_ms": 500}}]`. `sub`, `vmid`, `skip`, `times` may be left out: any, any, 0, always. Each rule counts in
//! `<root>/run/script-state.json` how often its point was reached and how often it acted, so that a test can assert that
//! the injected point was really there. Rules that match at the same point act in the order of the list.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layout::{Layout, write_atomically};

/// The moment inside a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Arguments were read, nothing was looked at.
    Before,
    /// Locks are held and the act is half done: `create` has its configuration with `lock: create` and its disk.
    Middle,
    /// All is done and the result not yet told.
    After,
}

/// What happens there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Nothing for so long.
    DelayMs(u64),
    /// It fails with these words, and undoes what it had begun. Exit 0: it prints and claims success without acting.
    Fail {
        /// Exit code.
        exit: i32,
        /// For stderr.
        #[serde(default)]
        stderr: String,
        /// For stdout.
        #[serde(default)]
        stdout: String,
    },
    /// Writes `<file>.reached`, then waits until `<file>` is there.
    PauseUntil(PathBuf),
    /// SIGKILL to itself: what is half done stays.
    KillSelf,
    /// Fails and leaves what is half done, as after a crash of the worker.
    HalfCreate,
    /// `No space left on device`; undone.
    DiskFull,
    /// The act is done, then SIGKILL before the result is told. Where `at` stands does not matter.
    LoseAnswer,
    /// Somebody else sets `lock: <word>` in the container's configuration.
    Lock(String),
}

/// A moment inside a call, as [`Faults`] are asked about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point<'a> {
    /// The tool.
    pub tool: &'a str,
    /// Its subcommand.
    pub sub: &'a str,
    /// The container that it is called for.
    pub vmid: Option<u32>,
    /// The moment.
    pub at: At,
}

/// Faults of the in-process door that a program decides instead of a file. Whoever answers may also keep the tool waiting at the point for as long as it
/// does not answer.
pub trait Faults: Send + Sync + std::fmt::Debug {
    /// What happens at the point.
    fn due(&self, point: Point<'_>) -> Vec<Fault>;
}

/// One rule of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `pct`, `vzdump`, `pvesh`, `pvesm`, `pveam`, `nft`…
    pub tool: String,
    /// `create`, `start`…; of `nft` the first word that is no option (`list`), or `-f` for a file or stdin; empty for `vzdump`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Only for this container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmid: Option<u32>,
    /// When.
    pub at: At,
    /// Acts at most so often; `None`: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Lets the first so many pass.
    #[serde(default)]
    pub skip: u64,
    /// What.
    #[serde(rename = "do")]
    pub fault: Fault,
}

impl Rule {
    /// A rule for every call of `tool`, in the middle, always.
    pub fn on(tool: &str, fault: Fault) -> Self {
        Self {
            tool: tool.to_owned(),
            sub: None,
            vmid: None,
            at: At::Middle,
            times: None,
            skip: 0,
            fault,
        }
    }

    /// Only this subcommand.
    #[must_use]
    pub fn subcommand(mut self, sub: &str) -> Self {
        self.sub = Some(sub.to_owned());
        self
    }

    /// Only this container.
    #[must_use]
    pub fn vmid(mut self, vmid: u32) -> Self {
        self.vmid = Some(vmid);
        self
    }

    /// At this moment.
    #[must_use]
    pub fn at(mut self, at: At) -> Self {
        self.at = at;
        self
    }

    /// At most so often.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// After so many calls that pass.
    #[must_use]
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }
}

/// How often a rule's point was reached, and how often it acted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// Calls that matched.
    pub reached: u64,
    /// Calls that it disturbed.
    pub acted: u64,
}

/// A whole script, to write into a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script(Vec<Rule>);

impl Script {
    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.0.push(rule);
        self
    }

    /// Puts the script into force for the node under `root`, with all counters at zero.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        let layout = Layout::open(root)?;
        let mut state = Counters::lock(&layout)?;
        let text = serde_json::to_vec_pretty(&self.0).map_err(io::Error::other)?;
        write_atomically(&layout.script(), &text)?;
        state.hits = vec![Hits::default(); self.0.len()];
        state.save()
    }

    /// The counters of the script in force, one per rule in its order.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn hits(root: &Path) -> io::Result<Vec<Hits>> {
        let layout = Layout::open(root)?;
        let rules = read(&layout)?;
        let mut hits = Counters::lock(&layout)?.hits;
        hits.resize(rules.len(), Hits::default());
        Ok(hits)
    }
}

fn read(layout: &Layout) -> io::Result<Vec<Rule>> {
    match std::fs::read(layout.script()) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The counters, under their lock.
struct Counters {
    file: File,
    hits: Vec<Hits>,
}

impl Counters {
    fn lock(layout: &Layout) -> io::Result<Self> {
        let path = layout.script_state();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        file.lock()?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let hits = if text.is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&text).map_err(io::Error::other)?
        };
        Ok(Self { file, hits })
    }

    fn save(mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.hits).map_err(io::Error::other)?;
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)
    }
}

/// The faults of the file that act on this call at this point.
pub(crate) fn due(layout: &Layout, point: Point<'_>) -> io::Result<Vec<Fault>> {
    let Point { tool, sub, vmid, at } = point;
    let rules = read(layout)?;
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let mut counters = Counters::lock(layout)?;
    counters.hits.resize(rules.len(), Hits::default());
    let mut due = Vec::new();
    for (rule, hits) in rules.into_iter().zip(&mut counters.hits) {
        let matches = rule.tool == tool
            && rule.at == at
            && rule.sub.as_deref().is_none_or(|wanted| wanted == sub)
            && rule.vmid.is_none_or(|wanted| Some(wanted) == vmid);
        if !matches {
            continue;
        }
        hits.reached += 1;
        if hits.reached > rule.skip && rule.times.is_none_or(|times| hits.acted < times) {
            hits.acted += 1;
            due.push(rule.fault);
        }
    }
    counters.save()?;
    Ok(due)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_format_is_the_documented_one() {
        let text = r#"[
            {"tool":"pct","sub":"create","vmid":100,"at":"middle","times":1,"do":{"delay_ms":500}},
            {"tool":"pct","at":"before","do":{"fail":{"exit":2,"stderr":"no"}}},
            {"tool":"pct","at":"after","skip":3,"do":"kill_self"},
            {"tool":"pct","at":"middle","do":{"pause_until":"/x/go"}},
            {"tool":"pct","at":"middle","do":"half_create"},
            {"tool":"pct","at":"middle","do":"disk_full"},
            {"tool":"pct","at":"after","do":"lose_answer"},
            {"tool":"vzdump","at":"before","do":{"lock":"backup"}}
        ]"#;
        let rules: Vec<Rule> = serde_json::from_str(text).unwrap();
        assert_eq!(rules.len(), 8);
        assert_eq!(
            rules[0],
            Rule::on("pct", Fault::DelayMs(500))
                .subcommand("create")
                .vmid(100)
                .times(1)
        );
        assert_eq!(rules[7].fault, Fault::Lock("backup".to_owned()));
    }
}
