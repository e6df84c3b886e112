//! How long to wait before the next try to connect.

use std::time::Duration;

/// The first wait is at most this.
const FIRST: Duration = Duration::from_millis(250);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles with each failure. Waits are drawn between half and all of the current bound, so that agents that lost the same coordinator do not come
/// back in one wave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backoff {
    bound: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { bound: FIRST }
    }
}

impl Backoff {
    /// The next wait; `random` is any number, drawn evenly.
    pub(crate) fn next(&mut self, random: u32) -> Duration {
        let half = self.bound / 2;
        let wait = half + half.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.bound = (self.bound * 2).min(LONGEST);
        wait
    }

    /// A connection held: the next loss starts anew.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Trying soon again is of no use (refused, revoked): wait long.
    pub(crate) fn slow_down(&mut self) {
        self.bound = LONGEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_stay_there() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.next(u32::MAX)).collect();
        assert_eq!(waits[0], FIRST);
        assert!(
            waits.windows(2).all(|pair| pair[1] == (pair[0] * 2).min(LONGEST)),
            "{waits:?}"
        );
        assert_eq!(waits[11], LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX), FIRST);
    }

    #[test]
    fn waits_differ_and_are_never_below_half() {
        let (mut low, mut high) = (Backoff::default(), Backoff::default());
        for _ in 0..10 {
            let (shortest, longest) = (low.next(0), high.next(u32::MAX));
            assert!(shortest * 2 == longest && shortest > Duration::ZERO);
        }
    }

    #[test]
    fn a_refused_agent_waits_long() {
        let mut backoff = Backoff::default();
        backoff.slow_down();
        assert!(backoff.next(0) >= LONGEST / 2);
    }
}
