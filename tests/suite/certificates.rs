//! Certificates for life: whatever time does, and whichever root signs, no node has to join again. Coordinator and agents are the product's own, within this
//! process, over real QUIC; their clocks are turned.
#![allow(clippy::unwrap_used)]

#[path = "certificates/clocks.rs"]
mod clocks;
#[path = "certificates/rotation.rs"]
mod rotation;
#[path = "certificates/years.rs"]
mod years;

use proximity_tests::inside::Inside;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Days until the node's certificate ends, by the coordinator's clock.
fn days_left(inside: &Inside, node: &Value) -> i64 {
    let until = node["certificate_expires_at"].as_str().unwrap();
    (OffsetDateTime::parse(until, &Rfc3339).unwrap() - inside.clock.date()).whole_days()
}
