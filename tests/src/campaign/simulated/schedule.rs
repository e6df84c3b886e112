//! What happened in a run, in words and in order. Two runs of one seed have the same.

use sha2::{Digest, Sha256};

/// The words.
#[derive(Debug, Default)]
pub struct Schedule {
    lines: Vec<String>,
    /// Every move, and every line in its place between them.
    all: Vec<String>,
    /// Troubles that happened, for the report.
    troubles: usize,
}

impl Schedule {
    /// Something happened `at_ms` after the run began.
    pub fn note(&mut self, at_ms: i64, what: impl AsRef<str>) {
        let line = format!("{:>10}.{:03} {}", at_ms / 1000, at_ms % 1000, what.as_ref());
        tracing::info!(target: "campaign", "{line}");
        self.all.push(line.clone());
        self.lines.push(line);
    }

    /// A move was drawn. Nobody wants to read all of them, but they are what a run is.
    pub fn drawn(&mut self, what: String) {
        self.all.push(what);
    }

    /// Something went wrong.
    pub fn trouble(&mut self, at_ms: i64, what: impl AsRef<str>) {
        self.troubles += 1;
        self.note(at_ms, format!("!! {}", what.as_ref()));
    }

    /// How much went wrong.
    pub fn troubles(&self) -> usize {
        self.troubles
    }

    /// Every line.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Every move, and every line in its place between them.
    pub fn all(&self) -> &[String] {
        &self.all
    }

    /// A checksum over all of that.
    pub fn digest(&self) -> String {
        digest(&self.all.join("\n"))
    }
}

/// The first 16 hexadecimal digits of a text's SHA-256.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
