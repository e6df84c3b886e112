//! One recorded call: the command line, exit code, stdout, stderr.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// A recorded call.
pub(crate) struct Transcript {
    pub(crate) command: String,
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/transcripts")
}

impl Transcript {
    pub(crate) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(format!("{name}.txt")))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (head, rest) = text.split_once("\nexit code: ").unwrap();
        let (exit, rest) = rest.split_once('\n').unwrap();
        let rest = rest.split_once("--- stdout ---\n").unwrap().1;
        let (stdout, rest) = rest.split_once("--- stderr ---\n").unwrap();
        let stderr = rest.split_once("--- end ---").unwrap().0;
        Self {
            command: head.strip_prefix("$ ").unwrap().to_owned(),
            exit: exit.trim().parse().unwrap(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        }
    }

    /// Names of all fixtures.
    pub(crate) fn all() -> BTreeSet<String> {
        std::fs::read_dir(folder())
            .unwrap()
            .map(|entry| {
                entry
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .trim_end_matches(".txt")
                    .to_owned()
            })
            .collect()
    }
}

/// Words of a command line with single quotes.
pub(crate) fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut any) = (false, false);
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                any = true;
            }
            ' ' | '\n' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => word.push(other),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}
