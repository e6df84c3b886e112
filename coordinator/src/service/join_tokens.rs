//! Join tokens: made by admins, shown once.

use super::{Caller, FieldError, ServiceError, settings::only_admins};
use crate::{
    clock::{SharedClock, UnixMs, rfc3339},
    domain::network::IpNet,
    pki::{self, Pki, PkiError},
    store::{
        self, AuditEntry, Store, hosts,
        join_tokens::{self as rows, JoinTokenRow},
    },
};
use proximity_protocol::{
    ids::{JoinTokenId, NodeName},
    secret::{Secret256, SecretText},
    token::JoinToken,
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use uuid::Uuid;

/// How long a token works unless said otherwise.
pub const TTL_DEFAULT_S: i64 = 15 * 60;
/// How long at most.
pub const TTL_MAX_S: i64 = 24 * 3600;
/// What is run on the node. The token is asked for there, or read from a file: never an argument, which every user of the machine could read.
pub const JOIN_COMMAND: &str = "proximity-agent join";

/// A token to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewJoinToken {
    /// The host that it is for; absent: any, a new one too.
    pub host_id: Option<i64>,
    /// The node that it is for; absent: any.
    pub node_name: Option<String>,
    /// From where it may be used; absent: anywhere.
    pub allowed_cidr: Option<String>,
    /// Seconds, 1 to 86 400; absent: 900.
    pub ttl_seconds: Option<i64>,
}

/// A token that was made. The only time that it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct CreatedJoinToken {
    /// The public part.
    pub id: String,
    /// The whole line.
    pub token: SecretText,
    /// What to run on the node.
    pub command: &'static str,
    /// Until when it works.
    pub expires_at: String,
}

/// A token as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinTokenView {
    /// The public part.
    pub id: String,
    /// `open`, `spent`, `expired`, `revoked`.
    pub status: &'static str,
    /// See [`NewJoinToken::host_id`].
    pub host_id: Option<i64>,
    /// See [`NewJoinToken::node_name`].
    pub node_name: Option<String>,
    /// See [`NewJoinToken::allowed_cidr`].
    pub allowed_cidr: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// Until when it works.
    pub expires_at: String,
    /// When it was used.
    pub spent_at: Option<String>,
    /// When it was taken back.
    pub revoked_at: Option<String>,
}

/// A page of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinTokenPage {
    /// Newest first.
    pub tokens: Vec<JoinTokenView>,
    /// How many there are.
    pub total: i64,
    /// From 1.
    pub page: i64,
    /// At most so many.
    pub per_page: i64,
}

/// The use cases.
#[derive(Clone)]
pub struct JoinTokens {
    store: Store,
    clock: SharedClock,
    pki: Pki,
    addresses: Arc<[String]>,
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokens")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl From<PkiError> for ServiceError {
    fn from(error: PkiError) -> Self {
        Self::Internal(error.to_string())
    }
}

fn view(row: JoinTokenRow, now: UnixMs) -> JoinTokenView {
    let status = if row.spent_at.is_some() {
        "spent"
    } else if row.revoked_at.is_some() {
        "revoked"
    } else if row.expires_at <= now {
        "expired"
    } else {
        "open"
    };
    JoinTokenView {
        id: row.id.to_string(),
        status,
        host_id: row.host_id,
        node_name: row.node_name,
        allowed_cidr: row.allowed_cidr,
        created_by: row.created_by,
        created_at: rfc3339(row.created_at),
        expires_at: rfc3339(row.expires_at),
        spent_at: row.spent_at.map(rfc3339),
        revoked_at: row.revoked_at.map(rfc3339),
    }
}

fn check(new: &NewJoinToken) -> Result<i64, ServiceError> {
    let mut wrong = Vec::new();
    let ttl_s = new.ttl_seconds.unwrap_or(TTL_DEFAULT_S);
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        wrong.push(FieldError::body(
            "ttl_seconds",
            format!("has to be from 1 to {TTL_MAX_S} (24 hours)"),
        ));
    }
    if let Some(name) = &new.node_name
        && let Err(error) = NodeName::new(name.as_str())
    {
        wrong.push(FieldError::body("node_name", format!("has to be {}", error.rule)));
    }
    if let Some(cidr) = &new.allowed_cidr
        && let Err(error) = cidr.parse::<IpNet>()
    {
        wrong.push(FieldError::body("allowed_cidr", error));
    }
    if wrong.is_empty() {
        Ok(ttl_s)
    } else {
        Err(ServiceError::Invalid(wrong))
    }
}

/// Whoever asks, over HTTP or on the machine, for the audit.
fn entry(caller: &Caller, action: &str, target: String, detail: Option<String>) -> AuditEntry {
    AuditEntry {
        actor: caller.username.clone(),
        action: action.into(),
        target: Some(target),
        remote: caller.remote.clone(),
        outcome: "ok".into(),
        detail,
        request_id: caller.request_id.clone(),
    }
}

impl JoinTokens {
    /// Puts the use cases together; `addresses` are what tokens carry (`host:port`, 1 to 8).
    pub fn new(store: Store, clock: SharedClock, pki: Pki, addresses: Vec<String>) -> Self {
        Self {
            store,
            clock,
            pki,
            addresses: addresses.into(),
        }
    }

    /// Makes one.
    pub async fn create(&self, caller: &Caller, new: NewJoinToken) -> Result<CreatedJoinToken, ServiceError> {
        only_admins(caller)?;
        let ttl_s = check(&new)?;
        let now = self.clock.now_ms();
        let id = JoinTokenId(Uuid::new_v4());
        let secret = Secret256::new(pki::random()?);
        let pin = self.pki.ca_pin();
        let token = JoinToken::new(self.addresses.to_vec(), pin, id, secret)
            .map_err(|error| ServiceError::Internal(format!("the configuration's `advertise` does not do: {error}")))?;
        let row = JoinTokenRow {
            id,
            secret_hash: self.pki.hash_join_secret(&token.secret).to_vec(),
            host_id: new.host_id,
            node_name: new.node_name,
            allowed_cidr: new.allowed_cidr,
            created_by: caller.username.clone(),
            created_at: now,
            expires_at: now.saturating_add(ttl_s * 1000),
            revoked_at: None,
            spent_at: None,
            spent_spki: None,
            spent_serial: None,
            ca_pin: Some(pin.to_vec()),
        };
        let mut tx = self.store.begin().await?;
        if let Some(host) = new.host_id
            && hosts::get(&mut tx, host).await?.is_none()
        {
            return Err(ServiceError::NotFound(format!(
                "there is no host {host}; GET /api/proxmox/hosts lists them"
            )));
        }
        rows::insert(&mut tx, &row).await?;
        let detail = format!(
            "host {}, node {}, from {}, {ttl_s} s",
            row.host_id.map_or_else(|| "any".into(), |h| h.to_string()),
            row.node_name.as_deref().unwrap_or("any"),
            row.allowed_cidr.as_deref().unwrap_or("anywhere")
        );
        store::audit(
            &mut tx,
            now,
            &entry(caller, "join_token.create", id.to_string(), Some(detail)),
        )
        .await?;
        tx.commit().await.map_err(store::StoreError::from)?;
        Ok(CreatedJoinToken {
            id: id.to_string(),
            token: SecretText::new(token.to_line().as_str()),
            command: JOIN_COMMAND,
            expires_at: rfc3339(row.expires_at),
        })
    }

    /// A page of them; never a secret.
    pub async fn list(&self, caller: &Caller, page: i64, per_page: i64) -> Result<JoinTokenPage, ServiceError> {
        only_admins(caller)?;
        let now = self.clock.now_ms();
        let offset = page.saturating_sub(1).saturating_mul(per_page);
        let (tokens, total) = rows::list(&mut *self.store.read().await?, per_page, offset).await?;
        Ok(JoinTokenPage {
            tokens: tokens.into_iter().map(|row| view(row, now)).collect(),
            total,
            page,
            per_page,
        })
    }

    /// Takes one back. One that was used stays used: the node that it let in is revoked at the node.
    pub async fn revoke(&self, caller: &Caller, id: &str) -> Result<(), ServiceError> {
        only_admins(caller)?;
        let unknown = || {
            ServiceError::NotFound(format!(
                "there is no join token {id:?}; GET /api/proxmox/join-tokens lists them"
            ))
        };
        let id: JoinTokenId = id.parse().map_err(|_| unknown())?;
        let now = self.clock.now_ms();
        let mut tx = self.store.begin().await?;
        if !rows::revoke(&mut tx, now, id).await? {
            return Err(unknown());
        }
        store::audit(&mut tx, now, &entry(caller, "join_token.revoke", id.to_string(), None)).await?;
        tx.commit().await.map_err(store::StoreError::from)?;
        Ok(())
    }
}
