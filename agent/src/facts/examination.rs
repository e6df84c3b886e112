//! Containers looked at closely, for adoption and for settings that wait. Read from files like everything here: no tool runs.

use super::{NodeContext, addresses, cgroup::Cgroup, cluster, listening, node_figures, processes, running};
use crate::{
    ownership,
    policy::{Policy, permission},
    pve::{
        cluster::{Guest, GuestKind},
        ha::Requested,
    },
};
use proximity_protocol::{
    examined::{Examination, Examined, OtherGuest, Permission},
    fault::Fault,
    ids::Vmid,
    observed::RunState,
};
use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long the file systems of all containers together may take to say how full they are.
const DISKS: Duration = Duration::from_secs(3);
/// Clock ticks in a second as procfs counts them: USER_HZ, 100 on every architecture that Proxmox VE runs on (proc_pid_stat(5)).
const TICKS: u64 = 100;

impl NodeContext {
    /// Looks at one container, or at each of the node.
    pub(crate) async fn examine(&self, only: Option<Vmid>) -> Examination {
        let node = self.clone();
        let (mut examination, roots) = match tokio::task::spawn_blocking(move || collect(&node, only)).await {
            Ok(collected) => collected,
            Err(error) => return nothing(format!("everything: {error}")),
        };
        let limit = Instant::now() + DISKS;
        for (place, root) in roots {
            let figures = self
                .usage()
                .now(&root, limit.saturating_duration_since(Instant::now()))
                .await;
            if let Some(figures) = figures {
                let container = &mut examination.containers[place];
                container.disk_used_bytes = Some(figures.used_bytes);
                container.disk_total_bytes = container.disk_total_bytes.or(Some(figures.total_bytes));
            }
        }
        examination
    }
}

fn nothing(unreadable: String) -> Examination {
    Examination {
        quorate: false,
        unreadable: vec![unreadable],
        containers: vec![],
        others: vec![],
        destroys_adopted: Permission::Denied {
            because: "the node could not be looked at".into(),
        },
    }
}

/// What holds for all containers of one look.
struct Look<'a> {
    node: &'a NodeContext,
    policy: Result<Policy, Fault>,
    running: Option<BTreeSet<Vmid>>,
    uptime_s: Option<u64>,
    unreadable: Vec<String>,
}

/// With the roots of running containers, by their place in the list.
fn collect(node: &NodeContext, only: Option<Vmid>) -> (Examination, Vec<(usize, PathBuf)>) {
    let file = &node.config().paths.policy;
    let mut look = Look {
        node,
        policy: Policy::load(file),
        running: None,
        uptime_s: node_figures::uptime_s(node),
        unreadable: Vec::new(),
    };
    match running::running(node) {
        Ok(running) => look.running = Some(running),
        Err(error) => look.unreadable.push(format!("which containers run: {error}")),
    }
    let quorate = match cluster::members(node) {
        Ok(members) => members.quorate,
        Err(fault) => look.note(&fault, false),
    };
    let guests = match cluster::guests(node) {
        Ok(list) => list.guests,
        Err(fault) => look.note(&fault, Default::default()),
    };
    let (mut containers, mut others, mut roots) = (Vec::new(), Vec::new(), Vec::new());
    for (vmid, guest) in guests
        .into_iter()
        .filter(|(vmid, _)| only.is_none_or(|only| only == *vmid))
    {
        if is_here(node, &guest) {
            if let Some((container, root)) = look.container(vmid) {
                roots.extend(root.map(|root| (containers.len(), root)));
                containers.push(container);
            }
        } else {
            let machine = guest.kind == GuestKind::Machine;
            let node = guest.node;
            others.push(OtherGuest { vmid, node, machine });
        }
    }
    let destroys_adopted = permission(
        look.policy
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|policy| policy.check_destroying_adopted(file, node.name().as_str())),
    );
    let examination = Examination {
        quorate,
        unreadable: look.unreadable,
        containers,
        others,
        destroys_adopted,
    };
    (examination, roots)
}

fn is_here(node: &NodeContext, guest: &Guest) -> bool {
    guest.node == node.name().as_str() && guest.kind == GuestKind::Container
}

impl Look<'_> {
    fn note<T>(&mut self, what: &impl ToString, instead: T) -> T {
        self.unreadable.push(what.to_string());
        instead
    }

    fn container(&mut self, vmid: Vmid) -> Option<(Examined, Option<PathBuf>)> {
        let conf = match cluster::conf(self.node, vmid) {
            Ok(Some(conf)) => conf,
            Ok(None) => return self.note(&format!("container {vmid} changes just now"), None),
            Err(fault) => return self.note(&fault, None),
        };
        let record = match ownership::read(self.node, vmid) {
            Ok(record) => record.filter(|record| conf.is_half_made() || record.is_of(&conf)),
            Err(fault) => self.note(&fault, None),
        };
        let state = match &self.running {
            None => RunState::Unknown,
            Some(running) if running.contains(&vmid) => RunState::Running,
            Some(_) => RunState::Stopped,
        };
        let init = (state == RunState::Running)
            .then(|| processes::init_pid(self.node, vmid))
            .flatten();
        let file = &self.node.config().paths.policy;
        let adoption = self
            .policy
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|policy| policy.check_adoption(vmid, file, self.node.name().as_str()));
        let (mut addresses, mut ports) = (Vec::new(), None);
        if let Some(pid) = init {
            match addresses::network(self.node, vmid) {
                Ok(network) => addresses = network.map(|network| network.addresses).unwrap_or_default(),
                Err(error) => self.note(&format!("addresses of container {vmid}: {error}"), ()),
            }
            match listening::listening(self.node, pid) {
                Ok(found) => ports = Some(found),
                Err(error) => self.note(&format!("listening ports of container {vmid}: {error}"), ()),
            }
        }
        let ha = match cluster::ha_service(self.node, vmid) {
            Ok(service) => service.is_some_and(|service| service.requested != Requested::Ignored),
            Err(fault) => self.note(&fault, false),
        };
        let cgroup = init
            .and_then(|_| Cgroup::find(self.node, vmid))
            .and_then(|cgroup| cgroup.figures());
        let root = init
            .map(|pid| self.node.proc(&format!("{pid}/root")))
            .filter(|root| root.symlink_metadata().is_ok());
        let examined = Examined {
            vmid,
            hostname: conf.get("hostname").map(str::to_owned),
            state,
            lock: conf.get("lock").map(str::to_owned),
            template: conf.is_template(),
            half_made: conf.is_half_made(),
            adopted: record.as_ref().is_some_and(|record| record.adopted),
            owner: record.map(|record| record.owner),
            cpu_cores: conf.cores(),
            memory_mb: conf.memory_mb(),
            swap_mb: conf.swap_mb(),
            memory_used_bytes: cgroup.map(|figures| figures.memory_used_bytes),
            root_volume: conf.root_volume().map(str::to_owned),
            mounts: conf.mounts(),
            ha,
            disk_total_bytes: conf.root_size_bytes(),
            disk_used_bytes: None,
            uptime_s: init.and_then(|pid| self.age_s(pid)),
            addresses,
            listening: ports,
            pending: conf.pending.into_keys().collect(),
            adoption: permission(adoption),
        };
        Some((examined, root))
    }

    /// How long a process has been there.
    fn age_s(&self, pid: u32) -> Option<u64> {
        let text = fs::read_to_string(self.node.proc(&format!("{pid}/stat"))).ok()?;
        let started = started_ticks(&text)? / TICKS;
        Some(self.uptime_s?.saturating_sub(started))
    }
}

/// Field 22. The name in parentheses may hold anything, also ')'.
fn started_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::facts::testing;

    fn vmid(number: u32) -> Vmid {
        Vmid::new(number).unwrap()
    }

    #[tokio::test]
    async fn a_running_stranger_is_described_and_what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path());
        let put = |path: &str, text: &str| testing::put(dir.path(), path, text);
        put("proc/net/unix", "Num\n0: 0 0 0 0 0 1 @/var/lib/lxc/105/command\n");
        put("proc/uptime", "1000.10 1.00\n");
        put(
            "proc/900/stat",
            "900 (sys) temd) S 1 7 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 40000 1 2",
        );
        put("proc/900/status", "NSpid:\t900\t1\n");
        put(
            "proc/900/net/fib_trie",
            "        |-- 10.0.0.5\n           /32 host LOCAL\n",
        );
        put("proc/900/net/tcp", "head\n 0: 00000000:0050 00000000:0000 0A 0:0\n");
        for (name, text) in [
            ("memory.current", "100\n"),
            ("memory.stat", "file 30\n"),
            ("cpu.stat", "usage_usec 5\n"),
            ("cgroup.procs", "900\n"),
        ] {
            put(&format!("sys/fs/cgroup/lxc/105/{name}"), text);
        }
        put(
            "etc/pve/.vmlist",
            r#"{"version":2,"ids":{"105":{"node":"pve1","type":"lxc","version":1},"106":{"node":"pve1","type":"qemu","version":1},"107":{"node":"pve2","type":"lxc","version":1},"108":{"node":"pve1","type":"lxc","version":1}}}"#,
        );
        put(
            "etc/pve/nodes/pve1/lxc/105.conf",
            "hostname: web\nmemory: 256\ncores: 2\nrootfs: local:105/vm-105-disk-0.raw,size=2G\n\n[pve:pending]\nfeatures: nesting=1\n",
        );
        put("etc/pve/ha/resources.cfg", "ct: 105\n\tstate started\n");
        let all = node.examine(None).await;
        assert_eq!(all.unreadable, ["container 108 changes just now"]);
        assert_eq!(
            all.others.iter().map(|o| (o.vmid.get(), o.machine)).collect::<Vec<_>>(),
            [(106, true), (107, false)]
        );
        let [container] = all.containers.as_slice() else {
            panic!("{all:?}")
        };
        assert_eq!(
            (container.state, container.owner.clone(), container.adopted),
            (RunState::Running, None, false)
        );
        assert_eq!(
            (
                container.memory_used_bytes,
                container.uptime_s,
                container.disk_total_bytes
            ),
            (Some(70), Some(600), Some(2 << 30))
        );
        assert_eq!(container.listening.as_ref().unwrap()[0].port, 80);
        assert_eq!(
            (container.pending.as_slice(), container.ha),
            (&["features".to_owned()][..], true)
        );
        let Permission::Denied { because } = &container.adoption else {
            panic!("{container:?}")
        };
        assert!(because.contains("echo 'adoption = [105]' >>"), "{because}");

        let one = node.examine(Some(vmid(106))).await;
        assert!(one.containers.is_empty() && one.others.len() == 1 && one.unreadable.is_empty());
        put("etc/proximity/policy.toml", "adoption = 'some'\n");
        let broken = node.examine(Some(vmid(105))).await;
        let Permission::Denied { because } = &broken.containers[0].adoption else {
            panic!("{broken:?}")
        };
        assert!(because.contains("not valid"), "{because}");
        put(
            "etc/proximity/policy.toml",
            "adoption = 'any'\ndestroy_adopted = true\n",
        );
        let allowed = node.examine(Some(vmid(105))).await;
        assert_eq!(
            (&allowed.containers[0].adoption, &allowed.destroys_adopted),
            (&Permission::Granted, &Permission::Granted)
        );
    }

    #[test]
    fn the_start_of_a_process_is_read() {
        assert_eq!(
            started_ticks("7 (a) b) c) S 1 7 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2"),
            Some(9876)
        );
        assert_eq!(started_ticks("garbage"), None);
    }
}
