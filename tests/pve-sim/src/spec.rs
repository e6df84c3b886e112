//! Laying a node out: [`NodeSpec`], [`Node::create`], and what only a test or the demo does to a node: reboot it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::body::hollow::kernel;
use crate::clock::{Clock, SystemClock, now_s};
use crate::cluster::Cluster;
use crate::layout::{BodyKind, Layout, NodeInfo, write_atomically};
use crate::node::Node;
use crate::storage::random_uuid;
use crate::tools::{DECOMPRESSORS, TOOLS};
use crate::{pmxcfs, pveam};

/// The template that every new node has, and the one that `pveam download` can fetch besides.
pub const TEMPLATES: [&str; 2] = [
    "debian-12-standard_12.7-1_amd64.tar.zst",
    "debian-13-standard_13.1-2_amd64.tar.zst",
];

/// What a new node is to be. [`NodeSpec::new`] fills in everything but name and address.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Node name.
    pub name: String,
    /// What runs the containers.
    pub body: BodyKind,
    /// Address of the published ports; for hollow nodes one of `127.0.0.0/8` of its own.
    pub address: Ipv4Addr,
    /// Addresses for containers with `ip=dhcp` (hollow).
    pub dhcp_range: (Ipv4Addr, Ipv4Addr),
    /// Memory.
    pub memory_mb: u64,
    /// CPU threads.
    pub cpus: u32,
    /// Size of each storage.
    pub disk_gb: u64,
    /// Bridges that exist.
    pub bridges: Vec<String>,
    /// The pve-sim executable; `<root>/usr/bin/pct` and its like are links to it. `None`: no links (in-process only).
    pub executable: Option<PathBuf>,
    /// Templates on the storage `local`: a file to copy, or `None` for a small placeholder; with the name.
    pub templates: Vec<(String, Option<PathBuf>)>,
    /// Folder that `pveam download` copies from. `None`: the node makes one with placeholders of [`TEMPLATES`].
    pub template_pool: Option<PathBuf>,
    /// The index for `pveam available` is there. Without it the tools say that they cannot open it.
    pub index: bool,
    /// Ports that every installed hollow container answers on, beside those of its recipe and the published ones.
    pub default_ports: Vec<u16>,
    /// Settings for the lxc body.
    pub lab: serde_json::Value,
    /// The cluster that it joins; hollow nodes only. `None`: a standalone machine.
    pub cluster: Option<Cluster>,
}

impl NodeSpec {
    /// A hollow node with 16 GiB, 8 CPUs, `vmbr0`, one template. Of the address `127.<b>.…` the second number also
    /// names the containers' network: by DHCP they get `10.<b>.1.1` to `10.<b>.1.250`. Nothing answers there but through
    /// published ports; with a loopback range the containers answer on their own addresses as well.
    pub fn new(name: &str, address: Ipv4Addr) -> Self {
        let [_, b, _, _] = address.octets();
        Self {
            name: name.to_owned(),
            body: BodyKind::Hollow,
            address,
            dhcp_range: (Ipv4Addr::new(10, b, 1, 1), Ipv4Addr::new(10, b, 1, 250)),
            memory_mb: 16 * 1024,
            cpus: 8,
            disk_gb: 256,
            bridges: vec!["vmbr0".to_owned()],
            executable: None,
            templates: vec![(TEMPLATES[0].to_owned(), None)],
            template_pool: None,
            index: true,
            default_ports: Vec::new(),
            lab: serde_json::Value::Null,
            cluster: None,
        }
    }

    /// With links to this executable.
    #[must_use]
    pub fn executable(mut self, path: &Path) -> Self {
        self.executable = Some(path.to_owned());
        self
    }
}

impl Node {
    /// Lays a new node out under `root`, which must not hold one yet, and opens it.
    ///
    /// # Errors
    /// When something cannot be written, or `root` has a `node.json`.
    pub fn create(root: &Path, spec: &NodeSpec) -> io::Result<Self> {
        Self::create_with_clock(root, spec, Arc::new(SystemClock))
    }

    /// As [`Node::create`], with another clock.
    ///
    /// # Errors
    /// As there.
    pub fn create_with_clock(root: &Path, spec: &NodeSpec, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if root.join("node.json").exists() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} holds a node already", root.display()),
            ));
        }
        fs::create_dir_all(root)?;
        if spec.cluster.is_some() && spec.body != BodyKind::Hollow {
            return Err(io::Error::other("only hollow nodes can be in a cluster"));
        }
        let root = root.canonicalize()?;
        let pool = match &spec.template_pool {
            Some(pool) => pool.clone(),
            None => root.join("template-pool"),
        };
        let info = NodeInfo {
            name: spec.name.clone(),
            body: spec.body,
            boot_id: random_uuid(),
            booted_s: now_s(clock.as_ref()),
            address: spec.address,
            dhcp_range: spec.dhcp_range,
            memory_mb: spec.memory_mb,
            cpus: spec.cpus,
            disk_gb: spec.disk_gb,
            bridges: spec.bridges.clone(),
            pve_version: "8.4.21".to_owned(),
            template_pool: Some(pool.clone()),
            default_ports: spec.default_ports.clone(),
            lab: spec.lab.clone(),
            cluster: spec.cluster.as_ref().map(|cluster| cluster.folder().to_owned()),
        };
        let layout = Layout::new(root.clone(), info.clone());
        folders(&layout)?;
        match &spec.cluster {
            Some(cluster) => join(&layout, cluster)?,
            None => pve_files(&layout)?,
        }
        templates(&layout, spec, &pool)?;
        links(&layout, spec)?;
        system_files(&layout, clock.as_ref())?;
        write_atomically(&root.join("node.json"), serde_json::to_string_pretty(&info)?.as_bytes())?;
        Ok(Node::open(&root)?.with_clock(clock))
    }

    /// A reboot of the node: everything that ran is gone, so are `/run`, the nftables ruleset and a fault's counters; a new
    /// boot id. With `start_onboot` the containers with `onboot: 1` are started, as the real node does: if the cluster has quorum, and without those that HA
    /// manages (`PVE::API2::Nodes::startall`). One that cannot be started (it is locked, or half destroyed) stays down, and the others are started.
    ///
    /// # Errors
    /// When the files cannot be changed.
    pub fn reboot(self, start_onboot: bool) -> io::Result<Self> {
        let clock = self.clock.clone();
        let running = pmxcfs::own_containers(&self.layout)?;
        for vmid in running.into_iter().filter(|vmid| self.is_running(*vmid)) {
            let code = self.run(
                "pct",
                &[
                    "stop".to_owned(),
                    vmid.to_string(),
                    "--skiplock".to_owned(),
                    "1".to_owned(),
                ],
                &mut io::sink(),
                &mut io::sink(),
            );
            if code != 0 {
                return Err(io::Error::other(format!("container {vmid} could not be stopped")));
            }
        }
        let mut info = self.layout.info().clone();
        info.boot_id = random_uuid();
        info.booted_s = now_s(clock.as_ref());
        let root = self.layout.root().to_owned();
        fs::remove_dir_all(root.join("run"))?;
        let layout = Layout::new(root.clone(), info.clone());
        folders(&layout)?;
        system_files(&layout, clock.as_ref())?;
        write_atomically(&root.join("node.json"), serde_json::to_string_pretty(&info)?.as_bytes())?;
        let node = Node::open(&root)?.with_clock(clock);
        crate::serve::nudge(&node.layout, node.clock.as_ref())?;
        if start_onboot && pmxcfs::is_quorate(&node.layout)? {
            for vmid in pmxcfs::own_containers(&node.layout)? {
                if crate::ha::is_managed(&node.layout, vmid).map_err(|stop| io::Error::other(stop.text()))? {
                    continue;
                }
                let onboot = fs::read_to_string(node.layout.conf_path(vmid))
                    .is_ok_and(|text| text.lines().any(|line| line == "onboot: 1"));
                if onboot {
                    // How it ended stands in the task log, and nowhere else.
                    let words = ["start".to_owned(), vmid.to_string()];
                    node.run("pct", &words, &mut io::sink(), &mut io::sink());
                }
            }
        }
        Ok(node)
    }
}

fn folders(layout: &Layout) -> io::Result<()> {
    for folder in [
        "var/lib/vz/template/cache",
        "var/lib/vz/template/iso",
        "var/lib/vz/images",
        "var/lib/vz/dump",
        "mnt/btr/images",
        "mnt/btr/dump",
        "var/lib/lxc",
        "var/log/pve/tasks",
        "run/lock/lxc",
        "run/nft",
        "usr/bin",
        "usr/sbin",
        "proc/net",
        "sys/fs/cgroup/lxc",
        "sys/class/net",
    ] {
        fs::create_dir_all(layout.root().join(folder))?;
    }
    link("../run", &layout.root().join("var/run"))
}

fn link(target: &str, path: &Path) -> io::Result<()> {
    match symlink(target, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// `/etc/pve` of a standalone machine.
fn pve_files(layout: &Layout) -> io::Result<()> {
    let (pve, name) = (layout.pve(), &layout.info().name);
    for folder in ["lxc", "qemu-server"] {
        fs::create_dir_all(pve.join("nodes").join(name).join(folder))?;
    }
    link(&format!("nodes/{name}/lxc"), &pve.join("lxc"))?;
    link(&format!("nodes/{name}"), &pve.join("local"))?;
    shared_files(&pve, &[])?;
    let members = format!("{{\n\"nodename\": \"{name}\",\n\"version\": 0\n}}\n");
    write_atomically(&pve.join(".members"), members.as_bytes())?;
    pmxcfs::refresh(layout, None)
}

/// What every node of a host sees alike. `shared`: storages that all of them have.
pub(crate) fn shared_files(pve: &Path, shared: &[&str]) -> io::Result<()> {
    for folder in ["nodes", "priv"] {
        fs::create_dir_all(pve.join(folder))?;
    }
    fs::set_permissions(pve.join("priv"), fs::Permissions::from_mode(0o700))?;
    let mut storages = "dir: local\n\tpath /var/lib/vz\n\tcontent snippets,backup,rootdir,vztmpl,iso,images\n\nbtrfs: btr\n\tpath /mnt/btr\n\tcontent images,backup,rootdir\n".to_owned();
    for storage in shared {
        storages.push_str(&format!(
            "\nnfs: {storage}\n\texport /export/{storage}\n\tpath /mnt/pve/{storage}\n\tserver 192.0.2.9\n\tcontent rootdir,vztmpl,backup,images\n"
        ));
    }
    write_atomically(&pve.join("storage.cfg"), storages.as_bytes())?;
    write_atomically(&pve.join("datacenter.cfg"), b"keyboard: en-us\n")?;
    write_atomically(&pve.join("pve-root-ca.pem"), root_certificate()?.as_bytes())?;
    pmxcfs::list_guests(pve, None).map(drop)
}

/// `/etc/pve` of a cluster's node, and its shared storages.
fn join(layout: &Layout, cluster: &Cluster) -> io::Result<()> {
    let info = layout.info();
    cluster.join(&info.name, info.address, layout.root())?;
    let mounts = layout.root().join("mnt/pve");
    fs::create_dir_all(&mounts)?;
    let shared = cluster.folder().join("shared");
    if shared.is_dir() {
        for storage in fs::read_dir(shared)? {
            let storage = storage?;
            symlink(storage.path(), mounts.join(storage.file_name()))?;
        }
    }
    pmxcfs::refresh(layout, None)
}

/// A root certificate of the host's own; its key is what tells hosts apart.
fn root_certificate() -> io::Result<String> {
    let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Proxmox Virtual Environment");
    parameters
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "PVE Cluster Manager CA");
    Ok(parameters.self_signed(&key).map_err(io::Error::other)?.pem())
}

fn templates(layout: &Layout, spec: &NodeSpec, pool: &Path) -> io::Result<()> {
    let cache = layout.root().join("var/lib/vz/template/cache");
    for (name, source) in &spec.templates {
        match source {
            Some(source) => {
                if fs::hard_link(source, cache.join(name)).is_err() {
                    fs::copy(source, cache.join(name))?;
                }
            }
            None => fs::write(cache.join(name), pveam::placeholder(name))?,
        }
    }
    if spec.template_pool.is_none() {
        fs::create_dir_all(pool)?;
        for name in TEMPLATES {
            fs::write(pool.join(name), pveam::placeholder(name))?;
        }
    }
    if spec.index {
        pveam::write_index(layout, pool)
    } else {
        Ok(())
    }
}

fn links(layout: &Layout, spec: &NodeSpec) -> io::Result<()> {
    let Some(executable) = &spec.executable else {
        return Ok(());
    };
    let executable = executable.canonicalize()?;
    // Nodes with real containers have the kernel's own nftables, and the machine's own programs.
    let hollow = spec.body == BodyKind::Hollow;
    let tools = TOOLS.iter().filter(|tool| hollow || **tool != "nft");
    for tool in tools.chain(DECOMPRESSORS.iter().filter(|_| hollow)) {
        for folder in ["usr/bin", "usr/sbin"] {
            symlink(&executable, layout.root().join(folder).join(tool))?;
        }
    }
    Ok(())
}

/// `/proc` and `/sys` of the node itself.
fn system_files(layout: &Layout, clock: &dyn Clock) -> io::Result<()> {
    let info = layout.info();
    let proc = layout.proc();
    write_atomically(
        &proc.join("sys/kernel/random/boot_id"),
        format!("{}\n", info.boot_id).as_bytes(),
    )?;
    write_atomically(&proc.join("sys/net/ipv4/ip_forward"), b"1\n")?;
    write_atomically(&proc.join("loadavg"), b"0.10 0.08 0.05 1/200 4200\n")?;
    let cpus: String = (0..info.cpus)
        .map(|cpu| {
            format!(
                "processor\t: {cpu}\nvendor_id\t: AuthenticAMD\nmodel name\t: Simulated CPU\ncpu MHz\t\t: 2400.000\n\n"
            )
        })
        .collect();
    write_atomically(&proc.join("cpuinfo"), cpus.as_bytes())?;
    write_atomically(
        &proc.join("version"),
        b"Linux version 6.8.12-9-pve (simulated by pve-sim)\n",
    )?;
    for (name, text) in [
        ("cgroup.controllers", "cpuset cpu io memory pids\n"),
        ("lxc/cgroup.controllers", "cpuset cpu io memory pids\n"),
    ] {
        write_atomically(&layout.cgroup().join(name), text.as_bytes())?;
    }
    for (number, bridge) in info.bridges.iter().enumerate() {
        let folder = layout.root().join("sys/class/net").join(bridge);
        fs::create_dir_all(folder.join("bridge"))?;
        write_atomically(&folder.join("operstate"), b"up\n")?;
        write_atomically(
            &folder.join("address"),
            format!("02:00:00:00:00:{number:02x}\n").as_bytes(),
        )?;
        write_atomically(&folder.join("statistics/rx_bytes"), b"1000000\n")?;
        write_atomically(&folder.join("statistics/tx_bytes"), b"1000000\n")?;
    }
    tick(layout, clock)?;
    kernel::show_running(layout).map_err(io::Error::other)
}

/// The node's figures at this moment; `pve-sim serve` writes them every second.
pub(crate) fn tick(layout: &Layout, clock: &dyn Clock) -> io::Result<()> {
    let info = layout.info();
    let uptime_s = now_s(clock).saturating_sub(info.booted_s) + 60;
    let running = kernel::running(layout);
    let total_kib = info.memory_mb * 1024;
    let used_kib = total_kib / 16 + running.len() as u64 * 48 * 1024;
    let free_kib = total_kib.saturating_sub(used_kib);
    let text = format!(
        "MemTotal:       {total_kib} kB\nMemFree:        {} kB\nMemAvailable:   {free_kib} kB\nBuffers:        1024 kB\nCached:         {} kB\nSwapCached:            0 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n",
        free_kib / 2,
        free_kib / 2
    );
    let proc = layout.proc();
    write_atomically(&proc.join("meminfo"), text.as_bytes())?;
    let busy = uptime_s * (2 + running.len() as u64);
    let idle = uptime_s * 100 * u64::from(info.cpus);
    let mut stat = format!("cpu  {busy} 0 {busy} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..u64::from(info.cpus) {
        let share = u64::from(info.cpus).max(1);
        stat.push_str(&format!(
            "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0\n",
            busy / share,
            busy / share,
            idle / share
        ));
    }
    stat.push_str(&format!(
        "btime {}\nprocesses 1000\nprocs_running 1\nprocs_blocked 0\n",
        info.booted_s
    ));
    write_atomically(&proc.join("stat"), stat.as_bytes())?;
    write_atomically(
        &proc.join("uptime"),
        format!("{uptime_s}.00 {}.00\n", uptime_s * u64::from(info.cpus)).as_bytes(),
    )?;
    for vmid in running {
        if let Some((_, started_s)) = kernel::init_of(layout, vmid) {
            let cgroup = layout.cgroup().join(format!("lxc/{vmid}"));
            if cgroup.is_dir() {
                kernel::write_usage(&cgroup, now_s(clock).saturating_sub(started_s)).map_err(io::Error::other)?;
            }
        }
    }
    Ok(())
}

/// What only a test, or the demo, does to a node.
impl Node {
    /// A guest of somebody else appears in the cluster, `kind` `lxc` or `qemu`, on this node or one of another name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_stranger(&self, node_name: &str, kind: &str, vmid: u32) -> io::Result<()> {
        let (folder, key) = if kind == "qemu" {
            ("qemu-server", "name")
        } else {
            ("lxc", "hostname")
        };
        let path = self
            .layout
            .pve_files()
            .join(format!("nodes/{node_name}/{folder}/{vmid}.conf"));
        write_atomically(&path, format!("{key}: stranger{vmid}\nmemory: 512\n").as_bytes())?;
        pmxcfs::refresh(&self.layout, Some(vmid))
    }

    /// Name, root and address in one line of JSON, for the demo's own record.
    pub fn describe(&self) -> String {
        let info = self.layout.info();
        json!({"name": info.name, "root": self.layout.root(), "address": info.address, "body": info.body}).to_string()
    }
}
