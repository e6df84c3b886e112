//! Live figures, once a second.

use super::{
    NodeContext,
    cgroup::Cgroup,
    cluster,
    node_figures::{self, CpuTicks, Memory},
    processes, running, storages, traffic,
};
use crate::host::now_unix_ms;
use proximity_protocol::{
    ids::Vmid,
    metrics::{ContainerFigures, NodeFigures, Sample},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

/// How old a figure of a file system may be.
const FRESH: Duration = Duration::from_secs(30);
/// How often files are read that change seldom: `storage.cfg`, a container's configuration.
const SLOW: Duration = Duration::from_secs(10);

/// Takes live figures. Holds what the last sample needs for the next.
#[derive(Debug)]
pub struct Sampler {
    node: NodeContext,
    cpu: Option<CpuTicks>,
    cpu_count: u32,
    storage_folders: Vec<PathBuf>,
    slow_read: Option<Instant>,
    containers: BTreeMap<Vmid, Known>,
}

/// What is kept of a running container from one sample to the next.
#[derive(Debug)]
struct Known {
    cgroup: Cgroup,
    /// Processor time and when it was read.
    cpu: Option<(u64, Instant)>,
    cores: u32,
    memory_bytes: u64,
    root: Option<PathBuf>,
    read: Instant,
}

impl NodeContext {
    /// A sampler of live figures.
    pub fn sampler(&self) -> Sampler {
        Sampler {
            node: self.clone(),
            cpu: None,
            cpu_count: 1,
            storage_folders: vec![],
            slow_read: None,
            containers: BTreeMap::new(),
        }
    }
}

impl Sampler {
    /// The figures now. Reads some small files per running container, starts nothing, waits for nothing. What cannot be read stays zero.
    pub fn sample(&mut self) -> Sample {
        if self.slow_read.is_none_or(|read| read.elapsed() >= SLOW) {
            self.read_slow();
        }
        let running = running::running(&self.node).unwrap_or_default();
        self.containers.retain(|vmid, _| running.contains(vmid));
        let node = self.node_figures();
        let containers = self.container_figures(&running);
        Sample {
            at_unix_ms: now_unix_ms(),
            node,
            containers,
        }
    }

    fn read_slow(&mut self) {
        self.slow_read = Some(Instant::now());
        self.cpu_count = node_figures::cpu_count(&self.node).unwrap_or(1);
        if let Ok(all) = cluster::storages(&self.node) {
            self.storage_folders = all
                .iter()
                .filter(|storage| storage.takes("rootdir"))
                .filter_map(|storage| storages::folder(&self.node, storage))
                .collect();
        }
        let wanted: BTreeSet<&PathBuf> = self
            .storage_folders
            .iter()
            .chain(self.containers.values().filter_map(|known| known.root.as_ref()))
            .collect();
        self.node
            .usage()
            .retain(|path| wanted.iter().any(|wanted| *wanted == path));
    }

    fn node_figures(&mut self) -> NodeFigures {
        let cpu = CpuTicks::read(&self.node);
        let cpu_ppm = match (cpu, self.cpu) {
            (Some(now), Some(before)) => now.busy_ppm_since(before),
            _ => 0,
        };
        self.cpu = cpu;
        let memory = Memory::read(&self.node).unwrap_or_default();
        let mut file_systems = BTreeMap::new();
        for folder in &self.storage_folders {
            if let Some(figures) = self.node.usage().last(folder, FRESH) {
                file_systems.insert(figures.id, figures);
            }
        }
        NodeFigures {
            cpu_ppm,
            memory_used_bytes: memory.total.saturating_sub(memory.available),
            memory_total_bytes: memory.total,
            storage_used_bytes: file_systems.values().map(|figures| figures.used_bytes).sum(),
            storage_total_bytes: file_systems.values().map(|figures| figures.total_bytes).sum(),
            uptime_s: node_figures::uptime_s(&self.node).unwrap_or(0),
        }
    }

    fn container_figures(&mut self, running: &BTreeSet<Vmid>) -> BTreeMap<u32, ContainerFigures> {
        let traffic = traffic::traffic(&self.node);
        let mut all = BTreeMap::new();
        for vmid in running {
            let fresh = self
                .containers
                .get(vmid)
                .is_some_and(|known| known.read.elapsed() < SLOW);
            if !fresh && !self.get_to_know(*vmid) {
                continue;
            }
            let Some(known) = self.containers.get_mut(vmid) else {
                continue;
            };
            let Some(figures) = known.cgroup.figures() else {
                // Restarted with other cgroups, perhaps: looked for again at the next sample.
                self.containers.remove(vmid);
                continue;
            };
            let now = Instant::now();
            let cpu_ppm = known.cpu.map_or(0, |(cpu_us, at)| {
                busy_ppm(figures.cpu_us.saturating_sub(cpu_us), now - at, known.cores)
            });
            known.cpu = Some((figures.cpu_us, now));
            let disk = known.root.as_ref().and_then(|root| self.node.usage().last(root, FRESH));
            let traffic = traffic.get(&vmid.get()).copied().unwrap_or_default();
            all.insert(
                vmid.get(),
                ContainerFigures {
                    cpu_ppm,
                    memory_used_bytes: figures.memory_used_bytes,
                    memory_total_bytes: figures.memory_limit_bytes.unwrap_or(known.memory_bytes),
                    disk_used_bytes: disk.map(|disk| disk.used_bytes),
                    disk_total_bytes: disk.map(|disk| disk.total_bytes),
                    network_in_bytes: traffic.in_bytes,
                    network_out_bytes: traffic.out_bytes,
                },
            );
        }
        all
    }

    /// Reads what changes seldom; `false` if it is gone or not ours to see.
    fn get_to_know(&mut self, vmid: Vmid) -> bool {
        let (Some(cgroup), Ok(Some(conf))) = (Cgroup::find(&self.node, vmid), cluster::conf(&self.node, vmid)) else {
            return false;
        };
        // The root as its init sees it: mounted in the container's own mount namespace only.
        let root = processes::init_pid(&self.node, vmid)
            .map(|pid| self.node.proc(&format!("{pid}/root")))
            .filter(|root| root.symlink_metadata().is_ok());
        let cpu = self.containers.get(&vmid).and_then(|known| known.cpu);
        let cores = conf.cores().unwrap_or(self.cpu_count).max(1);
        self.containers.insert(
            vmid,
            Known {
                cgroup,
                cpu,
                cores,
                memory_bytes: conf.memory_mb() << 20,
                root,
                read: Instant::now(),
            },
        );
        true
    }
}

fn busy_ppm(busy_us: u64, elapsed: Duration, cores: u32) -> u32 {
    let capacity_us = elapsed.as_micros() * u128::from(cores);
    let ppm = (u128::from(busy_us) * 1_000_000).checked_div(capacity_us).unwrap_or(0);
    u32::try_from(ppm.min(1_000_000)).unwrap_or(1_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    #[test]
    fn a_running_container_has_figures_and_a_stopped_one_none() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let put = |path: &str, text: &str| testing::put(dir.path(), path, text);
        put("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n");
        put("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 400 kB\n");
        put("proc/uptime", "77.10 1.00\n");
        put("proc/net/unix", "Num\n0: 0 0 0 0 0 1 @/var/lib/lxc/100/command\n");
        put("proc/net/dev", "veth100i0: 866 8 0 0 0 0 0 0 2274 22 0 0 0 0 0 0\n");
        put("etc/pve/nodes/pve1/lxc/100.conf", "memory: 256\ncores: 2\n");
        for (name, text) in [
            ("memory.current", "100\n"),
            ("memory.stat", "file 30\n"),
            ("memory.max", "max\n"),
            ("cpu.stat", "usage_usec 5\n"),
        ] {
            put(&format!("sys/fs/cgroup/lxc/100/{name}"), text);
        }
        let mut sampler = node.sampler();
        let sample = sampler.sample();
        assert_eq!((sample.node.memory_used_bytes, sample.node.uptime_s), (600 * 1024, 77));
        let figures = &sample.containers[&100];
        assert_eq!((figures.memory_used_bytes, figures.memory_total_bytes), (70, 256 << 20));
        assert_eq!(
            (figures.network_in_bytes, figures.network_out_bytes, figures.cpu_ppm),
            (2274, 866, 0)
        );
        put("proc/stat", "cpu  200 0 200 1600 0 0 0 0 0 0\n");
        put("sys/fs/cgroup/lxc/100/cpu.stat", "usage_usec 900000000\n");
        let sample = sampler.sample();
        assert_eq!(
            (sample.node.cpu_ppm, sample.containers[&100].cpu_ppm),
            (200_000, 1_000_000)
        );
        put("proc/net/unix", "Num\n");
        assert!(sampler.sample().containers.is_empty());
    }

    #[test]
    fn busy_counts_against_the_cores() {
        assert_eq!(busy_ppm(500_000, Duration::from_secs(1), 2), 250_000);
        assert_eq!(busy_ppm(5, Duration::ZERO, 2), 0);
    }
}
