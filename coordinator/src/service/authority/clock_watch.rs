//! Whether the coordinator's clock can be relied on: a key is not destroyed because somebody has set the clock wrong.

use crate::clock::{Clock, UnixMs};
use std::time::Duration;

/// A clock that moves by more than this against the time that passes was set.
const JUMP: Duration = Duration::from_secs(3600);

/// By how much the clock was set, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Jump(pub(super) i64);

/// Compares the clock with the time that passes.
#[derive(Debug)]
pub(super) struct ClockWatch {
    last: (UnixMs, Duration),
    /// When the clock was last set, or the watch began.
    uneasy_since: Duration,
}

impl ClockWatch {
    pub(super) fn new(clock: &dyn Clock) -> Self {
        let steady = clock.steady();
        Self {
            last: (clock.now_ms(), steady),
            uneasy_since: steady,
        }
    }

    /// Looks at the clock; by how much it was set since the last look, if it was.
    pub(super) fn look(&mut self, clock: &dyn Clock) -> Option<Jump> {
        let (now, steady) = (clock.now_ms(), clock.steady());
        let (then, steady_then) = self.last;
        let passed = i64::try_from(steady.saturating_sub(steady_then).as_millis()).unwrap_or(i64::MAX);
        let by = now.saturating_sub(then).saturating_sub(passed);
        self.last = (now, steady);
        if by.unsigned_abs() <= u64::try_from(JUMP.as_millis()).unwrap_or(u64::MAX) {
            return None;
        }
        self.uneasy_since = steady;
        Some(Jump(by))
    }

    /// For how long the clock has only gone on.
    pub(super) fn at_ease_for(&self) -> Duration {
        self.last.1.saturating_sub(self.uneasy_since)
    }
}

/// As `3 days`, for people.
pub(super) fn span(ms: i64) -> String {
    // To the nearest: what is compared is always some seconds off.
    let nearest = |unit_ms: u64| (ms.unsigned_abs() + unit_ms / 2) / unit_ms;
    let (count, unit) = match nearest(3_600_000) {
        hours @ 0..48 => (hours, "hour"),
        _ => (nearest(86_400_000), "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::Pin,
        sync::atomic::{AtomicI64, Ordering},
    };

    #[derive(Default)]
    struct Hands {
        date: AtomicI64,
        passed: AtomicI64,
    }

    impl Clock for Hands {
        fn now_ms(&self) -> UnixMs {
            self.date.load(Ordering::SeqCst)
        }
        fn steady(&self) -> Duration {
            Duration::from_millis(self.passed.load(Ordering::SeqCst).unsigned_abs())
        }
        fn wait(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn a_clock_that_is_set_is_told_from_time_that_passes() {
        let hands = Hands::default();
        let mut watch = ClockWatch::new(&hands);
        let day = 24 * 3_600_000;
        for clock in [&hands.date, &hands.passed] {
            clock.fetch_add(200 * day, Ordering::SeqCst);
        }
        assert_eq!(watch.look(&hands), None, "asleep, or switched off");
        assert_eq!(watch.at_ease_for(), Duration::from_secs(200 * 24 * 3600));
        hands.date.fetch_add(3 * day, Ordering::SeqCst);
        assert_eq!(watch.look(&hands), Some(Jump(3 * day)));
        assert_eq!(watch.at_ease_for(), Duration::ZERO);
        hands.date.fetch_sub(3 * day, Ordering::SeqCst);
        assert_eq!(watch.look(&hands), Some(Jump(-3 * day)));
        hands.date.fetch_add(1_800_000, Ordering::SeqCst);
        assert_eq!(watch.look(&hands), None, "half an hour is no jump");
        assert_eq!(
            (span(200 * day), span(-3_600_000).as_str()),
            ("200 days".into(), "1 hour")
        );
    }
}
