//! Memory and CPU of a container, as settings of its cgroup: version 1 or 2, whichever has the controller.

use std::fs;
use std::thread::available_parallelism;

use crate::body::{BodyError, Ct, io_at};
use crate::lab::cgroups;

const MIB: u64 = 1024 * 1024;

/// One setting: controller, file, value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    controller: &'static str,
    version: u8,
    file: &'static str,
    value: String,
}

/// Which version has a controller; `None`: the kernel does not have it.
type Versions<'a> = &'a dyn Fn(&str) -> Option<u8>;

fn limits(ct: &Ct<'_>, versions: Versions<'_>, cpus: u32) -> Vec<Limit> {
    let number = |key: &str, default: u64| ct.conf.get(key).and_then(|text| text.parse().ok()).unwrap_or(default);
    let mut limits = Vec::new();
    let mut add = |controller, version, file, value: String| {
        limits.push(Limit {
            controller,
            version,
            file,
            value,
        })
    };
    let memory = number("memory", 512) * MIB;
    let swap = number("swap", 512) * MIB;
    match versions("memory") {
        Some(1) => {
            // Memory with swap may not be smaller than memory, and each is checked against the other: this order suits a first start.
            add("memory", 1, "memory.limit_in_bytes", memory.to_string());
            add("memory", 1, "memory.memsw.limit_in_bytes", (memory + swap).to_string());
        }
        Some(_) => {
            add("memory", 2, "memory.max", memory.to_string());
            add("memory", 2, "memory.swap.max", swap.to_string());
        }
        None => {}
    }
    // Containers with fewer cores than the node has are spread over them, as pvestatd does.
    let cores = u32::try_from(number("cores", 0)).unwrap_or(0);
    if cores > 0 && cores < cpus {
        let list: Vec<String> = (0..cores).map(|core| ((ct.vmid + core) % cpus).to_string()).collect();
        if let Some(version) = versions("cpuset") {
            add("cpuset", version, "cpuset.cpus", list.join(","));
        }
    }
    let share = ct
        .conf
        .get("cpulimit")
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|share| *share > 0.0 && *share <= 8192.0);
    if let Some(share) = share {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let quota_us = (share * 100_000.0) as u64;
        match versions("cpu") {
            Some(1) => {
                add("cpu", 1, "cpu.cfs_period_us", "100000".to_owned());
                add("cpu", 1, "cpu.cfs_quota_us", quota_us.to_string());
            }
            Some(_) => add("cpu", 2, "cpu.max", format!("{quota_us} 100000")),
            None => {}
        }
    }
    limits
}

fn version_here(controller: &str) -> Option<u8> {
    cgroups::controller(controller, "").map(|(_, version)| version)
}

/// A kernel without swap accounting lacks that one file, and LXC would not start for want of it.
fn limits_here(ct: &Ct<'_>) -> Vec<Limit> {
    let mut limits = limits(ct, &version_here, cpus());
    limits.retain(|limit| {
        limit.file != "memory.memsw.limit_in_bytes"
            || cgroups::controller(limit.controller, "").is_some_and(|(root, _)| root.join(limit.file).exists())
    });
    limits
}

fn cpus() -> u32 {
    available_parallelism()
        .ok()
        .and_then(|number| u32::try_from(number.get()).ok())
        .unwrap_or(1)
}

/// Lines for LXC's configuration.
pub(super) fn lines(ct: &Ct<'_>) -> String {
    limits_here(ct)
        .iter()
        .map(|limit| {
            let key = if limit.version == 1 {
                "lxc.cgroup"
            } else {
                "lxc.cgroup2"
            };
            format!("{key}.{} = {}\n", limit.file, limit.value)
        })
        .collect()
}

/// Puts them into force on a running container.
pub(super) fn apply(ct: &Ct<'_>, cgroup: &str) -> Result<(), BodyError> {
    let mut refused = Vec::new();
    // Twice: memory and memory with swap bound each other, so which goes first depends on the direction.
    for _ in 0..2 {
        refused.clear();
        for limit in limits_here(ct) {
            let Some((folder, _)) = cgroups::controller(limit.controller, cgroup) else {
                continue;
            };
            let path = folder.join(limit.file);
            if let Err(error) = fs::write(&path, &limit.value) {
                refused.push(io_at(&path)(error));
            }
        }
    }
    refused.into_iter().next().map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Node, NodeSpec, Signals, SystemClock, conf::Section};

    fn of(settings: &[(&str, &str)], version: Option<u8>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::create(
            &dir.path().join("root"),
            &NodeSpec::new("pve1", std::net::Ipv4Addr::LOCALHOST),
        )
        .unwrap();
        let mut conf = Section::default();
        for (key, value) in settings {
            conf.set(key, *value);
        }
        let ct = Ct {
            layout: node.layout(),
            clock: &SystemClock,
            vmid: 101,
            conf: &conf,
            root_volume: std::path::Path::new(""),
            interrupted: &Signals::default(),
        };
        limits(&ct, &|_| version, 4)
            .iter()
            .map(|limit| format!("{}={}", limit.file, limit.value))
            .collect()
    }

    #[test]
    fn both_versions_get_memory_swap_cores_and_share() {
        let settings = [("memory", "256"), ("swap", "0"), ("cores", "2"), ("cpulimit", "0.5")];
        let mib_256 = "268435456";
        assert_eq!(
            of(&settings, Some(1)),
            [
                format!("memory.limit_in_bytes={mib_256}"),
                format!("memory.memsw.limit_in_bytes={mib_256}"),
                "cpuset.cpus=1,2".to_owned(),
                "cpu.cfs_period_us=100000".to_owned(),
                "cpu.cfs_quota_us=50000".to_owned(),
            ]
        );
        assert_eq!(
            of(&settings, Some(2)),
            [
                format!("memory.max={mib_256}"),
                "memory.swap.max=0".to_owned(),
                "cpuset.cpus=1,2".to_owned(),
                "cpu.max=50000 100000".to_owned(),
            ]
        );
        assert!(of(&settings, None).is_empty());
    }

    #[test]
    fn as_many_cores_as_the_node_has_are_no_limit() {
        assert!(
            of(&[("cores", "4")], Some(1))
                .iter()
                .all(|limit| !limit.starts_with("cpuset"))
        );
    }
}
