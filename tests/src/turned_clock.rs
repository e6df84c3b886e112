//! A clock that a test turns, for both sides: time passes as it does, and a test lets more of it pass, or sets the clock as an operator or a broken battery does.

use proximity_agent::identity::clock::Clock as AgentClock;
use proximity_coordinator::clock::{Clock as CoordinatorClock, SystemClock};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::sync::watch;

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, Default)]
struct Hands {
    /// What has passed beyond real time.
    passed: Duration,
    /// By how much the clock is set wrong, milliseconds.
    set_by_ms: i64,
}

/// The clock.
#[derive(Debug, Clone, Default)]
pub struct TurnedClock(Arc<watch::Sender<Hands>>);

impl TurnedClock {
    /// So much time passes: whoever waits for less of it has waited.
    pub fn pass(&self, time: Duration) {
        self.0.send_modify(|hands| hands.passed += time);
    }

    /// The clock is set wrong by so many days; 0 is right. Nothing passes.
    pub fn set(&self, days: i64) {
        self.0.send_modify(|hands| hands.set_by_ms = days * 24 * 3600 * 1000);
    }

    fn steady(&self) -> Duration {
        CoordinatorClock::steady(&SystemClock) + self.0.borrow().passed
    }

    /// What it says, milliseconds since 1970.
    pub fn unix_ms(&self) -> i64 {
        let hands = *self.0.borrow();
        let passed = i64::try_from(hands.passed.as_millis()).expect("tests do not last for ages");
        SystemClock.now_ms() + passed + hands.set_by_ms
    }

    /// What it says.
    pub fn date(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.unix_ms()) * 1_000_000)
            .expect("tests do not last for ages")
    }

    async fn waited(self, duration: Duration) {
        let until = self.steady() + duration;
        let mut turned = self.0.subscribe();
        loop {
            let left = until.saturating_sub(self.steady());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                // The sender lives as long as this.
                _ = turned.changed() => {}
            }
        }
    }
}

impl CoordinatorClock for TurnedClock {
    fn now_ms(&self) -> i64 {
        self.unix_ms()
    }
    fn steady(&self) -> Duration {
        Self::steady(self)
    }
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.clone().waited(duration))
    }
}

impl AgentClock for TurnedClock {
    fn now(&self) -> OffsetDateTime {
        self.date()
    }
    fn steady(&self) -> Duration {
        Self::steady(self)
    }
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.clone().waited(duration))
    }
}
