//! What the kernel would show of hollow containers, as files that a reader of `/proc` and `/sys` finds:
//!
//! - `<root>/proc/net/unix`: a line `@/var/lib/lxc/<id>/command` for each that runs
//! - `<root>/proc/net/dev` and `<root>/sys/class/net/veth<id>i<n>/`: its interfaces on the node
//! - `<root>/proc/<pid>/{net/fib_trie,net/route,net/dev,net/tcp,cgroup,stat,status,comm}`: its init, with its addresses and the ports on which it listens
//! - `<root>/sys/fs/cgroup/lxc/<id>/{cgroup.procs,ns/cgroup.procs,memory.current,memory.stat,memory.max,cpu.stat,io.stat,…}` (v2)

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::hostname;
use crate::body::{BodyError, Ct, Figures, io_at};
use crate::clock::now_s;
use crate::layout::{Layout, write_atomically};
use crate::locks::try_lock;

/// Memory that an idle container uses.
const IDLE_MEMORY: u64 = 41 << 20;
/// Page cache on top, which does not count as used.
const IDLE_CACHE: u64 = 27 << 20;
/// Process ids of hollow containers start here, above those of most real processes.
const FIRST_PID: u32 = 4_200_000;

/// Runs `act` while no other process changes what the kernel shows.
fn locked<T>(layout: &Layout, act: impl FnOnce() -> Result<T, BodyError>) -> Result<T, BodyError> {
    let path = layout.root().join("run/hollow.lock");
    // Held only for the moment of a rewrite.
    let _held = loop {
        match try_lock(&path) {
            Ok(Some(file)) => break file,
            Ok(None) => std::thread::yield_now(),
            Err(error) => return Err(io_at(&path)(error)),
        }
    };
    act()
}

fn put(path: &Path, text: impl AsRef<[u8]>) -> Result<(), BodyError> {
    write_atomically(path, text.as_ref()).map_err(io_at(path))
}

pub(crate) fn start(ct: &Ct<'_>) -> Result<u32, BodyError> {
    locked(ct.layout, || {
        let folder = ct.layout.lxc_dir(ct.vmid);
        for folder in [&folder, &ct.layout.guest_dir(ct.vmid)] {
            fs::create_dir_all(folder).map_err(io_at(folder))?;
        }
        let pid = next_pid(ct.layout)?;
        let address = address_of(ct)?;
        let process = ct.layout.proc().join(pid.to_string());
        put(&process.join("net/fib_trie"), fib_trie(address))?;
        put(&process.join("net/route"), routes(ct, address))?;
        put(
            &process.join("net/dev"),
            net_dev([("lo".to_owned(), 0, 0), ("eth0".to_owned(), 2274, 866)]),
        )?;
        put(&process.join("net/tcp"), net_tcp(&listens(ct.layout, ct.vmid)))?;
        put(&process.join("stat"), stat(ct.layout, pid))?;
        put(&process.join("cgroup"), format!("0::/lxc/{}/ns/init.scope\n", ct.vmid))?;
        put(&process.join("comm"), "systemd\n")?;
        put(
            &process.join("status"),
            format!("Name:\tsystemd\nState:\tS (sleeping)\nPid:\t{pid}\nNSpid:\t{pid}\t1\n"),
        )?;
        let cgroup = ct.layout.cgroup().join(format!("lxc/{}", ct.vmid));
        put(&cgroup.join("cgroup.procs"), "")?;
        put(&cgroup.join("ns/cgroup.procs"), "")?;
        put(&cgroup.join("ns/init.scope/cgroup.procs"), format!("{pid}\n"))?;
        write_limits(ct)?;
        write_usage(&cgroup, 0)?;
        for (number, _) in ct.conf.networks() {
            let device = ct.layout.root().join(format!("sys/class/net/veth{}i{number}", ct.vmid));
            put(&device.join("operstate"), "up\n")?;
            put(&device.join("statistics/rx_bytes"), "866\n")?;
            put(&device.join("statistics/tx_bytes"), "2274\n")?;
        }
        let etc = super::files(ct.layout, ct.vmid).join("etc");
        put(&etc.join("hostname"), format!("{}\n", hostname(ct)))?;
        put(&folder.join("init.pid"), format!("{pid} {}\n", now_s(ct.clock)))?;
        show_running(ct.layout)?;
        Ok(pid)
    })
}

/// The app in it has come or gone: what listens is shown anew.
pub(crate) fn show_listening(layout: &Layout, vmid: u32) -> Result<(), BodyError> {
    locked(layout, || {
        let Some((pid, _)) = init_of(layout, vmid) else {
            return Ok(());
        };
        let path = layout.proc().join(format!("{pid}/net/tcp"));
        put(&path, net_tcp(&listens(layout, vmid)))
    })
}

/// TCP ports on which something listens inside: that of the recipe once it is installed, and those of the file `listens`.
pub(crate) fn listens(layout: &Layout, vmid: u32) -> BTreeSet<u16> {
    let folder = layout.guest_dir(vmid);
    let numbers = |text: String| -> Vec<u16> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    let mut ports: BTreeSet<u16> = fs::read_to_string(folder.join("listens"))
        .map(numbers)
        .unwrap_or_default()
        .into_iter()
        .collect();
    if folder.join("installed").exists() {
        let port = super::inside(layout, vmid, "/var/lib/proximity/recipe/port");
        ports.extend(fs::read_to_string(port).map(numbers).unwrap_or_default());
    }
    ports
}

/// Sockets that listen on every address (`0A`, TCP_LISTEN).
fn net_tcp(ports: &BTreeSet<u16>) -> String {
    let mut text =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n".to_owned();
    for (slot, port) in ports.iter().enumerate() {
        let _ = writeln!(
            text,
            "{slot:4}: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {} 1 0000000000000000 100 0 0 10 0",
            50_000 + slot
        );
    }
    text
}

/// Of a process that has just begun: field 22 is its start in hundredths of a second since boot (proc_pid_stat(5)).
fn stat(layout: &Layout, pid: u32) -> String {
    let uptime = fs::read_to_string(layout.proc().join("uptime")).unwrap_or_default();
    let uptime_s: f64 = uptime
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    let started = uptime_s * 100.0;
    format!("{pid} (systemd) S 1 {pid} {pid} 0 -1 4194560 1 1 0 0 1 1 0 0 20 0 1 0 {started:.0} 1 1 0\n")
}

/// Stopped, or was not running: both fine.
pub(crate) fn stop(layout: &Layout, vmid: u32) -> Result<(), BodyError> {
    locked(layout, || {
        let mark = layout.lxc_dir(vmid).join("init.pid");
        let pid = init_of(layout, vmid).map(|(pid, _)| pid);
        remove(&mark)?;
        show_running(layout)?;
        if let Some(pid) = pid {
            remove(&layout.proc().join(pid.to_string()))?;
        }
        remove(&layout.cgroup().join(format!("lxc/{vmid}")))?;
        for number in 0..32 {
            remove(&layout.root().join(format!("sys/class/net/veth{vmid}i{number}")))?;
        }
        Ok(())
    })
}

fn remove(path: &Path) -> Result<(), BodyError> {
    let result = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_at(path)(error)),
        _ => Ok(()),
    }
}

/// Process id of its init, and when it started.
pub(crate) fn init_of(layout: &Layout, vmid: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(layout.lxc_dir(vmid).join("init.pid")).ok()?;
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Containers that run, by number.
pub(crate) fn running(layout: &Layout) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(layout.root().join("var/lib/lxc")) else {
        return Vec::new();
    };
    let mut vmids: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_string_lossy().parse().ok())
        .filter(|vmid| init_of(layout, *vmid).is_some())
        .collect();
    vmids.sort_unstable();
    vmids
}

/// Rewrites `/proc/net/unix` and `/proc/net/dev`.
pub(crate) fn show_running(layout: &Layout) -> Result<(), BodyError> {
    let mut unix = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_owned();
    let mut devices: Vec<(String, u64, u64)> =
        vec![("lo".to_owned(), 0, 0), ("vmbr0".to_owned(), 1_000_000, 1_000_000)];
    for vmid in running(layout) {
        let _ = writeln!(
            unix,
            "0000000000000000: 00000002 00000000 00010000 0001 01 {} @/var/lib/lxc/{vmid}/command",
            100_000 + vmid
        );
        devices.push((format!("veth{vmid}i0"), 866, 2274));
    }
    put(&layout.proc().join("net/unix"), unix)?;
    put(&layout.proc().join("net/dev"), net_dev(devices))
}

fn net_dev(devices: impl IntoIterator<Item = (String, u64, u64)>) -> String {
    let mut text = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
        .to_owned();
    for (name, received, sent) in devices {
        let _ = writeln!(
            text,
            "{name:>6}: {received:7} {:7}    0    0    0     0          0         0 {sent:8} {:7}    0    0    0     0       0          0",
            received / 100,
            sent / 100
        );
    }
    text
}

fn next_pid(layout: &Layout) -> Result<u32, BodyError> {
    let path = layout.root().join("run/hollow-next-pid");
    let pid = fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(FIRST_PID);
    put(&path, format!("{}\n", pid + 1))?;
    Ok(pid)
}

/// The address that `net0` says, or for DHCP a free one of the node's range, kept for the container's life.
fn address_of(ct: &Ct<'_>) -> Result<Option<(Ipv4Addr, u8)>, BodyError> {
    let path = ct.layout.guest_dir(ct.vmid).join("address");
    let networks = ct.conf.networks();
    let wanted = networks
        .first()
        .and_then(|(_, net)| net.get("ip"))
        .unwrap_or("manual")
        .to_owned();
    let address = match wanted.as_str() {
        "manual" => None,
        "dhcp" => match read_address(&path) {
            Some(lease) => Some(lease),
            None => Some((lease(ct.layout, &path)?, 24)),
        },
        cidr => parse_cidr(cidr),
    };
    match address {
        Some((ip, prefix)) => put(&path, format!("{ip}/{prefix}\n"))?,
        None => remove(&path)?,
    }
    Ok(address)
}

/// Takes a free address and writes it down, so that no other container, also of another node of the cluster, gets it.
fn lease(layout: &Layout, into: &Path) -> Result<Ipv4Addr, BodyError> {
    let (first, last) = layout.info().dhcp_range;
    let folder = layout.guests();
    let lock = folder.join(".lease.lock");
    let _held = loop {
        match try_lock(&lock) {
            Ok(Some(file)) => break file,
            Ok(None) => std::thread::yield_now(),
            Err(error) => return Err(io_at(&lock)(error)),
        }
    };
    let taken: Vec<Ipv4Addr> = fs::read_dir(&folder)
        .map_err(io_at(&folder))?
        .filter_map(|entry| read_address(&entry.ok()?.path().join("address")))
        .map(|(ip, _)| ip)
        .collect();
    let free = (u32::from(first)..=u32::from(last))
        .map(Ipv4Addr::from)
        .find(|ip| !taken.contains(ip))
        .ok_or_else(|| BodyError::Failed(format!("no free address between {first} and {last}")))?;
    put(into, format!("{free}/24\n"))?;
    Ok(free)
}

fn parse_cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (ip, prefix) = text.trim().split_once('/')?;
    Some((ip.parse().ok()?, prefix.parse().ok()?))
}

fn read_address(path: &Path) -> Option<(Ipv4Addr, u8)> {
    parse_cidr(&fs::read_to_string(path).ok()?)
}

/// The address of a container that has been started once.
pub(crate) fn address(layout: &Layout, vmid: u32) -> Option<Ipv4Addr> {
    read_address(&layout.guest_dir(vmid).join("address")).map(|(ip, _)| ip)
}

/// As the kernel prints it; own addresses are `/32 host LOCAL`.
fn fib_trie(address: Option<(Ipv4Addr, u8)>) -> String {
    let mut table = "  +-- 0.0.0.0/0 3 0 5\n".to_owned();
    if let Some((ip, prefix)) = address {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        let network = Ipv4Addr::from(u32::from(ip) & mask);
        let _ = write!(
            table,
            "     +-- {network}/{prefix} 2 0 2\n        |-- {network}\n           /{prefix} link UNICAST\n        |-- {ip}\n           /32 host LOCAL\n"
        );
    }
    table.push_str("     +-- 127.0.0.0/8 2 0 2\n        |-- 127.0.0.0\n           /8 host LOCAL\n        |-- 127.0.0.1\n           /32 host LOCAL\n");
    format!("Main:\n{table}Local:\n{table}")
}

/// `/proc/net/route`: the own network, and the way out by `gw=` or what DHCP gave. Hexadecimal in the machine's byte order.
fn routes(ct: &Ct<'_>, address: Option<(Ipv4Addr, u8)>) -> String {
    let hex = |ip: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(ip.octets()));
    let mut text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n".to_owned();
    let Some((ip, prefix)) = address else { return text };
    let networks = ct.conf.networks();
    let net = networks.first().map(|(_, net)| net);
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let network = u32::from(ip) & mask;
    let given = net
        .and_then(|net| net.get("gw"))
        .and_then(|gateway| gateway.parse().ok());
    let by_dhcp = net
        .is_some_and(|net| net.get("ip") == Some("dhcp"))
        .then(|| Ipv4Addr::from(network | (!mask & 0xfe)));
    if let Some(gateway) = given.or(by_dhcp) {
        let _ = writeln!(
            text,
            "eth0\t00000000\t{}\t0003\t0\t0\t0\t00000000\t0\t0\t0",
            hex(gateway)
        );
    }
    let (network, mask) = (hex(Ipv4Addr::from(network)), hex(Ipv4Addr::from(mask)));
    let _ = writeln!(text, "eth0\t{network}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0");
    text
}

/// `memory.max` and `cpu.max` from the configuration.
pub(crate) fn write_limits(ct: &Ct<'_>) -> Result<(), BodyError> {
    let cgroup = ct.layout.cgroup().join(format!("lxc/{}", ct.vmid));
    let number = |key: &str| ct.conf.get(key).and_then(|text| text.parse::<u64>().ok());
    put(
        &cgroup.join("memory.max"),
        format!("{}\n", number("memory").unwrap_or(512) << 20),
    )?;
    put(
        &cgroup.join("memory.swap.max"),
        format!("{}\n", number("swap").unwrap_or(512) << 20),
    )?;
    let cpu = number("cores").map_or("max 100000\n".to_owned(), |cores| {
        format!("{} 100000\n", cores * 100_000)
    });
    put(&cgroup.join("cpu.max"), cpu)
}

/// What it has used after `uptime_s` seconds; written anew by `pve-sim serve`, so that figures move.
pub(crate) fn write_usage(cgroup: &Path, uptime_s: u64) -> Result<(), BodyError> {
    let wave = (uptime_s % 60) * (64 << 10);
    let cpu_usec = uptime_s * 12_000;
    put(
        &cgroup.join("memory.current"),
        format!("{}\n", IDLE_MEMORY + IDLE_CACHE + wave),
    )?;
    put(
        &cgroup.join("memory.stat"),
        format!(
            "anon {}\nfile {IDLE_CACHE}\nkernel 4194304\ninactive_file {}\n",
            IDLE_MEMORY + wave,
            IDLE_CACHE / 2
        ),
    )?;
    put(&cgroup.join("memory.swap.current"), "0\n")?;
    put(
        &cgroup.join("cpu.stat"),
        format!(
            "usage_usec {cpu_usec}\nuser_usec {}\nsystem_usec {}\n",
            cpu_usec / 3 * 2,
            cpu_usec / 3
        ),
    )?;
    put(
        &cgroup.join("io.stat"),
        format!(
            "8:0 rbytes={} wbytes={} rios=10 wios=10 dbytes=0 dios=0\n",
            4 << 20,
            uptime_s * 4096
        ),
    )?;
    for name in ["cpu", "memory", "io"] {
        put(
            &cgroup.join(format!("{name}.pressure")),
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        )?;
    }
    Ok(())
}

pub(crate) fn figures(ct: &Ct<'_>) -> Option<Figures> {
    let (init_pid, started_s) = init_of(ct.layout, ct.vmid)?;
    let memory = fs::read_to_string(ct.layout.cgroup().join(format!("lxc/{}/memory.current", ct.vmid))).ok()?;
    Some(Figures {
        init_pid,
        memory_bytes: memory.trim().parse::<u64>().ok()?.saturating_sub(IDLE_CACHE),
        netin_bytes: 2274,
        netout_bytes: 866,
        disk_bytes: 536 << 20,
        uptime_s: now_s(ct.clock).saturating_sub(started_s),
    })
}
