//! What changed, for streams and for rooms that wait. Stored first, told afterwards: a reader that lost its place finds the rest in the registry.

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Place in the stream; never reused.
    pub id: i64,
    /// When, milliseconds since 1970.
    pub at: i64,
    /// `operation`, `app`, `node`, or `alarm`: what a person has to see.
    pub kind: String,
    /// The app that it is about.
    pub app_id: Option<String>,
    /// The operation that it is about.
    pub operation_id: Option<String>,
    /// The user who may see it besides operators and admins; `None`: operators and admins only.
    pub owner_id: Option<i64>,
    /// The rest, as clients see it.
    pub data: serde_json::Value,
}

/// An event to store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// See [`Event::kind`].
    pub kind: &'static str,
    /// See [`Event::app_id`].
    pub app_id: Option<String>,
    /// See [`Event::operation_id`].
    pub operation_id: Option<String>,
    /// See [`Event::owner_id`].
    pub owner_id: Option<i64>,
    /// See [`Event::data`].
    pub data: serde_json::Value,
}

/// Tells every subscriber what was committed. A subscriber that is too slow gets `Lagged` and must read the registry or hang up.
#[derive(Debug, Clone)]
pub struct Bus(broadcast::Sender<Event>);

impl Default for Bus {
    fn default() -> Self {
        Self(broadcast::channel(1024).0)
    }
}

impl Bus {
    /// Call after the transaction that stored the event has committed.
    pub fn publish(&self, event: Event) {
        // No subscriber is no error: the event is stored.
        let _ = self.0.send(event);
    }
    /// From now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
