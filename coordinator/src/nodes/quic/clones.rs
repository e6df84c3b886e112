//! Two machines with one identity: how that is noticed and told. Who is kept out, `seating` decides.

use super::{
    accept::Door,
    connections::{Inquiry, Link, Look},
    seating::Claim,
};
use crate::{
    events::NewEvent,
    store::{
        self, AuditEntry, StoreError,
        node_trust::{self, Cloned, NodeTrust},
        nodes,
    },
};
use proximity_protocol::ids::{BootId, NodeId};
use std::{net::SocketAddr, time::Duration};

/// How long a connection that may be dead may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How often the holder of a place may change while it is being asked.
const ROUNDS: usize = 3;
/// Boots that are kept out, at most; the oldest make room.
const HELD_MAX: usize = 32;

/// Whether the agent at the other end lives: it takes an empty stream, which every agent ignores, and its QUIC says so.
async fn answers(link: &Link) -> bool {
    let asked = async {
        let (mut send, _recv) = link.connection.open_bi().await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    matches!(tokio::time::timeout(ANSWER, asked).await, Ok(Some(_)))
}

/// Looks at the node's place for `claim`, and asks whoever has it if need be.
pub(super) async fn look(door: &Door, node: NodeId, claim: Claim) -> Result<(Look, Inquiry), StoreError> {
    let mut known = Inquiry::default();
    let mut rounds = 0;
    loop {
        known.trust = node_trust::get(&mut *door.deps.store.read().await?, node).await?;
        let seen = door.connections.look(node, claim, &known);
        rounds += 1;
        match seen {
            Look::Ask(holder) if rounds < ROUNDS => {
                let lives = answers(&holder).await;
                tracing::debug!(node_id = %node, lives, "asked whether the connection that has the place lives");
                known.asked = Some((holder, lives));
            }
            seen => return Ok((seen, known)),
        }
    }
}

/// Where two machines were seen.
pub(super) struct Seen {
    /// `None`: it is not connected just now.
    pub(super) serves: Option<SocketAddr>,
    pub(super) held: SocketAddr,
}

impl Seen {
    fn server(&self) -> String {
        match self.serves {
            Some(at) => format!("the one at {}", at.ip().to_canonical()),
            None => "the other one".into(),
        }
    }
}

/// Writes down that `boot` is kept out, and raises the alarm if it is new.
pub(super) async fn hold(
    door: &Door,
    node: NodeId,
    boot: BootId,
    known: &NodeTrust,
    seen: &Seen,
) -> Result<(), StoreError> {
    let before = known.cloned.as_ref();
    if before.is_some_and(|cloned| cloned.held.contains(&boot)) {
        tracing::debug!(node_id = %node, remote = %seen.held, "a copy of the node is kept out");
        return Ok(());
    }
    let now = door.deps.clock.now_ms();
    let message = format!(
        "two machines use the identity of this node: {} serves, the one at {} is kept out",
        seen.server(),
        seen.held.ip().to_canonical()
    );
    let mut held = before.map(|cloned| cloned.held.clone()).unwrap_or_default();
    held.push(boot);
    let over = held.len().saturating_sub(HELD_MAX);
    held.drain(..over);
    let cloned = Cloned {
        since: before.map_or(now, |cloned| cloned.since),
        message: message.clone(),
        held,
    };
    let mut tx = door.deps.store.begin().await?;
    node_trust::set_cloned(&mut tx, node, Some(&cloned)).await?;
    let name = nodes::get(&mut tx, node).await?.map(|row| row.name);
    let entry = AuditEntry {
        actor: node.to_string(),
        action: "node.cloned".into(),
        target: Some(node.to_string()),
        remote: Some(seen.held.ip().to_canonical().to_string()),
        outcome: "refused".into(),
        detail: Some(format!("{message} (boot {boot})")),
        request_id: None,
    };
    store::audit(&mut tx, now, &entry).await?;
    let event = NewEvent {
        kind: "node",
        app_id: None,
        operation_id: None,
        owner_id: None,
        data: serde_json::json!({"node_id": node, "name": name, "change": "cloned", "message": message}),
    };
    let event = store::insert_event(&mut tx, now, event).await?;
    tx.commit().await?;
    door.deps.bus.publish(event);
    tracing::error!(
        node_id = %node, name, boot = %boot,
        "{message}: a disk or a virtual machine was copied. If the right one serves, POST /api/proxmox/nodes/{node}/rekey makes the copy's key worthless, \
         and the copy joins with a token of its own; if not, revoke the node and join the right machine with --take-over"
    );
    Ok(())
}

/// That boot has the node's place: remembered over a restart of the coordinator.
pub(super) async fn seated(door: &Door, node: NodeId, boot: BootId) -> Result<(), StoreError> {
    let mut tx = door.deps.store.begin().await?;
    node_trust::set_boot(&mut tx, node, boot).await?;
    Ok(tx.commit().await?)
}

/// What the machine that is kept out is told, and shows its operator.
pub(super) fn words(seen: &Seen) -> String {
    format!(
        "two machines have this node's identity, since a disk was copied; {} serves and this one is kept out. If this machine is the copy, join it with a \
         token of its own; if it is the original, ask an admin of the coordinator",
        seen.server()
    )
}
