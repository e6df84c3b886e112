//! Each probe of `doctor` against what it is for: the trouble is made, the probe says it and what to do, and says nothing once it is gone.

#![allow(clippy::unwrap_used)]

#[path = "doctor/node.rs"]
mod node;
#[path = "doctor/way.rs"]
mod way;

use proximity_tests::fleet::SimNode;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What `doctor --json` says, and its exit code.
#[derive(Debug)]
struct Report {
    code: i32,
    findings: Vec<Value>,
}

fn examine(mut command: Command) -> Report {
    let output = tokio::task::block_in_place(|| command.stdin(Stdio::null()).output()).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let findings = report["findings"].as_array().unwrap().clone();
    for finding in &findings {
        // The names are for scripts.
        let object = finding.as_object().unwrap();
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(keys, ["check", "level", "says", "todo"], "{finding}");
        let level = finding["level"].as_str().unwrap();
        assert_eq!(finding["todo"].is_null(), level == "ok", "{finding}");
        assert!(["ok", "warn", "fail"].contains(&level), "{finding}");
    }
    for (level, count) in [("ok", "ok"), ("warn", "warn"), ("fail", "fail")] {
        let counted = findings.iter().filter(|finding| finding["level"] == level).count();
        assert_eq!(report[count], counted);
    }
    let code = output.status.code().unwrap();
    assert_eq!(code, if report["fail"] == 0 { 0 } else { 31 }, "{findings:#?}");
    Report { code, findings }
}

fn doctor(node: &SimNode) -> Command {
    node.agent_cli(&["doctor", "--json"])
}

impl Report {
    fn of<'a>(&'a self, check: &'a str) -> impl Iterator<Item = &'a Value> {
        self.findings.iter().filter(move |finding| finding["check"] == check)
    }

    /// One finding of that check and level says all these words, in what it says or in what to do.
    #[track_caller]
    fn has(&self, check: &str, level: &str, words: &[&str]) {
        let found = self.of(check).any(|finding| {
            let text = format!("{} -> {}", finding["says"], finding["todo"]);
            finding["level"] == level && words.iter().all(|word| text.contains(word))
        });
        assert!(found, "no {level} of {check} with {words:?} in {:#?}", self.findings);
    }

    /// All findings of that check are well.
    #[track_caller]
    fn well(&self, check: &str) {
        assert!(self.of(check).count() > 0, "{check} was not looked at");
        assert!(
            self.of(check).all(|finding| finding["level"] == "ok"),
            "{:#?}",
            self.of(check).collect::<Vec<_>>()
        );
    }
}

/// A file with other content, or none, for as long as this lives.
struct Altered {
    path: PathBuf,
    aside: PathBuf,
    was_there: bool,
}

fn altered(path: &Path, content: Option<&str>) -> Altered {
    let aside = path.with_extension("aside");
    let was_there = fs::symlink_metadata(path).is_ok();
    if was_there {
        fs::rename(path, &aside).unwrap();
    } else {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    if let Some(content) = content {
        fs::write(path, content).unwrap();
    }
    Altered {
        path: path.into(),
        aside,
        was_there,
    }
}

impl Drop for Altered {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok() {
            fs::remove_file(&self.path).unwrap();
        }
        if self.was_there {
            fs::rename(&self.aside, &self.path).unwrap();
        }
    }
}
