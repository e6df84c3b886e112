//! The next certificate of a node that is enrolled.
//!
//! *Renewal*: over the node's link, for a new key. Who asks is known by the certificate of the connection, never by a field. The old certificate stays good
//! until the new one has been used (admission supersedes it then) or expires, so that a lost answer locks nobody out; the same key gets the same certificate.
//!
//! *Return*: the node was off for longer than its certificate. It proves its enrolled key by a signature over keying material of the very connection, so that
//! a request that somebody has kept is of no use on another. Even if it were, it would bring a certificate, which is no secret, for a key that only the node
//! has. A node that is revoked, and a key that has been superseded, get nothing. All of it is audited; wrong tries are counted by address.
//!
//! *Which root*: the one that signs now, for an agent that follows from root to root; another gets a certificate of the root that it knows for as long as that
//! one is trusted. A certificate of a root that no longer signs is due for renewal whatever its dates, and so is one whose key somebody else may have.

use super::{Enrolment, guesses::Verdict};
use crate::{
    clock::{UnixMs, rfc3339},
    pki::{Issued, NodeKey, PkiError, rotation::Standing},
    store::{
        self, AuditEntry, Connection, StoreError, Tx,
        certificates::{self, CertificateRow},
        node_trust, nodes,
    },
};
use proximity_protocol::{
    enroll::Grant,
    ids::NodeId,
    renew::{RenewRefusal, RenewRefusalReason, ReturnReply, ReturnRequest},
};
use std::{net::IpAddr, sync::PoisonError};

/// Why there is no next certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Refused(#[from] RenewRefusal),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pki(#[from] PkiError),
}

fn refused(reason: RenewRefusalReason, message: impl Into<String>) -> RenewError {
    RenewError::Refused(RenewRefusal {
        reason,
        message: message.into(),
    })
}

fn revoked() -> RenewError {
    refused(
        RenewRefusalReason::Revoked,
        "this node's certificate has been revoked, or a newer one of it is in use: join again with a new token",
    )
}

/// Valid, and with more than half of its time to go.
fn is_fresh(row: &CertificateRow, now: UnixMs) -> bool {
    row.not_before <= now && now < row.not_before.saturating_add((row.not_after - row.not_before) / 2)
}

/// What is known of the agent that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asking {
    /// From where.
    pub remote: IpAddr,
    /// Whether it takes a certificate of the root that signs now: it has stored that root, or is told the way to it with the answer.
    pub follows: bool,
}

/// The node, if it is still welcome.
async fn enrolled(tx: &mut Connection, node: NodeId) -> Result<(), RenewError> {
    match nodes::get(tx, node).await? {
        Some(row) if !row.is_revoked() => Ok(()),
        _ => Err(revoked()),
    }
}

impl Enrolment {
    /// The next certificate of `node`, whose link shows the certificate `serial`, for the new key in `csr_der`.
    pub async fn renew(
        &self,
        node: NodeId,
        serial: &str,
        csr_der: &[u8],
        asking: Asking,
    ) -> Result<Grant, RenewRefusal> {
        let now = self.clock.now_ms();
        match self.judge_renewal(node, serial, csr_der, asking, now).await {
            Ok(grant) => Ok(grant),
            Err(error) => Err(self
                .renewal_refused("certificate.renew", Some(node), asking.remote, now, error)
                .await),
        }
    }

    /// Whether the certificate is of the root that signs now, or as near to it as the agent can come.
    fn is_of_newest_root(&self, row: &CertificateRow, follows: bool) -> bool {
        !follows
            || self
                .pki
                .issuer(&row.der)
                .is_some_and(|issuer| issuer.standing == Standing::Signing)
    }

    async fn judge_renewal(
        &self,
        node: NodeId,
        serial: &str,
        csr_der: &[u8],
        asking: Asking,
        now: UnixMs,
    ) -> Result<Grant, RenewError> {
        let follows = asking.follows;
        let key = NodeKey::from_request(csr_der)
            .map_err(|error| refused(RenewRefusalReason::Malformed, error.to_string()))?;
        let mut tx = self.store.begin().await?;
        let used = certificates::get(&mut tx, serial)
            .await?
            .filter(|row| row.node_id == node && row.revoked_at.is_none())
            .ok_or_else(revoked)?;
        enrolled(&mut tx, node).await?;
        if let Some(row) = certificates::newest_of_key(&mut tx, &key.spki_sha256()).await? {
            if row.node_id != node || row.revoked_at.is_some() || row.spki_sha256 == used.spki_sha256 {
                return Err(refused(
                    RenewRefusalReason::Malformed,
                    "this key has had a certificate before: a renewal needs a new key",
                ));
            }
            if is_fresh(&row, now) && self.is_of_newest_root(&row, follows) {
                return Ok(self.grant(row));
            }
        }
        let rekey = node_trust::get(&mut tx, node).await?.rekey_from.as_deref() == Some(serial);
        if is_fresh(&used, now) && self.is_of_newest_root(&used, follows) && !rekey {
            return Err(refused(
                RenewRefusalReason::NotDue,
                format!(
                    "by the coordinator's clock ({}) this certificate is good until {} and not yet due: if that is wrong, check the clocks of both",
                    rfc3339(now),
                    rfc3339(used.not_after)
                ),
            ));
        }
        certificates::take_back_newer(&mut tx, now, node, serial).await?;
        self.issue_next(tx, now, "certificate.renew", &used, &key, asking).await
    }

    /// A certificate for a key that had one. `challenge` is keying material of the connection on which the request came.
    pub async fn come_back(&self, request: &ReturnRequest, challenge: &[u8], asking: Asking) -> ReturnReply {
        let (remote, now) = (asking.remote.to_canonical(), self.clock.now_ms());
        let verdict = self
            .returns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(remote, now);
        let result = match verdict {
            Verdict::Welcome => self.judge_return(request, challenge, asking, now).await,
            Verdict::Refused { tell } => {
                let refusal = RenewRefusal {
                    reason: RenewRefusalReason::RateLimited,
                    message: "too many nodes that are not known here came from this address; wait a minute".into(),
                };
                if !tell {
                    // Told a moment ago: a flood of tries does not become a flood of writes.
                    return ReturnReply::Refused(refusal);
                }
                Err((None, refusal.into()))
            }
        };
        match result {
            Ok(grant) if asking.follows => ReturnReply::Followed {
                grant: Box::new(grant),
                roots: Box::new(self.pki.told()),
            },
            Ok(grant) => ReturnReply::Granted(grant),
            Err((node, error)) => {
                if let RenewError::Refused(refusal) = &error
                    && refusal.reason != RenewRefusalReason::RateLimited
                {
                    self.returns
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .wrong(remote, now);
                }
                ReturnReply::Refused(
                    self.renewal_refused("certificate.return", node, remote, now, error)
                        .await,
                )
            }
        }
    }

    /// On an error: whose key it is, if the proof was good.
    async fn judge_return(
        &self,
        request: &ReturnRequest,
        challenge: &[u8],
        asking: Asking,
        now: UnixMs,
    ) -> Result<Grant, (Option<NodeId>, RenewError)> {
        let key = NodeKey::from_request(&request.csr_der)
            .map_err(|error| (None, refused(RenewRefusalReason::Malformed, error.to_string())))?;
        if !key.has_signed(challenge, &request.proof) {
            let error = refused(
                RenewRefusalReason::Malformed,
                "the request does not prove on this connection that it comes from the holder of its key",
            );
            return Err((None, error));
        }
        let mut tx = self.store.begin().await.map_err(|error| (None, error.into()))?;
        let known = certificates::newest_of_key(&mut tx, &key.spki_sha256())
            .await
            .map_err(|error| (None, error.into()))?;
        let Some(row) = known else {
            let error = refused(
                RenewRefusalReason::UnknownKey,
                "no node with this key is enrolled here: join again with a new token",
            );
            return Err((None, error));
        };
        let node = row.node_id;
        self.next_for(tx, row, &key, asking, now)
            .await
            .map_err(|error| (Some(node), error))
    }

    async fn next_for(
        &self,
        mut tx: Tx,
        row: CertificateRow,
        key: &NodeKey,
        asking: Asking,
        now: UnixMs,
    ) -> Result<Grant, RenewError> {
        if row.revoked_at.is_some() {
            return Err(revoked());
        }
        enrolled(&mut tx, row.node_id).await?;
        if is_fresh(&row, now) && self.is_of_newest_root(&row, asking.follows) {
            return Ok(self.grant(row));
        }
        self.issue_next(tx, now, "certificate.return", &row, key, asking).await
    }

    /// By the root that signs, or by the one of the certificate before if the agent cannot follow.
    fn issue_after(
        &self,
        before: &CertificateRow,
        key: &NodeKey,
        asking: Asking,
        now: UnixMs,
    ) -> Result<Issued, RenewError> {
        if asking.follows {
            return Ok(self.pki.issue(before.node_id, key, now)?);
        }
        let known = self.pki.issuer(&before.der).map(|issuer| issuer.root.pin);
        let issued = match known {
            Some(pin) => self.pki.issue_under(&pin, before.node_id, key, now)?,
            None => None,
        };
        issued.ok_or_else(|| {
            refused(
                RenewRefusalReason::Malformed,
                "the coordinator's root has been replaced, and this agent is too old to follow: update proximity-agent on this node, it then comes back by itself",
            )
        })
    }

    async fn issue_next(
        &self,
        mut tx: Tx,
        now: UnixMs,
        action: &str,
        before: &CertificateRow,
        key: &NodeKey,
        asking: Asking,
    ) -> Result<Grant, RenewError> {
        let (node, remote) = (before.node_id, asking.remote);
        let issued = self.issue_after(before, key, asking, now)?;
        let row = CertificateRow {
            serial: issued.serial,
            node_id: node,
            spki_sha256: key.spki_sha256().to_vec(),
            der: issued.der,
            not_before: issued.not_before,
            not_after: issued.not_after,
            revoked_at: None,
        };
        certificates::insert(&mut tx, now, &row).await?;
        let entry = AuditEntry {
            actor: node.to_string(),
            action: action.into(),
            target: Some(node.to_string()),
            remote: Some(remote.to_canonical().to_string()),
            outcome: "ok".into(),
            detail: Some(format!(
                "certificate {}, good until {}",
                row.serial,
                rfc3339(row.not_after)
            )),
            request_id: None,
        };
        store::audit(&mut tx, now, &entry).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(self.grant(row))
    }

    /// What to answer, written down.
    async fn renewal_refused(
        &self,
        action: &str,
        node: Option<NodeId>,
        remote: IpAddr,
        now: UnixMs,
        error: RenewError,
    ) -> RenewRefusal {
        let refusal = match error {
            RenewError::Refused(refusal) => refusal,
            failed => {
                tracing::error!(error = %failed, "a certificate could not be renewed");
                RenewRefusal {
                    reason: RenewRefusalReason::Internal,
                    message: "the coordinator could not issue the certificate; its log says why. The node asks again"
                        .into(),
                }
            }
        };
        let failed = refusal.reason == RenewRefusalReason::Internal;
        let entry = AuditEntry {
            actor: node.map_or_else(|| "anonymous".into(), |node| node.to_string()),
            action: action.into(),
            target: node.map(|node| node.to_string()),
            remote: Some(remote.to_canonical().to_string()),
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
            tracing::error!(%error, "a refused renewal is missing in the audit");
        }
        refusal
    }
}
