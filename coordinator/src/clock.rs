//! Time is a port: the product reads it here, tests turn it by hand.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970, UTC.
pub type UnixMs = i64;

/// Reads the time and waits.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now_ms(&self) -> UnixMs;
    /// How much time has passed since some moment; setting the clock does not change it.
    fn steady(&self) -> Duration {
        since_boot()
    }
    /// Ends after `duration` of this clock's time.
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Time since the machine booted, in which it may have slept.
fn since_boot() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    // It cannot fail for a clock that every Linux has; zero only means that no jump is noticed.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// A clock that rooms share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMs {
        // A machine whose clock stands before 1970 gets 0; certificates then say that the clock is wrong.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// RFC 3339 in UTC with milliseconds, as the HTTP API shows times.
pub fn rfc3339(at: UnixMs) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|t| t.format(format).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00.000Z".into())
}
