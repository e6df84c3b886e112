//! Reconciliation and janitor, for those who want a run now or read what the last ones did.

use super::{Caller, Role, ServiceError, apps::check_page, settings::only_admins};
use crate::{
    clock::{SharedClock, rfc3339},
    domain::upkeep::{Cause, RoundState},
    store::{
        self, AuditEntry, Store, StoreError,
        reports::{self, ReportRow},
    },
};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Notify;

pub use crate::domain::upkeep::Round;

/// A report as answers show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportView {
    /// Grows.
    pub id: i64,
    /// `reconcile` or `janitor`.
    pub kind: Round,
    /// `timer`, `start`, `reconnect`, `change` or `request`; it changes nothing of what the run does.
    pub cause: Cause,
    /// Who asked.
    pub requested_by: Option<String>,
    /// `asked`, `running`, `done`, or `broken` if the coordinator was stopped in its middle.
    pub state: RoundState,
    /// RFC 3339.
    pub asked_at: String,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i64>,
    /// What it looked at, found and did; empty until it is done.
    pub report: Value,
}

/// A page of reports, newest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportPage {
    /// The page.
    pub reports: Vec<ReportView>,
    /// How many there are in all.
    pub total: i64,
    /// Which page, from 1.
    pub page: i64,
    /// How many on a page.
    pub per_page: i64,
}

/// The answer to who asks for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// True.
    pub success: bool,
    /// In words.
    pub message: String,
    /// The report in which the run will be told.
    pub report_id: i64,
}

/// The use cases of upkeep.
#[derive(Clone)]
pub struct Upkeep {
    store: Store,
    clock: SharedClock,
    reconcile: Arc<Notify>,
    janitor: Arc<Notify>,
}

impl std::fmt::Debug for Upkeep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upkeep(…)")
    }
}

fn view(row: ReportRow) -> ReportView {
    ReportView {
        id: row.id,
        kind: row.round,
        cause: row.cause,
        requested_by: row.requested_by,
        state: row.state,
        asked_at: rfc3339(row.asked_at),
        started_at: row.started_at.map(rfc3339),
        finished_at: row.finished_at.map(rfc3339),
        duration_ms: row.finished_at.zip(row.started_at).map(|(end, begin)| end - begin),
        report: row.report,
    }
}

fn only_operators(caller: &Caller) -> Result<(), ServiceError> {
    if caller.role >= Role::Operator {
        Ok(())
    } else {
        Err(ServiceError::Forbidden("this is for operators; ask one".into()))
    }
}

impl Upkeep {
    /// Over this registry; the notifies wake who runs.
    pub fn new(store: Store, clock: SharedClock, reconcile: Arc<Notify>, janitor: Arc<Notify>) -> Self {
        Self {
            store,
            clock,
            reconcile,
            janitor,
        }
    }

    /// Asks for a run, which begins at once, or after the one that is being made.
    pub async fn ask(&self, caller: &Caller, round: Round) -> Result<Asked, ServiceError> {
        only_admins(caller)?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        let report_id = reports::ask(&mut tx, now, round, Cause::Request, Some(&caller.username)).await?;
        let entry = AuditEntry {
            actor: caller.username.clone(),
            action: format!("{round}.ask"),
            target: Some(report_id.to_string()),
            remote: caller.remote.clone(),
            outcome: "ok".into(),
            detail: None,
            request_id: caller.request_id.clone(),
        };
        store::audit(&mut tx, now, &entry).await?;
        tx.commit().await.map_err(StoreError::from)?;
        match round {
            Round::Reconcile => self.reconcile.notify_one(),
            Round::Janitor => self.janitor.notify_one(),
        }
        Ok(Asked {
            success: true,
            message: match round {
                Round::Reconcile => "Comparing the registry with the nodes".into(),
                Round::Janitor => "Ending what is overdue and forgetting what is old".into(),
            },
            report_id,
        })
    }

    /// A page of reports, newest first.
    pub async fn reports(
        &self,
        caller: &Caller,
        round: Round,
        page: i64,
        per_page: i64,
    ) -> Result<ReportPage, ServiceError> {
        only_operators(caller)?;
        check_page(page, per_page)?;
        let mut conn = self.store.read().await?;
        let (rows, total) = reports::page(&mut conn, round, per_page, (page - 1) * per_page).await?;
        Ok(ReportPage {
            reports: rows.into_iter().map(view).collect(),
            total,
            page,
            per_page,
        })
    }

    /// One report.
    pub async fn report(&self, caller: &Caller, round: Round, id: &str) -> Result<ReportView, ServiceError> {
        only_operators(caller)?;
        let missing = || {
            let shown: String = id.chars().take(40).collect();
            ServiceError::NotFound(format!(
                "there is no {round} report {shown:?}; GET /api/core/{round}/reports lists them"
            ))
        };
        let parsed: i64 = id.parse().map_err(|_| missing())?;
        let mut conn = self.store.read().await?;
        reports::by_id(&mut conn, round, parsed)
            .await?
            .map(view)
            .ok_or_else(missing)
    }
}
