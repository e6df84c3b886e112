//! Live figures on a unidirectional stream, at the interval that the coordinator wants.
//!
//! A sample is taken only when the stream has taken the one before: on a slow line figures get rarer, not older.

use super::{Link, LinkError};
use crate::identity::frames;
use proximity_protocol::metrics::MetricsEncoder;
use quinn::Connection;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::MissedTickBehavior;

const PRIORITY: i32 = -1;
const INTERVAL_MIN_MS: u32 = 100;
const INTERVAL_MAX_MS: u32 = 60_000;

fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

/// Sends until the connection ends; answers why.
pub(super) async fn send(link: &Link, connection: &Connection, version: u16, interval_ms: u32) -> LinkError {
    let broken = |error: &dyn std::fmt::Display| LinkError::Broken(error.to_string());
    let mut stream = match connection.open_uni().await {
        Ok(stream) => stream,
        Err(error) => return LinkError::from_connection(error),
    };
    if let Err(error) = stream.set_priority(PRIORITY) {
        return broken(&error);
    }
    let mut sampler = link.node.sampler();
    let mut encoder = MetricsEncoder::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(
        interval_ms.clamp(INTERVAL_MIN_MS, INTERVAL_MAX_MS).into(),
    ));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let clock = link.keys.clock().clone();
        let taken = tokio::task::spawn_blocking(move || {
            let mut sample = sampler();
            // By the clock that certificates go by: the coordinator compares it with its own.
            sample.at_unix_ms = unix_ms(clock.now());
            (sampler, sample)
        });
        let sample = match taken.await {
            Ok((same, sample)) => {
                sampler = same;
                sample
            }
            Err(error) => {
                tracing::error!(%error, "taking figures broke off; begins anew");
                sampler = link.node.sampler();
                continue;
            }
        };
        if let Err(error) = frames::write(&mut stream, version, &encoder.encode(sample)).await {
            return broken(&error);
        }
    }
}
