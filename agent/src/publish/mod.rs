//! Published ports: the nftables table `proximity`, the one desired state that an agent holds by itself.

use crate::host::NodeContext;
use proximity_protocol::fault::{Fault, FaultKind};
use tokio::sync::mpsc;

/// Sets the table from the stored ports, at start and before the link. Answers how many ports are published.
pub async fn restore(node: &NodeContext) -> Result<u32, Fault> {
    let _ = node;
    Err(Fault::new(FaultKind::Internal, "publishing is not built yet"))
}

/// Looks every 10 s whether the table still stands and sets it again if not; sends how many entries were set again. Ends when `tx` is closed.
pub async fn watch(node: NodeContext, tx: mpsc::Sender<u32>) {
    let _ = node;
    tx.closed().await;
}
