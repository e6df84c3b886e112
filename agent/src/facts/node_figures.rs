//! Processor, memory and uptime of the node: `/proc/stat`, `/proc/meminfo`, `/proc/uptime`.

use super::NodeContext;
use std::fs;

/// Processor time since boot, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CpuTicks {
    busy: u64,
    total: u64,
}

impl CpuTicks {
    pub(super) fn read(node: &NodeContext) -> Option<Self> {
        Self::parse(&fs::read_to_string(node.proc("stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let fields = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> = fields
            .split_ascii_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; guest time is in user already (proc_stat(5)).
        let idle = fields.get(3)? + fields.get(4).unwrap_or(&0);
        let total: u64 = fields.iter().take(8).sum();
        Some(Self {
            busy: total - idle,
            total,
        })
    }

    /// The busy part since `before`, parts per million.
    pub(super) fn busy_ppm_since(self, before: Self) -> u32 {
        let (busy, total) = (
            self.busy.saturating_sub(before.busy),
            self.total.saturating_sub(before.total),
        );
        u32::try_from((busy * 1_000_000).checked_div(total).unwrap_or(0).min(1_000_000)).unwrap_or(1_000_000)
    }
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) available: u64,
}

impl Memory {
    pub(super) fn read(node: &NodeContext) -> Option<Self> {
        Self::parse(&fs::read_to_string(node.proc("meminfo")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let kib = |name: &str| {
            text.lines().find_map(|line| {
                line.strip_prefix(name)?
                    .split_ascii_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
        };
        Some(Self {
            total: kib("MemTotal:")? * 1024,
            available: kib("MemAvailable:")? * 1024,
        })
    }
}

/// Seconds since boot.
pub(super) fn uptime_s(node: &NodeContext) -> Option<u64> {
    fs::read_to_string(node.proc("uptime"))
        .ok()?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// Logical processors.
pub(super) fn cpu_count(node: &NodeContext) -> Option<u32> {
    let text = fs::read_to_string(node.proc("stat")).ok()?;
    let count = text
        .lines()
        .filter(|line| {
            line.strip_prefix("cpu")
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .count();
    u32::try_from(count).ok().filter(|count| *count > 0)
}

/// e.g. `6.8.12-9-pve`.
pub(super) fn kernel(node: &NodeContext) -> Option<String> {
    let read = |name: &str| fs::read_to_string(node.proc(name)).ok();
    read("sys/kernel/osrelease")
        .or_else(|| read("version")?.split(' ').nth(2).map(str::to_owned))
        .map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn busy_is_what_is_not_idle() {
        let before = CpuTicks::parse("cpu  100 0 100 800 0 0 0 0 50 0\ncpu0 1 2 3 4\n").unwrap();
        let after = CpuTicks::parse("cpu  150 0 150 1600 100 0 0 0 90 0\n").unwrap();
        assert_eq!(after.busy_ppm_since(before), 100_000);
        assert_eq!(before.busy_ppm_since(after), 0);
        assert!(CpuTicks::parse("nothing").is_none());
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n";
        assert_eq!(
            Memory::parse(text),
            Some(Memory {
                total: 1_024_000,
                available: 409_600
            })
        );
    }
}
