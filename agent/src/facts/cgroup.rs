//! Figures of a container's cgroup, version 2 or 1.
//!
//! Used memory leaves the page cache out, as Proxmox does: `memory.current` − `file` (v2), `memory.usage_in_bytes` − `total_cache` (v1).

use super::NodeContext;
use proximity_protocol::ids::Vmid;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Counters of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CgroupFigures {
    pub(crate) cpu_us: u64,
    pub(crate) memory_used_bytes: u64,
    /// `None`: no limit.
    pub(crate) memory_limit_bytes: Option<u64>,
}

/// Where a container's cgroups are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// One folder.
    V2(PathBuf),
    /// One per controller: memory and cpuacct.
    V1 { memory: PathBuf, cpu: PathBuf },
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(path)
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Cgroup {
    /// `None`: it has none, so it does not run.
    pub(crate) fn find(node: &NodeContext, vmid: Vmid) -> Option<Self> {
        let (root, parent, id) = (&node.host().cgroup, &node.host().cgroup_parent, vmid.to_string());
        // `unified` is where systemd's hybrid mode puts version 2; controllers are in version 1 then.
        let v2 = root.join(parent).join(&id);
        if v2.join("memory.current").exists() {
            return Some(Self::V2(v2));
        }
        let memory = root.join("memory").join(parent).join(&id);
        let cpu = ["cpuacct", "cpu,cpuacct", "cpu"]
            .into_iter()
            .map(|name| root.join(name).join(parent).join(&id))
            .find(|path| path.is_dir());
        Some(Self::V1 {
            cpu: cpu?,
            memory: memory.is_dir().then_some(memory)?,
        })
    }

    /// `None`: it went away meanwhile.
    pub(crate) fn figures(&self) -> Option<CgroupFigures> {
        match self {
            Self::V2(path) => {
                let cache = field(&path.join("memory.stat"), "file").unwrap_or(0);
                Some(CgroupFigures {
                    cpu_us: field(&path.join("cpu.stat"), "usage_usec")?,
                    memory_used_bytes: number(&path.join("memory.current"))?.saturating_sub(cache),
                    // "max" means none, which does not parse.
                    memory_limit_bytes: number(&path.join("memory.max")),
                })
            }
            Self::V1 { memory, cpu } => {
                let cache = field(&memory.join("memory.stat"), "total_cache").unwrap_or(0);
                Some(CgroupFigures {
                    cpu_us: number(&cpu.join("cpuacct.usage"))? / 1000,
                    memory_used_bytes: number(&memory.join("memory.usage_in_bytes"))?.saturating_sub(cache),
                    // Version 1 says "none" as a number close to 2^63.
                    memory_limit_bytes: number(&memory.join("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 60),
                })
            }
        }
    }

    /// Its folder that lists processes.
    pub(crate) fn process_root(&self) -> &Path {
        match self {
            Self::V2(path) | Self::V1 { memory: path, .. } => path,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn both_versions_give_the_same_figures() {
        let expected = CgroupFigures {
            cpu_us: 5_000,
            memory_used_bytes: 70,
            memory_limit_bytes: Some(512),
        };
        let vmid = Vmid::new(100).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        assert_eq!(Cgroup::find(&node, vmid), None);
        let put = |path: &str, text: &str| testing::put(dir.path(), &format!("sys/fs/cgroup/{path}"), text);
        put("memory/lxc/100/memory.usage_in_bytes", "100\n");
        put("memory/lxc/100/memory.limit_in_bytes", "512\n");
        put("memory/lxc/100/memory.stat", "cache 1\ntotal_cache 30\n");
        put("cpuacct/lxc/100/cpuacct.usage", "5000000\n");
        assert_eq!(Cgroup::find(&node, vmid).unwrap().figures(), Some(expected));
        put("lxc/100/memory.current", "100\n");
        put("lxc/100/memory.max", "512\n");
        put("lxc/100/memory.stat", "anon 9\nfile 30\nfile_mapped 7\n");
        put("lxc/100/cpu.stat", "usage_usec 5000\nuser_usec 1\n");
        let v2 = Cgroup::find(&node, vmid).unwrap();
        assert!(matches!(v2, Cgroup::V2(_)));
        assert_eq!(v2.figures(), Some(expected));
        put("lxc/100/memory.max", "max\n");
        assert_eq!(v2.figures().unwrap().memory_limit_bytes, None);
    }
}
