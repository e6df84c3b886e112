//! A machine's clock that is set wrong, for one process: by libfaketime, which puts itself before the C library.

use std::{path::PathBuf, process::Command};

/// The library.
#[derive(Debug)]
pub struct WrongClock(PathBuf);

impl WrongClock {
    /// `None`, with a line that says why, where it is not installed.
    pub fn new(for_what: &str) -> Option<Self> {
        let folders = std::fs::read_dir("/usr/lib").ok()?;
        let found = folders
            .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketime.so.1")))
            .find(|path| path.exists());
        if found.is_none() {
            println!("skipped: {for_what}: libfaketime is not installed (apt-get install faketime)");
        }
        found.map(Self)
    }

    /// The command lives so much earlier or later: `+1d`, `-1d`. Only the date is wrong; waiting takes as long as ever.
    pub fn set(&self, command: &mut Command, offset: &str) {
        command
            .env("LD_PRELOAD", &self.0)
            .env("FAKETIME", offset)
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}
