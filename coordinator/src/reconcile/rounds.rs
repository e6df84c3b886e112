//! Who asks for a run, and where its report goes. A run that is asked for stands in the registry before anybody is told: if the coordinator is killed then, the
//! next one makes it. What asks changes nothing of what the run does.

use crate::{
    clock::{SharedClock, UnixMs},
    domain::upkeep::{Cause, Round},
    store::{Store, StoreError, reports},
};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::Notify;

/// Shared by those who ask and those who run.
#[derive(Clone)]
pub struct Rounds {
    store: Store,
    clock: SharedClock,
    reconcile: Arc<Notify>,
    janitor: Arc<Notify>,
}

impl std::fmt::Debug for Rounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rounds(…)")
    }
}

impl Rounds {
    /// Over this registry; `reconcile` and `janitor` are told when something was asked for.
    pub fn new(store: Store, clock: SharedClock, reconcile: Arc<Notify>, janitor: Arc<Notify>) -> Self {
        Self {
            store,
            clock,
            reconcile,
            janitor,
        }
    }

    fn bell(&self, round: Round) -> &Notify {
        match round {
            Round::Reconcile => &self.reconcile,
            Round::Janitor => &self.janitor,
        }
    }

    /// Waits until somebody asks.
    pub(super) async fn asked(&self, round: Round) {
        self.bell(round).notified().await;
    }

    /// What an earlier run of the coordinator left: what it began is broken off, what was asked for is made.
    pub(super) async fn recover(&self, round: Round) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        reports::break_off(&mut tx, round).await?;
        let asked = !reports::asked(&mut tx, round).await?.is_empty();
        tx.commit().await.map_err(StoreError::from)?;
        Ok(asked)
    }

    /// A run begins: it serves all that have asked, or stands for itself. Their reports.
    pub(super) async fn begin(&self, round: Round, cause: Cause) -> Result<Vec<i64>, StoreError> {
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let mut ids = reports::asked(&mut tx, round).await?;
        if ids.is_empty() {
            ids.push(reports::ask(&mut tx, now, round, cause, None).await?);
        }
        reports::begin(&mut tx, now, &ids).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(ids)
    }

    /// It has ended.
    pub(super) async fn finish(&self, ids: &[i64], report: &impl Serialize) -> Result<(), StoreError> {
        let said = serde_json::to_value(report)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        reports::finish(&mut tx, now, ids, &said).await?;
        tx.commit().await.map_err(StoreError::from)
    }

    /// It could not be made to its end: whoever asked must not wait for it.
    pub(super) async fn break_off(&self, round: Round) {
        let broken = async {
            let mut tx = self.store.begin().await?;
            reports::break_off(&mut tx, round).await?;
            tx.commit().await.map_err(StoreError::from)
        };
        if let Err(error) = broken.await {
            tracing::error!(%error, "that a run was broken off cannot be written; the coordinator's next start does it");
        }
    }

    /// Keeps the report of a look that nobody asked for.
    pub(super) async fn keep(
        &self,
        round: Round,
        cause: Cause,
        started: UnixMs,
        report: &impl Serialize,
    ) -> Result<(), StoreError> {
        let said = serde_json::to_value(report)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let ids = [reports::ask(&mut tx, started, round, cause, None).await?];
        reports::begin(&mut tx, started, &ids).await?;
        reports::finish(&mut tx, now, &ids, &said).await?;
        tx.commit().await.map_err(StoreError::from)
    }
}
