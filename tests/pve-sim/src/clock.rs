//! Time as a port: the executable uses the system's, a test its own, so that hours pass in milliseconds.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, macros::format_description};

/// How often a wait looks again. The real tools poll their locks as well.
const POLL: Duration = Duration::from_millis(20);

/// Where a simulated node takes its time from.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Lets `duration` pass.
    fn sleep(&self, duration: Duration);

    /// Lets a little time pass until `path` may exist; called in a loop by a `pause_until` fault. A virtual clock
    /// may create the file here, or hand control to its scheduler.
    fn wait_a_little_for(&self, path: &Path) {
        let _ = path;
        self.sleep(POLL);
    }
}

/// The clock of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Seconds since the epoch.
pub(crate) fn now_s(clock: &dyn Clock) -> u64 {
    clock.now_ms() / 1000
}

fn date_time(seconds: u64) -> OffsetDateTime {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `2026-11-22 21:09:27`, as the tools print times (the node's zone is UTC here).
pub(crate) fn human(seconds: u64) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    date_time(seconds).format(&format).unwrap_or_default()
}

/// `2026-11-22T20:09:27Z`, as a Proxmox Backup Server names a backup.
pub(crate) fn utc(seconds: u64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    date_time(seconds).format(&format).unwrap_or_default()
}

/// `2026_11_22-21_09_27`, as vzdump puts times into file names.
pub(crate) fn in_file_name(seconds: u64) -> String {
    let format = format_description!("[year]_[month]_[day]-[hour]_[minute]_[second]");
    date_time(seconds).format(&format).unwrap_or_default()
}
