//! Whether a certificate's holder may come in: by what the registry says now, not by the signature alone.

use super::{Deps, connections::Link};
use crate::{
    clock::UnixMs,
    events::{Event, NewEvent},
    store::{self, AuditEntry, Connection, Store, StoreError, certificates, hosts, node_trust, nodes},
};
use proximity_protocol::{
    close,
    fault::{Fault, FaultKind},
    hello::Hello,
    ids::NodeId,
    observed::NodeFacts,
    roots::{self, Pin, ROOTS_MAX},
};
use rustls_pki_types::CertificateDer;
use std::sync::PoisonError;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The registry does not know the certificate, or it is revoked, or its node is.
    #[error("this node's certificate is {0}: join again with a new token")]
    Certificate(&'static str),
    /// The machine is another than the one that enrolled.
    #[error("{0}")]
    Machine(Fault),
    /// The registry could not be asked: nobody comes in.
    #[error("the coordinator could not read its registry: try again later")]
    Store(#[from] StoreError),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
}

impl Refusal {
    /// What to hang up with.
    pub(super) fn code(&self) -> u32 {
        match self {
            Self::Certificate(_) => close::REVOKED,
            Self::Machine(_) => close::PROTOCOL,
            Self::Store(_) | Self::Broken(_) => close::BYE,
        }
    }
}

/// Whose certificate it is, if it is good.
pub(super) async fn of_certificate(store: &Store, certificate: &CertificateDer<'_>) -> Result<NodeId, Refusal> {
    Ok(check(&mut *store.read().await?, certificate).await?.0)
}

async fn check(tx: &mut Connection, certificate: &CertificateDer<'_>) -> Result<(NodeId, String), Refusal> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| Refusal::Certificate("not readable"))?;
    let serial = data_encoding::HEXLOWER.encode(parsed.raw_serial());
    let row = certificates::get(tx, &serial)
        .await?
        // The whole certificate, not only its number.
        .filter(|row| row.der == certificate.as_ref())
        .ok_or(Refusal::Certificate("unknown to the registry"))?;
    if row.revoked_at.is_some() {
        return Err(Refusal::Certificate("revoked"));
    }
    match nodes::get(tx, row.node_id).await? {
        Some(node) if !node.is_revoked() => Ok((node.id, serial)),
        Some(_) => Err(Refusal::Certificate("revoked")),
        None => Err(Refusal::Certificate("of a node that has been removed")),
    }
}

/// Hello is good: writes down what the node is, if it is still the machine that enrolled. Its certificate is in use from now on, and the ones before are
/// superseded. Answers the certificate's serial.
pub(super) async fn register(
    deps: &Deps,
    node: NodeId,
    certificate: &CertificateDer<'_>,
    hello: &Hello,
) -> Result<String, Refusal> {
    let mut tx = deps.store.begin().await?;
    let (_, serial) = check(&mut tx, certificate).await?;
    facts(deps, &mut tx, node, &hello.facts).await?;
    let version: String = hello.agent_version.chars().take(60).collect();
    nodes::set_agent_version(&mut tx, node, &version).await?;
    let follows = hello.capabilities.iter().any(|name| name == roots::CAPABILITY);
    node_trust::greeted(&mut tx, node, follows).await?;
    let now = deps.clock.now_ms();
    let superseded = certificates::supersede_older(&mut tx, now, node, &serial).await?;
    if superseded > 0 {
        let entry = AuditEntry {
            actor: node.to_string(),
            action: "certificate.supersede".into(),
            target: Some(node.to_string()),
            outcome: "ok".into(),
            detail: Some(format!(
                "certificate {serial} is in use; the {superseded} before it are worth nothing now"
            )),
            ..AuditEntry::default()
        };
        store::audit(&mut tx, now, &entry).await?;
    }
    let told = rekeyed(&mut tx, now, node, &serial).await?;
    tx.commit().await.map_err(StoreError::from)?;
    if let Some(event) = told {
        deps.bus.publish(event);
    }
    Ok(serial)
}

/// A certificate after the one whose key had to go is in use: copies of that key are worth nothing any more, and the alarm is over.
async fn rekeyed(tx: &mut Connection, now: UnixMs, node: NodeId, serial: &str) -> Result<Option<Event>, StoreError> {
    let trust = node_trust::get(tx, node).await?;
    if trust.rekey_from.as_deref().is_none_or(|from| from == serial) {
        return Ok(None);
    }
    node_trust::set_rekey_from(tx, node, None).await?;
    node_trust::set_cloned(tx, node, None).await?;
    let entry = AuditEntry {
        actor: node.to_string(),
        action: "node.rekeyed".into(),
        target: Some(node.to_string()),
        outcome: "ok".into(),
        detail: Some(format!(
            "certificate {serial} is of a new key; copies of the one before are worth nothing"
        )),
        ..AuditEntry::default()
    };
    store::audit(tx, now, &entry).await?;
    let name = nodes::get(tx, node).await?.map(|row| row.name);
    let event = NewEvent {
        kind: "node",
        app_id: None,
        operation_id: None,
        owner_id: None,
        data: serde_json::json!({"node_id": node, "name": name, "change": "rekeyed"}),
    };
    store::insert_event(tx, now, event).await.map(Some)
}

/// Fresh facts of a connected node.
pub(super) async fn refresh(deps: &Deps, node: NodeId, fresh: &NodeFacts) -> Result<(), Refusal> {
    let mut tx = deps.store.begin().await?;
    facts(deps, &mut tx, node, fresh).await?;
    tx.commit().await.map_err(StoreError::from)?;
    Ok(())
}

/// The agent has these roots on its disk.
pub(super) async fn roots_stored(deps: &Deps, node: NodeId, link: &Link, mut pins: Vec<Pin>) -> Result<(), Refusal> {
    let words: Vec<String> = pins
        .iter()
        .take(ROOTS_MAX)
        .map(|pin| data_encoding::HEXLOWER.encode(pin))
        .collect();
    let known = node_trust::get(&mut *deps.store.read().await?, node).await?;
    if known.roots != words {
        let mut tx = deps.store.begin().await?;
        node_trust::set_roots(&mut tx, node, &words).await?;
        tx.commit().await.map_err(StoreError::from)?;
        tracing::info!(node_id = %node, count = words.len(), "the agent has stored the coordinator's roots");
    }
    pins.truncate(ROOTS_MAX);
    *link.stored.lock().unwrap_or_else(PoisonError::into_inner) = pins;
    Ok(())
}

fn other_machine(message: String) -> Refusal {
    Refusal::Machine(Fault::new(FaultKind::Malformed, message))
}

async fn facts(deps: &Deps, tx: &mut Connection, node: NodeId, fresh: &NodeFacts) -> Result<(), Refusal> {
    let now = deps.clock.now_ms();
    let row = nodes::get(tx, node)
        .await?
        .ok_or(Refusal::Certificate("of a node that has been removed"))?;
    if row.name != fresh.node_name.as_str() {
        return Err(other_machine(format!(
            "this node enrolled as {:?} and calls itself {:?} now: join again with a new token",
            row.name,
            fresh.node_name.as_str()
        )));
    }
    match hosts::by_fingerprint(tx, &fresh.host_fingerprint).await? {
        Some(host) if host.id == row.host_id => {}
        // It never moves by its own word: a token decides into which host a machine comes.
        Some(host) => {
            return Err(other_machine(format!(
                "this machine belongs to the Proxmox installation {:?} now and enrolled in another: join again with a new token",
                host.name
            )));
        }
        // The installation made itself a new key, or this standalone machine has joined a cluster that nobody else here belongs to: the host goes along.
        None => {
            hosts::set_fingerprint(tx, now, row.host_id, &fresh.host_fingerprint).await?;
            let entry = AuditEntry {
                actor: node.to_string(),
                action: "host.fingerprint".into(),
                target: Some(row.host_id.to_string()),
                outcome: "ok".into(),
                detail: Some("the key of pve-root-ca.pem has changed".into()),
                ..AuditEntry::default()
            };
            store::audit(tx, now, &entry).await?;
        }
    }
    if row.facts.as_ref() != Some(fresh) {
        nodes::set_facts(tx, now, node, fresh).await?;
    }
    Ok(())
}
