//! Who did what over HTTP, refused requests too.
//!
//! Use cases that have more to tell write their own row in their own transaction; `Audit` writes the rest, once the answer is known and before it goes out.

use super::ServiceError;
use crate::{
    clock::SharedClock,
    store::{self, AuditEntry, Store, StoreError},
};
use std::sync::{Mutex, PoisonError};

/// Refusals of callers whom nobody knows are written at most so often a second: each costs a sync of the disk, and anybody can cause them. The log has all.
const UNKNOWN_PER_SECOND: u32 = 20;

/// A mutating request and what became of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// User name; `None`: nobody known.
    pub actor: Option<String>,
    /// Method and route.
    pub action: String,
    /// Path.
    pub target: String,
    /// From where.
    pub remote: Option<String>,
    /// HTTP status.
    pub status: u16,
    /// In words, of a refusal.
    pub detail: Option<String>,
    /// `X-Request-Id`.
    pub request_id: Option<String>,
}

/// Writes rows of the audit.
pub struct Audit {
    store: Store,
    clock: SharedClock,
    /// The second, and how many refusals of unknown callers it had.
    unknown: Mutex<(i64, u32)>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Audit(…)")
    }
}

impl Audit {
    /// Into this registry.
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self {
            store,
            clock,
            unknown: Mutex::default(),
        }
    }

    fn too_many_unknown(&self, now_ms: i64) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let second = now_ms / 1000;
        if unknown.0 != second {
            *unknown = (second, 0);
        }
        unknown.1 += 1;
        unknown.1 > UNKNOWN_PER_SECOND
    }

    /// Writes a row.
    pub async fn record(&self, request: Request) -> Result<(), ServiceError> {
        let now = self.clock.now_ms();
        if request.actor.is_none() && self.too_many_unknown(now) {
            tracing::info!(target: "audit", action = request.action, remote = request.remote, "refused; not written, there are too many of these");
            return Ok(());
        }
        let outcome = match request.status {
            0..400 => "ok",
            400..500 => "refused",
            _ => "failed",
        };
        let cut = |text: String, most: usize| text.chars().take(most).collect::<String>();
        let entry = AuditEntry {
            actor: request.actor.unwrap_or_else(|| "anonymous".into()),
            action: request.action,
            target: Some(cut(request.target, 300)),
            remote: request.remote,
            outcome: outcome.into(),
            detail: request.detail.map(|d| cut(d, 500)),
            request_id: request.request_id,
        };
        let mut tx = self.store.begin().await?;
        store::audit(&mut tx, now, &entry).await?;
        Ok(tx.commit().await.map_err(StoreError::from)?)
    }
}
