//! For how long a tool has told nothing. Deadlines are for silence: a tool that makes progress has none.
//!
//! Time is the kernel's time since boot (clock_gettime(2), `CLOCK_BOOTTIME`), so that setting the machine's clock ends no tool. Only how old the output is
//! that was there before this agent came is told by the files' own times, and that is never more than the run has lasted.

use super::{
    port::HostTools,
    tool_dir::{Request, ToolDir},
};
use nix::time::{ClockId, clock_gettime};
use std::{
    io,
    time::{Duration, SystemTime},
};

/// Since this machine was started.
pub(super) fn since_boot() -> Duration {
    // The call fails for clocks that the kernel does not have, and this one it has since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into)
}

pub(super) fn since_boot_ms(tools: &dyn HostTools) -> i64 {
    i64::try_from(tools.uptime().as_millis()).unwrap_or(i64::MAX)
}

/// Watches the output of one run.
#[derive(Debug)]
pub(super) struct Silence {
    bytes: u64,
    since_ms: i64,
}

impl Silence {
    /// Of a run that this agent attaches to now.
    pub(super) fn of(tools: &dyn HostTools, dir: &ToolDir, request: Option<&Request>) -> io::Result<Self> {
        let now_ms = since_boot_ms(tools);
        let run_ms = request
            .and_then(|request| request.asked_since_boot_ms(tools))
            .map_or(0, |asked_ms| now_ms - asked_ms);
        let (bytes, newest) = output(dir)?;
        let output_ms = newest.map(|newest| i64::try_from(tools.age(newest).as_millis()).unwrap_or(i64::MAX));
        Ok(Self {
            bytes,
            since_ms: now_ms - silent_ms(run_ms, output_ms),
        })
    }

    /// Looks for new output. Answers how long there has been none, milliseconds.
    pub(super) fn look(&mut self, tools: &dyn HostTools, dir: &ToolDir) -> io::Result<i64> {
        let (bytes, _) = output(dir)?;
        let now_ms = since_boot_ms(tools);
        if bytes != self.bytes {
            (self.bytes, self.since_ms) = (bytes, now_ms);
        }
        Ok(now_ms - self.since_ms)
    }
}

/// How long a run has been silent that began `run_ms` ago and whose output is `output_ms` old by a clock that somebody may have set.
fn silent_ms(run_ms: i64, output_ms: Option<i64>) -> i64 {
    let run_ms = run_ms.max(0);
    output_ms.map_or(run_ms, |output_ms| output_ms.clamp(0, run_ms))
}

/// How much output there is, and when the latest came.
fn output(dir: &ToolDir) -> io::Result<(u64, Option<SystemTime>)> {
    let (mut bytes, mut newest) = (0, None);
    for name in ["stdout", "stderr"] {
        match std::fs::metadata(dir.file(name)) {
            Ok(meta) => {
                bytes += meta.len();
                newest = newest.max(Some(meta.modified()?));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((bytes, newest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{config::Runner, host::OwnMachine};

    #[test]
    fn a_clock_that_is_set_ends_nothing() {
        const HOUR: i64 = 3_600_000;
        assert_eq!(silent_ms(5_000, None), 5_000, "it has told nothing yet");
        assert_eq!(silent_ms(5_000, Some(1_000)), 1_000);
        assert_eq!(silent_ms(5_000, Some(24 * HOUR)), 5_000, "set forward by a day");
        assert_eq!(silent_ms(5_000, Some(-24 * HOUR)), 0, "set back by a day");
        assert_eq!(
            silent_ms(-1, Some(7)),
            0,
            "asked for before the machine was started anew"
        );
    }

    #[test]
    fn output_breaks_the_silence() {
        let folder = tempfile::tempdir().unwrap();
        let dir = ToolDir(folder.path().to_owned());
        let machine = OwnMachine::new("/bin/false".into(), Runner::Fork);
        let mut silence = Silence::of(&machine, &dir, None).unwrap();
        silence.since_ms -= 60_000;
        assert!(silence.look(&machine, &dir).unwrap() >= 60_000);
        std::fs::write(dir.file("stderr"), "works\n").unwrap();
        assert!(silence.look(&machine, &dir).unwrap() < 60_000);
    }
}
