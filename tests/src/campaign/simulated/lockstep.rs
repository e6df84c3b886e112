//! One process of the product as a runtime of its own that only moves when it is told to, and then until it comes to rest. All of a run happens on one
//! thread: what the runtimes do in which order depends on nothing but what they are told.

use super::turns::{self, Turn};
use anyhow::{Context as _, Result, bail};
use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

/// A process that does not come to rest within that much of real time hangs.
const PATIENCE: Duration = Duration::from_secs(60);

type Busy = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
struct Rest {
    /// Whether a thread outside works for the runtime; it is not at rest before that has ended.
    busy: Mutex<Option<Busy>>,
    waiting: Mutex<Option<Waker>>,
    reached: Mutex<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rest {
    /// Every task waits.
    fn parked(&self) {
        if lock(&self.busy).as_ref().is_some_and(|busy| busy()) {
            return;
        }
        *lock(&self.reached) = true;
        if let Some(waiting) = lock(&self.waiting).take() {
            waiting.wake();
        }
    }
}

struct Reached<'a> {
    rest: &'a Rest,
    begun: bool,
}

impl Future for Reached<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.begun, true) {
            *lock(&self.rest.reached) = false;
        } else if *lock(&self.rest.reached) {
            return Poll::Ready(());
        }
        *lock(&self.rest.waiting) = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A runtime in lockstep.
pub struct Lockstep {
    /// Gone before the runtime is: tasks that are dropped enter their spans once more.
    turn: Ends,
    runtime: Runtime,
    rest: Arc<Rest>,
}

/// Its turn ends with it.
struct Ends(Turn);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Lockstep {
    /// A process without tasks.
    pub fn new() -> Result<Self> {
        turns::install(false);
        let (rest, turn) = (Arc::new(Rest::default()), Turn::default());
        let (parked, given, taken) = (rest.clone(), turn.clone(), turn.clone());
        let runtime = Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                given.give();
                parked.parked();
            })
            .on_thread_unpark(move || taken.take())
            // Tasks that another thread wakes come after all others, whenever that was.
            .global_queue_interval(u32::MAX)
            .build()
            .context("a runtime")?;
        Ok(Self {
            turn: Ends(turn),
            runtime,
            rest,
        })
    }

    /// As long as `busy` says yes, it is not at rest although every task waits.
    pub fn busy_while(&self, busy: impl Fn() -> bool + Send + Sync + 'static) {
        *lock(&self.rest.busy) = Some(Box::new(busy));
    }

    /// Begins a task, which moves when the process is told to.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }

    /// Lets the process move until that has ended.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.turn
            .0
            .play(|| {
                self.runtime
                    .block_on(async { tokio::time::timeout(PATIENCE, work).await })
            })
            .context("it does not end: two parts wait for each other, or for time that does not pass")
    }

    /// Lets the process move until every task of it waits for something from outside.
    pub fn settle(&self) -> Result<()> {
        let reached = Reached {
            rest: &self.rest,
            begun: false,
        };
        let settled = self.turn.0.play(|| {
            self.runtime
                .block_on(async { tokio::time::timeout(PATIENCE, reached).await })
        });
        match settled {
            Ok(()) => Ok(()),
            Err(_) => bail!("a process does not come to rest: two parts wait for each other"),
        }
    }

    /// As `kill -9`: every task ends where it stands.
    pub fn kill(self) {
        drop(self.turn);
        self.runtime.shutdown_background();
    }
}
