//! Time, as far as certificates go: a port, so that tests live through months. What the agent does about jobs and links has no need of it.

use nix::time::{ClockId, clock_gettime};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// Tells the date and waits.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Now.
    fn now(&self) -> OffsetDateTime;
    /// How much time has passed since some moment; setting the clock does not change it.
    fn steady(&self) -> Duration;
    /// Ends after `duration` of this clock's time.
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// A clock that rooms share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

/// Time since the machine booted, in which it may have slept.
pub(crate) fn since_boot() -> Duration {
    // It cannot fail for a clock that every Linux has; zero only means that no jump is noticed.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn steady(&self) -> Duration {
        since_boot()
    }

    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// The coordinator's certificate is judged by the same clock.
#[derive(Debug)]
pub(super) struct CertificateTime(pub(super) SharedClock);

impl TimeProvider for CertificateTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}

/// As certificates count. Before 1970 there are none.
pub(super) fn unix_time(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// A moment in words, to the minute.
pub(crate) fn date(at: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    at.to_offset(time::UtcOffset::UTC)
        .format(format)
        .unwrap_or_else(|_| at.to_string())
}
