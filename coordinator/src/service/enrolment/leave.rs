//! A node's goodbye: its operator has told it to leave.
//!
//! It is taken as an admin's revocation is: the certificates are worth nothing, the record stays with whatever apps it has, and the same machine comes back by
//! taking its record over. Whoever holds the key may do this, which is less than he may do with it otherwise.

use super::{Enrolment, guesses::Verdict};
use crate::{
    clock::UnixMs,
    domain::placement::Admission,
    events::{Event, NewEvent},
    pki::NodeKey,
    store::{self, AuditEntry, StoreError, apps, certificates, nodes},
};
use proximity_protocol::{
    ids::NodeId,
    leave::{LeaveRefusal, LeaveRefusalReason, LeaveReply, LeaveRequest},
};
use std::{net::IpAddr, sync::PoisonError};

/// Why a node could not leave.
#[derive(Debug, thiserror::Error)]
enum LeaveError {
    #[error(transparent)]
    Refused(#[from] LeaveRefusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn refused(reason: LeaveRefusalReason, message: impl Into<String>) -> LeaveError {
    LeaveError::Refused(LeaveRefusal {
        reason,
        message: message.into(),
    })
}

/// What became of a goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departed {
    /// The answer for the agent.
    pub reply: LeaveReply,
    /// The node that is gone since: its link is to be closed.
    pub gone: Option<NodeId>,
}

struct Left {
    node: NodeId,
    apps: usize,
    /// `None`: it was gone before.
    event: Option<Event>,
}

impl Enrolment {
    /// Answers a goodbye that came from `remote`. `challenge` is keying material of the connection on which it came.
    pub async fn leave(&self, request: &LeaveRequest, challenge: &[u8], remote: IpAddr) -> Departed {
        let (remote, now) = (remote.to_canonical(), self.clock.now_ms());
        let verdict = self
            .returns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .look(remote, now);
        let result = match verdict {
            Verdict::Welcome => self.judge_leave(request, challenge, remote, now).await,
            Verdict::Refused { .. } => Err(refused(
                LeaveRefusalReason::RateLimited,
                "too many nodes that are not known here came from this address; wait a minute",
            )),
        };
        match result {
            Ok(Left { node, apps, event }) => {
                let gone = event.is_some().then_some(node);
                if let Some(event) = event {
                    self.bus.publish(event);
                }
                let apps = u32::try_from(apps).unwrap_or(u32::MAX);
                Departed {
                    reply: LeaveReply::Left { node, apps },
                    gone,
                }
            }
            Err(LeaveError::Refused(refusal)) => {
                if refusal.reason != LeaveRefusalReason::RateLimited {
                    self.returns
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .wrong(remote, now);
                }
                Departed {
                    reply: LeaveReply::Refused(refusal),
                    gone: None,
                }
            }
            Err(LeaveError::Store(error)) => {
                tracing::error!(%error, "a node could not leave");
                Departed {
                    reply: LeaveReply::Refused(LeaveRefusal {
                        reason: LeaveRefusalReason::Internal,
                        message: "the coordinator could not write it down; its log says why. Try again".into(),
                    }),
                    gone: None,
                }
            }
        }
    }

    async fn judge_leave(
        &self,
        request: &LeaveRequest,
        challenge: &[u8],
        remote: IpAddr,
        now: UnixMs,
    ) -> Result<Left, LeaveError> {
        let key = NodeKey::from_request(&request.csr_der)
            .map_err(|error| refused(LeaveRefusalReason::Malformed, error.to_string()))?;
        if !key.has_signed(challenge, &request.proof) {
            return Err(refused(
                LeaveRefusalReason::Malformed,
                "the request does not prove on this connection that it comes from the holder of its key",
            ));
        }
        let mut tx = self.store.begin().await?;
        let certificate = certificates::newest_of_key(&mut tx, &key.spki_sha256())
            .await?
            .ok_or_else(|| refused(LeaveRefusalReason::UnknownKey, "no node with this key is enrolled here"))?;
        let node = certificate.node_id;
        let apps = apps::on_node(&mut tx, node).await?.len();
        let row = nodes::get(&mut tx, node).await?.filter(|row| !row.is_revoked());
        let (Some(row), None) = (row, certificate.revoked_at) else {
            // The node has left or was thrown out, or it is enrolled with another key since, which this one has no say in.
            return Ok(Left {
                node,
                apps,
                event: None,
            });
        };
        nodes::set_admission(&mut tx, now, node, Admission::Revoked).await?;
        certificates::revoke_all(&mut tx, now, node, "left").await?;
        let entry = AuditEntry {
            actor: node.to_string(),
            action: "node.leave".into(),
            target: Some(node.to_string()),
            remote: Some(remote.to_string()),
            outcome: "ok".into(),
            detail: Some(format!("node {} was told on its own machine to leave", row.name)),
            request_id: None,
        };
        store::audit(&mut tx, now, &entry).await?;
        let event = NewEvent {
            kind: "node",
            app_id: None,
            operation_id: None,
            owner_id: None,
            data: serde_json::json!({"node_id": node, "name": row.name, "change": "left"}),
        };
        let event = store::insert_event(&mut tx, now, event).await?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(Left {
            node,
            apps,
            event: Some(event),
        })
    }
}
