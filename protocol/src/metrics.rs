//! Live figures, encoded against the last sample that was written: an idle node costs a few bytes a second.

use crate::ids::Vmid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One moment of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// When, milliseconds since 1970, by the node's clock.
    pub at_unix_ms: i64,
    /// The node.
    pub node: NodeFigures,
    /// Its running containers, by VMID.
    pub containers: BTreeMap<u32, ContainerFigures>,
}

/// Figures of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Busy part of all CPUs, parts per million.
    pub cpu_ppm: u32,
    /// Memory in use, bytes (total − available).
    pub memory_used_bytes: u64,
    /// Memory, bytes.
    pub memory_total_bytes: u64,
    /// Storages that take containers, together, bytes.
    pub storage_used_bytes: u64,
    /// The same, bytes.
    pub storage_total_bytes: u64,
    /// Seconds since boot.
    pub uptime_s: u64,
}

/// Figures of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerFigures {
    /// Busy part of the cores that it may use, parts per million.
    pub cpu_ppm: u32,
    /// Memory in use without the page cache, bytes.
    pub memory_used_bytes: u64,
    /// Its limit, bytes, without swap.
    pub memory_total_bytes: u64,
    /// Root volume, bytes; `None` where it cannot be read without a tool.
    pub disk_used_bytes: Option<u64>,
    /// Root volume, bytes.
    pub disk_total_bytes: Option<u64>,
    /// Received since start, bytes.
    pub network_in_bytes: u64,
    /// Sent since start, bytes.
    pub network_out_bytes: u64,
}

/// One frame of the figures' stream. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MetricsFrame {
    /// Everything; the first of a stream.
    Full(Sample),
    /// What differs from the sample before.
    Delta {
        /// Milliseconds since the sample before.
        after_ms: u32,
        /// The node, if it changed.
        node: Option<NodeFigures>,
        /// Containers that changed or appeared.
        changed: Vec<(u32, ContainerFigures)>,
        /// Containers that stopped.
        gone: Vec<u32>,
    },
}

/// A delta came before a full sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream of figures starts with a difference instead of a whole sample")]
pub struct NoBase;

/// Remembers what was last written.
#[derive(Debug, Default)]
pub struct MetricsEncoder {
    last: Option<Sample>,
}

impl MetricsEncoder {
    /// The frame for `sample`. Call it only when the stream can take more: a sample that is dropped before it gets here costs nothing.
    pub fn encode(&mut self, sample: Sample) -> MetricsFrame {
        let frame = match &self.last {
            None => MetricsFrame::Full(sample.clone()),
            Some(last) => match u32::try_from(sample.at_unix_ms - last.at_unix_ms) {
                // A clock that went backwards (or far ahead) starts anew.
                Err(_) => MetricsFrame::Full(sample.clone()),
                Ok(after_ms) => MetricsFrame::Delta {
                    after_ms,
                    node: (sample.node != last.node).then(|| sample.node.clone()),
                    changed: sample
                        .containers
                        .iter()
                        .filter(|(vmid, figures)| last.containers.get(vmid) != Some(figures))
                        .map(|(vmid, figures)| (*vmid, figures.clone()))
                        .collect(),
                    gone: last
                        .containers
                        .keys()
                        .filter(|vmid| !sample.containers.contains_key(vmid))
                        .copied()
                        .collect(),
                },
            },
        };
        self.last = Some(sample);
        frame
    }
}

/// Puts samples together again.
#[derive(Debug, Default)]
pub struct MetricsDecoder {
    last: Option<Sample>,
}

impl MetricsDecoder {
    /// The sample that `frame` brings.
    pub fn decode(&mut self, frame: MetricsFrame) -> Result<&Sample, NoBase> {
        let next = match (frame, self.last.take()) {
            (MetricsFrame::Full(sample), _) => sample,
            (MetricsFrame::Delta { .. }, None) => return Err(NoBase),
            (
                MetricsFrame::Delta {
                    after_ms,
                    node,
                    changed,
                    gone,
                },
                Some(mut sample),
            ) => {
                sample.at_unix_ms = sample.at_unix_ms.saturating_add(after_ms.into());
                if let Some(node) = node {
                    sample.node = node;
                }
                for vmid in gone {
                    sample.containers.remove(&vmid);
                }
                // Only real VMIDs: a stream cannot fill the map with others.
                sample
                    .containers
                    .extend(changed.into_iter().filter(|(vmid, _)| Vmid::new(*vmid).is_ok()));
                sample
            }
        };
        Ok(self.last.insert(next))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample(at_unix_ms: i64, vmids: &[u32], cpu_ppm: u32) -> Sample {
        let containers = vmids
            .iter()
            .map(|v| {
                (
                    *v,
                    ContainerFigures {
                        cpu_ppm,
                        ..Default::default()
                    },
                )
            })
            .collect();
        Sample {
            at_unix_ms,
            node: NodeFigures {
                cpu_ppm,
                ..Default::default()
            },
            containers,
        }
    }

    #[test]
    fn deltas_rebuild_the_samples() {
        let (mut encoder, mut decoder) = (MetricsEncoder::default(), MetricsDecoder::default());
        for next in [
            sample(1_000, &[100, 101], 5),
            sample(2_000, &[101], 5),
            sample(3_000, &[101, 102], 9),
            sample(2_500, &[102], 9),
        ] {
            let frame = encoder.encode(next.clone());
            assert_eq!(decoder.decode(frame).unwrap(), &next);
        }
    }

    #[test]
    fn an_idle_second_is_small() {
        let mut encoder = MetricsEncoder::default();
        let vmids: Vec<u32> = (100..200).collect();
        encoder.encode(sample(1_000, &vmids, 5));
        let idle = crate::codec::encode(1, &encoder.encode(sample(2_000, &vmids, 5))).unwrap();
        assert!(idle.len() < 64, "{} bytes", idle.len());
    }

    #[test]
    fn a_delta_without_base_is_refused() {
        let frame = MetricsFrame::Delta {
            after_ms: 1,
            node: None,
            changed: vec![],
            gone: vec![],
        };
        assert_eq!(MetricsDecoder::default().decode(frame), Err(NoBase));
    }
}
