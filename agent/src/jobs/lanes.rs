//! One lane per container: acts on it happen one after the other, in the order in which they came.

use proximity_protocol::ids::Vmid;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;

/// All lanes. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Lanes {
    /// The end of the last turn that was given out, by container.
    last: Arc<Mutex<HashMap<Vmid, CancellationToken>>>,
}

impl Lanes {
    /// The next turn on the container. Whoever takes it first comes first.
    pub(crate) fn queue(&self, vmid: Vmid) -> Turn {
        let end = CancellationToken::new();
        let before = self.lock().insert(vmid, end.clone());
        Turn {
            lanes: self.clone(),
            vmid,
            before,
            end,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vmid, CancellationToken>> {
        self.last.lock().expect("no code panics while it holds the lanes")
    }
}

/// A place in a lane. It ends when it is dropped, though not before the one ahead of it.
pub(crate) struct Turn {
    lanes: Lanes,
    vmid: Vmid,
    before: Option<CancellationToken>,
    end: CancellationToken,
}

impl Turn {
    /// Whether another is ahead.
    pub(crate) fn must_wait(&self) -> bool {
        self.before.as_ref().is_some_and(|before| !before.is_cancelled())
    }

    /// Waits until nobody is ahead.
    pub(crate) async fn comes(&self) {
        if let Some(before) = &self.before {
            before.cancelled().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let end = self.end.clone();
        match self.before.take() {
            // Given up while it queued: those behind must still wait for the one ahead.
            Some(before) if !before.is_cancelled() => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        before.cancelled().await;
                        end.cancel();
                    });
                }
            }
            _ => {
                let mut last = self.lanes.lock();
                end.cancel();
                if last.get(&self.vmid).is_some_and(CancellationToken::is_cancelled) {
                    last.remove(&self.vmid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_a_given_up_one_lets_nobody_past() {
        let lanes = Lanes::default();
        let vmid = Vmid::new(100).unwrap();
        let (first, second, third) = (lanes.queue(vmid), lanes.queue(vmid), lanes.queue(vmid));
        first.comes().await;
        assert!(second.must_wait() && third.must_wait());
        drop(second);
        tokio::task::yield_now().await;
        assert!(third.must_wait(), "the first is not done");
        assert!(
            !lanes.queue(Vmid::new(101).unwrap()).must_wait(),
            "another container has a lane of its own"
        );
        drop(first);
        third.comes().await;
        drop(third);
        assert!(lanes.lock().is_empty(), "lanes that nobody uses are forgotten");
    }
}
