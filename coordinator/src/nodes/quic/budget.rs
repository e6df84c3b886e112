//! How much a peer may say in a time: a bucket that fills evenly.

use std::time::{Duration, Instant};

/// A bucket of `size` messages that is full again after `refill`.
#[derive(Debug)]
pub(super) struct Budget {
    size: f64,
    left: f64,
    per_second: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(size: u32, refill: Duration) -> Self {
        let size = f64::from(size);
        Self {
            size,
            left: size,
            per_second: size / refill.as_secs_f64(),
            at: Instant::now(),
        }
    }

    /// Whether one more is within bounds now.
    pub(super) fn take(&mut self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * self.per_second).min(self.size);
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_empties_and_fills_evenly() {
        let mut budget = Budget::new(3, Duration::from_secs(3));
        let start = budget.at;
        assert!((0..3).all(|_| budget.take_at(start)));
        assert!(!budget.take_at(start + Duration::from_millis(500)));
        assert!(budget.take_at(start + Duration::from_millis(1_100)));
        assert!(!budget.take_at(start + Duration::from_millis(1_200)));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..5).filter(|_| budget.take_at(later)).count(), 3);
    }
}
