//! Whether a process that somebody wrote down still lives. Always the kernel's own `/proc`: here tools are real processes, also on a simulated node.

use serde::{Deserialize, Serialize};
use std::{fs, io};

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStamp {
    /// Its number.
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat` (proc(5)).
    pub started_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

struct Stat {
    zombie: bool,
    session: i32,
    started_ticks: u64,
}

/// `None`: there is no such process.
fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name in parentheses may hold anything, also ')'.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        session: fields.get(3)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// `/proc/sys/kernel/random/boot_id`.
pub(super) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether the process of that number that began so many clock ticks after boot lives. Of an earlier boot there is none.
pub(crate) fn process_lives(pid: i32, started_ticks: u64) -> bool {
    stat(pid).is_some_and(|stat| !stat.zombie && stat.started_ticks == started_ticks)
}

/// Whether any process was started with these two words beside each other: for a run whose claim cannot be read.
pub(super) fn any_with(words: [&[u8]; 2]) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else {
        return true;
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            fs::read(format!("/proc/{pid}/cmdline")).ok()
        })
        .any(|line| {
            let line: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            line.windows(2).any(|two| two == words)
        })
}

impl ProcessStamp {
    /// Of this process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = nix::unistd::getpid().as_raw();
        Self::of(pid)
    }

    /// Of another.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = stat(pid).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no process {pid}")))?;
        Ok(Self {
            pid,
            started_ticks: stat.started_ticks,
            boot: boot()?,
        })
    }

    /// Whether it lives.
    pub(crate) fn lives(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
            && stat(self.pid).is_some_and(|s| !s.zombie && s.started_ticks == self.started_ticks)
    }

    /// Whether it or anything in the session that it leads lives: a tool may go on although its shim was killed.
    pub(crate) fn session_lives(&self) -> bool {
        if self.lives() {
            return true;
        }
        if boot().map_or(true, |boot| boot != self.boot) {
            return false;
        }
        // Another process of this number leads a session of its own: ours is over, as a number is not given out again while a session bears it.
        if stat(self.pid).is_some_and(|stat| stat.started_ticks != self.started_ticks) {
            return false;
        }
        let Ok(entries) = fs::read_dir("/proc") else {
            return true;
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter_map(stat)
            .any(|stat| !stat.zombie && stat.session == self.pid)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_living_process_is_told_from_a_dead_one_and_from_another_boot() {
        let own = ProcessStamp::own().unwrap();
        assert!(own.lives() && own.session_lives());
        assert!(
            !ProcessStamp {
                started_ticks: own.started_ticks + 1,
                ..own.clone()
            }
            .lives()
        );
        assert!(
            !ProcessStamp {
                boot: "other".into(),
                ..own
            }
            .session_lives()
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let stamp = ProcessStamp::of(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(!stamp.lives());
    }

    #[test]
    fn a_name_with_parentheses_is_read_through() {
        let stat = parse_stat("7 (a) b) c) S 1 7 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2").unwrap();
        assert_eq!((stat.session, stat.started_ticks, stat.zombie), (5, 9876, false));
        assert!(parse_stat("garbage").is_none());
    }
}
