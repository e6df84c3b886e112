//! The authority in use: how it stands, and how one root follows another.
//!
//! An admin begins a rotation on the command line, on the files that a running coordinator reads too (`pki`). From then on the coordinator goes on by itself
//! ([`Authority::run`]): `decide` says when every node has heard of the new root, so that it may sign, and when the old one may go. Each step is one rename of
//! a file, so that a crash leaves either stage; it is audited after it was taken.
//!
//! Steps that only a date brings about are not taken on a clock that has just been set (`clock_watch`), since the last one destroys a key.

mod clock_watch;
mod decide;
mod status;

pub use status::{AuthorityView, NodeView, RootLine};

use super::{Caller, ServiceError, settings::only_admins};
use crate::{
    clock::{SharedClock, UnixMs, rfc3339},
    pki::{
        Pki, PkiError,
        rotation::{Stage, Standing, Terms},
    },
    store::{self, AuditEntry, Connection, Store, StoreError, certificates, node_trust, nodes},
};
use clock_watch::{ClockWatch, Jump, span};
use data_encoding::HEXLOWER;
use decide::{Follower, Next};
use std::{fmt, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether somebody has taken a step on the command line, and whether one is due.
const LOOK: Duration = Duration::from_secs(1);
/// How long the clock has to have gone on by itself before a step is taken for its date.
const EASE: Duration = Duration::from_secs(3600);
/// A registry whose newest entry is older than this at the start: the coordinator was off for long, or its clock is ahead.
const GAP_MS: i64 = 30 * 24 * 3600 * 1000;
/// One whose newest entry is later than now by more than this: the clock is behind.
const BEHIND_MS: i64 = 3600 * 1000;

/// The use cases.
#[derive(Clone)]
pub struct Authority {
    store: Store,
    clock: SharedClock,
    pki: Pki,
    ease: Duration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepFailed {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn refused(error: PkiError) -> ServiceError {
    match error {
        PkiError::Step(step) => ServiceError::Conflict(step.to_string()),
        other => other.into(),
    }
}

/// Who acts, for the audit.
struct Actor<'a> {
    name: &'a str,
    remote: Option<&'a str>,
}

impl Authority {
    /// Puts the use cases together.
    pub fn new(store: Store, clock: SharedClock, pki: Pki) -> Self {
        Self {
            store,
            clock,
            pki,
            ease: EASE,
        }
    }

    /// The same with another time for which the clock has to have gone on by itself.
    #[must_use]
    pub fn at_ease_after(self, ease: Duration) -> Self {
        Self { ease, ..self }
    }

    /// Makes the next root and announces it.
    pub async fn begin(&self, caller: &Caller, terms: Terms) -> Result<AuthorityView, ServiceError> {
        only_admins(caller)?;
        let now = self.clock.now_ms();
        self.pki.announce(now, terms).map_err(refused)?;
        let detail = format!(
            "root {} is announced; the old one will be trusted for {} days after the new one has begun to sign",
            self.pin(Standing::Incoming),
            terms.overlap_days
        );
        self.audit(&by(caller), "ca.announce", detail).await?;
        self.status(caller).await
    }

    /// Takes the next step now, whoever has not heard of it.
    pub async fn proceed(&self, caller: &Caller) -> Result<AuthorityView, ServiceError> {
        only_admins(caller)?;
        self.pki.look_again()?;
        let retires = matches!(self.pki.plan().rotation, Some(Stage::Overlap { .. }));
        let taken = if retires {
            self.retire(&by(caller)).await
        } else {
            self.switch(&by(caller)).await
        };
        taken.map_err(|error| match error {
            StepFailed::Pki(error) => refused(error),
            StepFailed::Store(error) => error.into(),
        })?;
        self.status(caller).await
    }

    /// Forgets a new root that has signed nothing yet.
    pub async fn call_off(&self, caller: &Caller) -> Result<AuthorityView, ServiceError> {
        only_admins(caller)?;
        self.pki.look_again()?;
        let pin = self.pin(Standing::Incoming);
        self.pki.call_off().map_err(refused)?;
        self.audit(&by(caller), "ca.call_off", format!("root {pin} is forgotten"))
            .await?;
        self.status(caller).await
    }

    /// It was saved to a file.
    pub async fn saved(&self, caller: &Caller, path: &str, sealed: bool) -> Result<(), ServiceError> {
        let how = if sealed { "sealed by a passphrase" } else { "open" };
        self.audit(
            &by(caller),
            "ca.backup",
            format!("the authority was saved to {path}, {how}"),
        )
        .await?;
        Ok(())
    }

    /// How it stands.
    pub async fn status(&self, caller: &Caller) -> Result<AuthorityView, ServiceError> {
        only_admins(caller)?;
        self.pki.look_again()?;
        let now = self.clock.now_ms();
        let nodes = self.nodes(&mut *self.store.read().await?, now).await?;
        Ok(status::view(&self.pki, &nodes, now))
    }

    fn pin(&self, standing: Standing) -> String {
        let roots = self.pki.roots();
        let found = roots.iter().find(|root| root.standing == standing);
        found.map_or_else(String::new, |root| HEXLOWER.encode(&root.root.pin))
    }

    async fn switch(&self, actor: &Actor<'_>) -> Result<(), StepFailed> {
        self.pki.switch(self.clock.now_ms())?;
        let until = match self.pki.plan().rotation {
            Some(Stage::Overlap { retire_at, .. }) => rfc3339(retire_at),
            _ => String::new(),
        };
        let detail = format!(
            "root {} signs; root {} stays trusted until {until}",
            self.pin(Standing::Signing),
            self.pin(Standing::Outgoing)
        );
        tracing::info!(
            detail,
            "the coordinator's new root signs; connected nodes renew their certificates"
        );
        Ok(self.audit(actor, "ca.switch", detail).await?)
    }

    async fn retire(&self, actor: &Actor<'_>) -> Result<(), StepFailed> {
        let old = self.pin(Standing::Outgoing);
        self.pki.retire()?;
        let detail = format!("root {old} is trusted no more and its key is destroyed");
        tracing::info!(detail, "the coordinator's old root is gone");
        Ok(self.audit(actor, "ca.retire", detail).await?)
    }

    async fn audit(&self, actor: &Actor<'_>, action: &str, detail: String) -> Result<(), StoreError> {
        let entry = AuditEntry {
            actor: actor.name.into(),
            action: action.into(),
            remote: actor.remote.map(Into::into),
            outcome: "ok".into(),
            detail: Some(detail),
            ..AuditEntry::default()
        };
        let mut tx = self.store.begin().await?;
        store::audit(&mut tx, self.clock.now_ms(), &entry).await?;
        Ok(tx.commit().await?)
    }

    /// Every node that is not revoked, and what it has of the roots.
    async fn nodes(&self, tx: &mut Connection, now: UnixMs) -> Result<Vec<status::NodeTrust>, StoreError> {
        let (trust, certificates) = (node_trust::all(tx).await?, certificates::newest_of_nodes(tx).await?);
        let of = |row: nodes::NodeRow| status::NodeTrust {
            trust: trust.get(&row.id).cloned().unwrap_or_default(),
            issuer: certificates.get(&row.id).and_then(|c| self.pki.issuer(&c.der)),
            valid_until: certificates
                .get(&row.id)
                .map(|c| c.not_after)
                .filter(|until| *until > now),
            row,
        };
        let rows = nodes::list(tx, None).await?;
        Ok(rows.into_iter().filter(|row| !row.is_revoked()).map(of).collect())
    }

    async fn next(&self) -> Result<Next, StoreError> {
        let now = self.clock.now_ms();
        let nodes = self.nodes(&mut *self.store.read().await?, now).await?;
        let followers: Vec<Follower> = status::followers(&self.pki, &nodes);
        Ok(decide::next(&self.pki.plan(), &followers, now))
    }

    /// Notices steps that were taken on the command line, and takes those that are due, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut watch = ClockWatch::new(&*self.clock);
        let mut said: Option<String> = None;
        if let Err(error) = self.compare_with_registry().await {
            tracing::warn!(%error, "the clock could not be compared with the registry");
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.clock.wait(LOOK) => {}
            }
            let told = self.tick(&mut watch).await;
            // Once, and again when it is something else.
            if told != said {
                if let Some(words) = &told {
                    tracing::error!("{words}");
                }
                said = told;
            }
        }
    }

    /// One look at the clock and at the rotation. Answers what an operator has to know.
    async fn tick(&self, watch: &mut ClockWatch) -> Option<String> {
        if let Some(Jump(by)) = watch.look(&*self.clock) {
            let direction = if by > 0 { "ahead" } else { "back" };
            tracing::error!(
                "this coordinator's clock was set {direction} by {}: if it is wrong now, set it right; links that are up go on, and nodes that cannot connect say why",
                span(by)
            );
        }
        match self.look(watch).await {
            Ok(told) => told,
            Err(error) => Some(format!("a rotation of the root cannot go on: {error}")),
        }
    }

    async fn look(&self, watch: &ClockWatch) -> Result<Option<String>, StepFailed> {
        self.pki.look_again()?;
        if self.pki.plan().rotation.is_none() {
            return Ok(None);
        }
        let next = self.next().await?;
        if next.is_by_date() && watch.at_ease_for() < self.ease {
            // Not for long, and nothing waits for it.
            return Ok(None);
        }
        let actor = Actor {
            name: "coordinator",
            remote: None,
        };
        match next {
            Next::Switch { .. } => self.switch(&actor).await.map(|()| None),
            Next::Retire => self.retire(&actor).await.map(|()| None),
            Next::Held { by } => Ok(Some(format!(
                "the overlap of the two roots is over, but the old one is kept for the sake of {}: update proximity-agent there; \
                 `proximity-coordinator ca rotate --proceed` retires it all the same",
                by.join(", ")
            ))),
            Next::Rest | Next::Tell { .. } | Next::Overlap { .. } => Ok(None),
        }
    }

    /// At the start, what the clock says against what it said before.
    async fn compare_with_registry(&self) -> Result<(), StoreError> {
        let Some(newest) = store::newest_time(&mut *self.store.read().await?).await? else {
            return Ok(());
        };
        let ahead = self.clock.now_ms().saturating_sub(newest);
        if ahead < -BEHIND_MS {
            tracing::error!(
                newest = rfc3339(newest),
                "this coordinator's clock is behind what it once was by {}: set it; until then nodes may not believe its certificate",
                span(ahead)
            );
        } else if ahead > GAP_MS {
            tracing::warn!(
                newest = rfc3339(newest),
                "nothing was written for {}: the coordinator was off for so long, or its clock is ahead and has to be set",
                span(ahead)
            );
        }
        Ok(())
    }
}

fn by(caller: &Caller) -> Actor<'_> {
    Actor {
        name: &caller.username,
        remote: caller.remote.as_deref(),
    }
}

#[cfg(test)]
mod tests;
