//! Traffic of containers: their interfaces' other ends on the node, `veth<id>i<n>` in `/proc/net/dev`. What the node receives there, the container sent.

use super::NodeContext;
use std::{collections::BTreeMap, fs};

/// Bytes since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) in_bytes: u64,
    pub(super) out_bytes: u64,
}

/// By VMID; containers without an interface are missing.
pub(super) fn traffic(node: &NodeContext) -> BTreeMap<u32, Traffic> {
    fs::read_to_string(node.proc("net/dev"))
        .map(|text| parse(&text))
        .unwrap_or_default()
}

fn parse(text: &str) -> BTreeMap<u32, Traffic> {
    let mut all: BTreeMap<u32, Traffic> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, figures)) = line.split_once(':') else {
            continue;
        };
        let Some(vmid) = name
            .trim()
            .strip_prefix("veth")
            .and_then(|rest| rest.split_once('i'))
            .and_then(|(id, _)| id.parse().ok())
        else {
            continue;
        };
        let figures: Vec<u64> = figures
            .split_ascii_whitespace()
            .filter_map(|text| text.parse().ok())
            .collect();
        let (Some(received), Some(sent)) = (figures.first(), figures.get(8)) else {
            continue;
        };
        let entry = all.entry(vmid).or_default();
        entry.in_bytes += sent;
        entry.out_bytes += received;
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn directions_are_swapped_and_interfaces_added_up() {
        let text = "Inter-|   Receive | Transmit\n face |bytes packets\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n\
            veth100i0: 866 8 0 0 0 0 0 0 2274 22 0 0 0 0 0 0\nveth100i1: 1 8 0 0 0 0 0 0 2 22 0 0 0 0 0 0\nvethab: 1\n";
        assert_eq!(
            parse(text),
            BTreeMap::from([(
                100,
                Traffic {
                    in_bytes: 2276,
                    out_bytes: 867
                }
            )])
        );
    }
}
