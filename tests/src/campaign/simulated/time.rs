//! Time that passes when the run says so. Coordinator, agents and simulated nodes of a run share it.

use proximity_coordinator::clock::{Clock, UnixMs};
use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// 2026-01-01, so that dates in logs look like dates.
const BEGIN_MS: i64 = 1_767_225_600_000;

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// It ends early when there is news of that.
    news_of: Option<PathBuf>,
    early: bool,
}

#[derive(Debug)]
struct State {
    now_ms: i64,
    next: u64,
    waiters: BTreeMap<(i64, u64), Waiter>,
}

/// The clock of a run. Clones share it.
#[derive(Debug, Clone)]
pub struct Time(Arc<Mutex<State>>);

impl Default for Time {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            now_ms: BEGIN_MS,
            next: 0,
            waiters: BTreeMap::new(),
        })))
    }
}

impl Time {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.state().now_ms
    }

    /// Milliseconds since the run began.
    pub fn since_begin_ms(&self) -> i64 {
        self.now() - BEGIN_MS
    }

    /// When the first of those that wait is due.
    pub fn next_due(&self) -> Option<i64> {
        self.state().waiters.keys().next().map(|(due, _)| *due)
    }

    /// Time passes up to then; whoever is due goes on.
    pub fn pass_to(&self, then_ms: i64) {
        let due: Vec<Waker> = {
            let mut state = self.state();
            state.now_ms = state.now_ms.max(then_ms);
            let now = state.now_ms;
            // They stay listed until they have seen it.
            let due = state.waiters.range(..=(now, u64::MAX));
            due.map(|(_, waiter)| waiter.waker.clone()).collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// There is news of that.
    pub fn news(&self, of: &Path) {
        let woken: Vec<Waker> = {
            let mut state = self.state();
            let concerned = state
                .waiters
                .values_mut()
                .filter(|waiter| waiter.news_of.as_deref() == Some(of));
            concerned
                .map(|waiter| {
                    waiter.early = true;
                    waiter.waker.clone()
                })
                .collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Ends after that much of this time.
    pub fn sleep(&self, time: Duration) -> Sleep {
        self.sleep_or_news(time, None)
    }

    /// Ends after that much of this time, or earlier with news of that.
    pub fn sleep_or_news(&self, time: Duration, news_of: Option<PathBuf>) -> Sleep {
        let span = i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 4);
        Sleep {
            time: self.clone(),
            due_ms: self.now() + span,
            news_of,
            key: None,
        }
    }
}

impl Clock for Time {
    fn now_ms(&self) -> UnixMs {
        self.now()
    }
    fn wait(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.sleep(duration))
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub struct Sleep {
    time: Time,
    due_ms: i64,
    news_of: Option<PathBuf>,
    key: Option<(i64, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.time.state();
        let early = this
            .key
            .and_then(|key| state.waiters.get(&key))
            .is_some_and(|waiter| waiter.early);
        if early || state.now_ms >= this.due_ms {
            if let Some(key) = this.key.take() {
                state.waiters.remove(&key);
            }
            return Poll::Ready(());
        }
        let key = *this.key.get_or_insert_with(|| {
            state.next += 1;
            (this.due_ms, state.next)
        });
        let waiter = Waiter {
            waker: cx.waker().clone(),
            news_of: this.news_of.clone(),
            early: false,
        };
        state.waiters.insert(key, waiter);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.time.state().waiters.remove(&key);
        }
    }
}
