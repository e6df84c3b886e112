//! Threads that the product has besides its runtime (the registry's connection, the journal) work while that goes on, and who is first is chance. In a run they
//! wait their turn: whatever they are asked for begins only when every task of the runtime that asked waits for something.
//!
//! The product hands its span over to such a thread together with the request, and the thread enters it before it begins. So this is a layer of `tracing` that
//! knows of each span at which runtime it was made, and lets everybody else who enters it wait until that runtime rests.

use std::{
    cell::RefCell,
    sync::{Arc, Condvar, Mutex, Once, PoisonError},
};
use tracing::{Subscriber, span};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

thread_local! {
    /// Whose turn is being played on this thread.
    static HERE: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

#[derive(Debug, Default)]
struct State {
    /// The runtime rests.
    open: bool,
    /// It is gone: nobody waits for it any more.
    over: bool,
}

/// Whether the threads of one runtime may work. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<(Mutex<State>, Condvar)>);

impl Turn {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// The runtime rests: its threads may work.
    pub fn give(&self) {
        self.change(|state| state.open = true);
    }

    /// The runtime goes on: whatever they are asked for from now on waits.
    pub fn take(&self) {
        self.change(|state| state.open = false);
    }

    /// The runtime is gone.
    pub fn end(&self) {
        self.change(|state| state.over = true);
    }

    fn wait(&self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.open && !state.over {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs the runtime, or builds it: spans that are made meanwhile are its.
    pub fn play<T>(&self, play: impl FnOnce() -> T) -> T {
        let before = HERE.replace(Some(self.clone()));
        // Whoever has no span of its own hands this one over.
        let played = tracing::trace_span!("turn").in_scope(play);
        HERE.set(before);
        played
    }
}

struct Turns;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Turns {
    fn on_new_span(&self, _: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let here = HERE.with_borrow(Clone::clone);
        if let (Some(turn), Some(span)) = (here, context.span(id)) {
            span.extensions_mut().insert(turn);
        }
    }

    fn on_enter(&self, id: &span::Id, context: Context<'_, S>) {
        if HERE.with_borrow(Option::is_some) {
            return;
        }
        let turn = context
            .span(id)
            .and_then(|span| span.extensions().get::<Turn>().cloned());
        if let Some(turn) = turn {
            turn.wait();
        }
    }
}

/// Installs the layer for the whole process, once; with `log` what the product logs goes to stderr, as far as `RUST_LOG` says.
pub fn install(log: bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let words = log.then(|| {
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .without_time()
                .with_filter(EnvFilter::from_default_env())
        });
        // Turns are about spans, whatever is logged.
        let turns = Turns.with_filter(tracing_subscriber::filter::filter_fn(|metadata| metadata.is_span()));
        let all = Registry::default().with(words).with(turns);
        // A process with a subscriber of its own plays runs that cannot be repeated exactly, but plays them.
        if let Err(error) = tracing::subscriber::set_global_default(all) {
            eprintln!("runs cannot be repeated exactly: {error}");
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_thread_waits_until_the_runtime_rests() {
        install(false);
        let turn = Turn::default();
        let span = turn.play(tracing::Span::current);
        let (told, hear) = channel();
        let thread = std::thread::spawn(move || {
            told.send("asked").unwrap();
            span.in_scope(|| told.send("works").unwrap());
        });
        assert_eq!(hear.recv(), Ok("asked"));
        assert!(
            hear.recv_timeout(std::time::Duration::from_millis(50)).is_err(),
            "it does not wait"
        );
        turn.give();
        assert_eq!(hear.recv(), Ok("works"));
        thread.join().unwrap();
    }
}
