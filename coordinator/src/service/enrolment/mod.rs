//! Enrolment: a join token and a key become a node and its certificate.
//!
//! One transaction judges the token, finds the node's place (`place`), issues the certificate and spends the token with one conditional UPDATE, so that of any
//! number of requests at once one wins. A refusal writes nothing but the audit. If the reply was lost, the same key gets the same certificate for as long as
//! the token lives.
//!
//! `renewal` gives an enrolled node its next certificate, over its link or, when it was off for too long, for a proof of its key. `leave` takes a
//! node's goodbye.

mod guesses;
mod leave;
mod place;
mod renewal;

pub use renewal::Asking;

use crate::{
    clock::{SharedClock, UnixMs, rfc3339},
    domain::network::IpNet,
    events::{Bus, Event, NewEvent},
    pki::{Issued, NodeKey, Pki, PkiError},
    store::{
        self, AuditEntry, Store, StoreError, Tx,
        certificates::{self, CertificateRow},
        join_tokens::{self, JoinTokenRow},
        node_trust,
    },
};
pub use leave::Departed;

use guesses::{Guesses, Verdict};
use place::Place;
use proximity_protocol::{
    enroll::{EnrollRefusal, EnrollReply, EnrollRequest, Grant, RefusalReason},
    ids::NodeId,
    roots::Pin,
};
use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedeemError {
    /// The request or the token.
    #[error(transparent)]
    Refused(#[from] EnrollRefusal),
    /// The registry.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The authority.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

pub(crate) fn refused(reason: RefusalReason, message: impl Into<String>) -> RedeemError {
    EnrollRefusal {
        reason,
        message: message.into(),
    }
    .into()
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// The answer for the agent.
    pub reply: EnrollReply,
    /// Nodes whose earlier certificates are worth nothing since: their links are to be closed before the answer goes out.
    pub superseded: Vec<NodeId>,
}

struct Granted {
    grant: Grant,
    superseded: Vec<NodeId>,
    event: Option<Event>,
}

/// The use case. Clones share.
#[derive(Clone)]
pub struct Enrolment {
    store: Store,
    clock: SharedClock,
    pki: Pki,
    bus: Bus,
    guesses: Arc<Mutex<Guesses>>,
    returns: Arc<Mutex<Guesses>>,
}

impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enrolment(…)")
    }
}

impl Enrolment {
    /// Puts the use case together.
    pub fn new(store: Store, clock: SharedClock, pki: Pki, bus: Bus) -> Self {
        Self {
            store,
            clock,
            pki,
            bus,
            guesses: Arc::default(),
            returns: Arc::default(),
        }
    }

    /// Answers a request that came from `remote`.
    pub async fn redeem(&self, request: EnrollRequest, remote: IpAddr) -> Redeemed {
        let remote = remote.to_canonical();
        let now = self.clock.now_ms();
        let verdict = self.guesses().look(remote, now);
        let result = match verdict {
            Verdict::Welcome => self.judge(&request, remote, now).await,
            Verdict::Refused { tell } => {
                let error = refused(
                    RefusalReason::RateLimited,
                    "too many wrong join tokens came from this address; wait a minute, then try with a token that is whole",
                );
                if !tell {
                    // Told a moment ago: a flood of guesses does not become a flood of writes.
                    return Redeemed {
                        reply: EnrollReply::Refused(self.answer(&error)),
                        superseded: Vec::new(),
                    };
                }
                Err(error)
            }
        };
        match result {
            Ok(granted) => {
                if let Some(event) = granted.event {
                    self.bus.publish(event);
                }
                Redeemed {
                    reply: EnrollReply::Granted(granted.grant),
                    superseded: granted.superseded,
                }
            }
            Err(error) => {
                let refusal = self.answer(&error);
                self.audit_refusal(&request, remote, now, &refusal).await;
                Redeemed {
                    reply: EnrollReply::Refused(refusal),
                    superseded: Vec::new(),
                }
            }
        }
    }

    fn guesses(&self) -> std::sync::MutexGuard<'_, Guesses> {
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, error: &RedeemError) -> EnrollRefusal {
        match error {
            RedeemError::Refused(refusal) => refusal.clone(),
            failed => {
                tracing::error!(error = %failed, "a join token could not be redeemed");
                EnrollRefusal {
                    reason: RefusalReason::Internal,
                    message: "the coordinator could not issue the certificate; its log says why. The token is not used up: try again".into(),
                }
            }
        }
    }

    async fn audit_refusal(&self, request: &EnrollRequest, remote: IpAddr, now: UnixMs, refusal: &EnrollRefusal) {
        let failed = refusal.reason == RefusalReason::Internal;
        let entry = AuditEntry {
            actor: "anonymous".into(),
            action: "join_token.redeem".into(),
            target: Some(request.token.to_string()),
            remote: Some(remote.to_string()),
            outcome: if failed { "failed" } else { "refused" }.into(),
            detail: Some(format!("{:?}: {}", refusal.reason, refusal.message)),
            request_id: None,
        };
        let written = async {
            let mut tx = self.store.begin().await?;
            store::audit(&mut tx, now, &entry).await?;
            tx.commit().await.map_err(StoreError::from)
        };
        if let Err(error) = written.await {
            tracing::error!(%error, "a refused enrolment is missing in the audit");
        }
    }

    async fn judge(&self, request: &EnrollRequest, remote: IpAddr, now: UnixMs) -> Result<Granted, RedeemError> {
        // The secret first, and without a transaction: whoever does not know it costs next to nothing and learns nothing.
        let known = join_tokens::get(&mut *self.store.read().await?, request.token).await?;
        let hash = known.map_or_else(|| vec![0; 32], |row| row.secret_hash);
        if !self.pki.join_secret_matches(&request.secret, &hash) {
            self.guesses().wrong(remote, now);
            return Err(refused(
                RefusalReason::UnknownToken,
                "this join token is not known here: check that it was copied whole and is for this coordinator, or make a new one",
            ));
        }
        let key = NodeKey::from_request(&request.csr_der)
            .map_err(|error| refused(RefusalReason::Malformed, error.to_string()))?;
        let mut tx = self.store.begin().await?;
        let token = join_tokens::get(&mut tx, request.token).await?.ok_or_else(|| {
            refused(
                RefusalReason::UnknownToken,
                "this join token has been deleted; make a new one",
            )
        })?;
        allowed_from(&token, remote)?;
        if let Some(granted) = self.granted_before(&mut tx, &token, &key, now).await? {
            return Ok(granted);
        }
        usable(&token, now)?;
        if let Some(name) = &token.node_name
            && name != request.facts.node_name.as_str()
        {
            return Err(refused(
                RefusalReason::WrongNodeName,
                format!(
                    "this join token is for the node {name:?} and this machine is {:?}; make a token for this one",
                    request.facts.node_name.as_str()
                ),
            ));
        }
        let place = place::find(&mut tx, now, &token, &key, request).await?;
        self.issue(tx, now, remote, &token, &key, place).await
    }

    /// The certificate that this very key got from this very token, if the reply was lost.
    async fn granted_before(
        &self,
        tx: &mut Tx,
        token: &JoinTokenRow,
        key: &NodeKey,
        now: UnixMs,
    ) -> Result<Option<Granted>, RedeemError> {
        let (Some(spki), Some(serial)) = (&token.spent_spki, &token.spent_serial) else {
            return Ok(None);
        };
        if token.revoked_at.is_some() || spki.as_slice() != key.spki_sha256() {
            return Ok(None);
        }
        if token.expires_at <= now {
            return Err(expired(token));
        }
        let row = certificates::get(tx, serial).await?;
        let Some(row) = row.filter(|row| row.revoked_at.is_none()) else {
            return Err(refused(
                RefusalReason::Revoked,
                "the certificate that this join token brought has been revoked; make a new token",
            ));
        };
        Ok(Some(Granted {
            grant: self.grant(row),
            superseded: Vec::new(),
            event: None,
        }))
    }

    async fn issue(
        &self,
        mut tx: Tx,
        now: UnixMs,
        remote: IpAddr,
        token: &JoinTokenRow,
        key: &NodeKey,
        place: Place,
    ) -> Result<Granted, RedeemError> {
        let issued = self.issue_for(token, place.node, key, now)?;
        for node in &place.superseded {
            certificates::revoke_all(&mut tx, now, *node, "enrolled again").await?;
            // With another key: whoever held the old one is out, and what was known of its roots says nothing of the new one.
            node_trust::forget(&mut tx, *node).await?;
        }
        let row = CertificateRow {
            serial: issued.serial,
            node_id: place.node,
            spki_sha256: key.spki_sha256().to_vec(),
            der: issued.der,
            not_before: issued.not_before,
            not_after: issued.not_after,
            revoked_at: None,
        };
        certificates::insert(&mut tx, now, &row).await?;
        if !join_tokens::spend(&mut tx, now, token.id, &key.spki_sha256(), &row.serial).await? {
            return Err(spent());
        }
        let entry = AuditEntry {
            actor: place.node.to_string(),
            action: "join_token.redeem".into(),
            target: Some(token.id.to_string()),
            remote: Some(remote.to_string()),
            outcome: "ok".into(),
            detail: Some(place.story),
            request_id: None,
        };
        store::audit(&mut tx, now, &entry).await?;
        let event = NewEvent {
            kind: "node",
            app_id: None,
            operation_id: None,
            owner_id: None,
            data: serde_json::json!({"node_id": place.node, "name": place.name, "change": "enrolled"}),
        };
        let event = store::insert_event(&mut tx, now, event).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Granted {
            grant: self.grant(row),
            superseded: place.superseded,
            event: Some(event),
        })
    }
}

impl Enrolment {
    /// What a node is given of a certificate: it, and the root that has issued it.
    fn grant(&self, row: CertificateRow) -> Grant {
        let root = self.pki.issuer(&row.der).map(|issuer| issuer.root.certificate);
        Grant {
            node: row.node_id,
            ca_der: root.unwrap_or_else(|| self.pki.ca_der()).to_vec(),
            certificate_der: row.der,
            not_after_unix_s: row.not_after / 1000,
        }
    }

    /// A certificate by the root that the token pins: it is the only one that the machine can believe.
    fn issue_for(&self, token: &JoinTokenRow, node: NodeId, key: &NodeKey, now: UnixMs) -> Result<Issued, RedeemError> {
        let pin = match &token.ca_pin {
            Some(pin) => Pin::try_from(pin.as_slice())
                .map_err(|_| StoreError::Corrupt(format!("the pin of join token {}", token.id)))?,
            None => self
                .pki
                .roots()
                .first()
                .map_or_else(|| self.pki.ca_pin(), |first| first.root.pin),
        };
        self.pki.issue_under(&pin, node, key, now)?.ok_or_else(|| {
            refused(
                RefusalReason::Expired,
                "this join token was made before the coordinator's root was replaced; make a new one",
            )
        })
    }
}

fn spent() -> RedeemError {
    refused(
        RefusalReason::Spent,
        "this join token has been used already by another key; make a new one, and look at the audit if it was not you",
    )
}

fn expired(token: &JoinTokenRow) -> RedeemError {
    refused(
        RefusalReason::Expired,
        format!(
            "this join token expired at {}; make a new one",
            rfc3339(token.expires_at)
        ),
    )
}

fn usable(token: &JoinTokenRow, now: UnixMs) -> Result<(), RedeemError> {
    if token.revoked_at.is_some() {
        return Err(refused(
            RefusalReason::Revoked,
            "this join token has been revoked; make a new one",
        ));
    }
    if token.spent_at.is_some() {
        return Err(spent());
    }
    if token.expires_at <= now {
        return Err(expired(token));
    }
    Ok(())
}

fn allowed_from(token: &JoinTokenRow, remote: IpAddr) -> Result<(), RedeemError> {
    let Some(cidr) = &token.allowed_cidr else {
        return Ok(());
    };
    let net: IpNet = cidr.parse().map_err(StoreError::Corrupt)?;
    if net.contains(remote) {
        return Ok(());
    }
    Err(refused(
        RefusalReason::WrongAddress,
        format!(
            "this join token may be used from {cidr} only, and the request came from {remote}; make a token that allows this address"
        ),
    ))
}

#[cfg(test)]
mod tests;
