//! `pve-sim serve`: one long-lived process per hollow node that answers on the ports of its containers.
//!
//! It holds `<root>/serve/lock`, looks at `<root>/serve/wanted` every 20 ms (a counter that the tools raise when something
//! changed) and, after it has opened and closed ports, writes the same number to `<root>/serve/done`; a tool that changed
//! something waits for that, at most 2 s, so that a port answers when `nft` or `pct start` has ended. What is open lies in
//! `<root>/serve/state.json`. Every second it also moves the figures in `/proc` and the cgroup tree.
//!
//! Open are: on a container's own address the port of its recipe (`…/files/var/lib/proximity/recipe/port`), those of its file `listens`, the
//! `default_ports` of the node, and the targets of DNAT rules; on the node's address the published ports. Only running
//! containers with an installed app answer. The same process runs HA's daemons, if the node is in a cluster.

mod stub;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::body::hollow::kernel;
use crate::clock::{Clock, SystemClock};
use crate::cluster::Cluster;
use crate::conf::CtConfig;
use crate::layout::{BodyKind, Layout, write_atomically};
use crate::locks::try_lock;
use crate::nft::{Ruleset, published};
use stub::{Listener, Stub};

/// How often it looks whether something changed.
const POLL: Duration = Duration::from_millis(20);
/// How long a tool waits for it at most.
const PATIENCE_MS: u64 = 2000;

fn file(layout: &Layout, name: &str) -> PathBuf {
    layout.root().join("serve").join(name)
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Tells a running `serve` of this node, and of the others in its cluster, that something changed, and waits until the own one has acted; nobody there is
/// fine.
pub(crate) fn nudge(layout: &Layout, clock: &dyn Clock) -> io::Result<()> {
    if layout.info().body != BodyKind::Hollow {
        return Ok(());
    }
    for other in peers(layout)? {
        want(&other)?;
    }
    let wanted = want(layout)?;
    let until = clock.now_ms() + PATIENCE_MS;
    while clock.now_ms() < until && number(&file(layout, "done")) < wanted {
        if try_lock(&file(layout, "lock"))?.is_some() {
            return Ok(());
        }
        clock.sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn want(layout: &Layout) -> io::Result<u64> {
    let _held = loop {
        if let Some(held) = try_lock(&file(layout, "wanted.lock"))? {
            break held;
        }
        std::thread::yield_now();
    };
    let wanted = number(&file(layout, "wanted")) + 1;
    write_atomically(&file(layout, "wanted"), format!("{wanted}\n").as_bytes())?;
    Ok(wanted)
}

/// The other nodes of the cluster that have power.
fn peers(layout: &Layout) -> io::Result<Vec<Layout>> {
    let Some(cluster) = Cluster::of(layout) else {
        return Ok(Vec::new());
    };
    let info = cluster.info()?;
    let others = info
        .members
        .iter()
        .filter(|member| member.powered && member.name != layout.info().name && member.root.join("node.json").exists());
    others.map(|member| Layout::open(&member.root)).collect()
}

/// Answers on the ports of the hollow node under `root` until the process is ended.
///
/// # Errors
/// When the node cannot be read, is not hollow, or another process serves it already.
pub fn serve(root: &Path) -> io::Result<()> {
    let layout = Layout::open(root)?;
    if layout.info().body != BodyKind::Hollow {
        return Err(io::Error::other(
            "only hollow nodes are served; containers of the lxc body answer for themselves",
        ));
    }
    let _lock = own(&layout)?;
    crate::ha::run_in_serve(root.to_owned())?;
    let mut open: BTreeMap<SocketAddrV4, Listener> = BTreeMap::new();
    let mut seen = None;
    let mut ticked: Option<Instant> = None;
    loop {
        let wanted = number(&file(&layout, "wanted"));
        if seen != Some(wanted) {
            let refused = reconcile(&mut open, stubs(&layout)?);
            write_state(&layout, &open, &refused)?;
            write_atomically(&file(&layout, "done"), format!("{wanted}\n").as_bytes())?;
            seen = Some(wanted);
        }
        if ticked.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            // A node that is being removed under us is no reason to fail.
            if let Err(error) = Layout::open(root).and_then(|layout| crate::spec::tick(&layout, &SystemClock)) {
                eprintln!("pve-sim serve: figures of {}: {error}", root.display());
            }
            ticked = Some(Instant::now());
        }
        std::thread::sleep(POLL);
    }
}

/// Whether somebody answers at an address and port of the hollow node: what [`serve`] would have open there. For the in-process door, where nobody serves.
///
/// # Errors
/// When the node's files cannot be read.
pub fn answers(layout: &Layout, at: SocketAddrV4) -> io::Result<bool> {
    Ok(stubs(layout)?.contains_key(&at))
}

/// A tool that looks whether somebody serves holds the lock for a moment, so one refusal says nothing.
fn own(layout: &Layout) -> io::Result<fs::File> {
    let begin = Instant::now();
    loop {
        if let Some(lock) = try_lock(&file(layout, "lock"))? {
            return Ok(lock);
        }
        if begin.elapsed() > Duration::from_secs(2) {
            return Err(io::Error::other(format!(
                "{} is served by another process already",
                layout.root().display()
            )));
        }
        std::thread::sleep(POLL);
    }
}

/// What should answer where. Published ports lead to containers of the node, or of another one of the cluster: one bridge spans them, and a rule that
/// nobody took back leads on to a container that has moved. Directly a container answers through its own node.
fn stubs(layout: &Layout) -> io::Result<BTreeMap<SocketAddrV4, Stub>> {
    let published = published(&Ruleset::read(&layout.nft_ruleset())?);
    let mut stubs = BTreeMap::new();
    for owner in std::iter::once(layout.clone()).chain(peers(layout)?) {
        let is_own = owner.info().name == layout.info().name;
        for vmid in kernel::running(&owner) {
            let listens = kernel::listens(&owner, vmid);
            if listens.is_empty() && !owner.guest_dir(vmid).join("installed").exists() {
                continue;
            }
            let Some(address) = kernel::address(&owner, vmid) else {
                continue;
            };
            let config = CtConfig::parse(&fs::read_to_string(owner.conf_path(vmid)).unwrap_or_default());
            let hostname = config.current.get("hostname").unwrap_or("CT").to_owned();
            let stub = |port| Stub {
                vmid,
                hostname: hostname.clone(),
                port,
            };
            let mut ports: BTreeSet<u16> = owner.info().default_ports.iter().copied().collect();
            ports.extend(listens);
            for (public, target) in published.iter().filter(|(_, target)| target.address == address) {
                ports.insert(target.port);
                stubs.insert(SocketAddrV4::new(layout.info().address, *public), stub(target.port));
            }
            if is_own && is_loopback(address) && address != layout.info().address {
                stubs.extend(
                    ports
                        .into_iter()
                        .map(|port| (SocketAddrV4::new(address, port), stub(port))),
                );
            }
        }
    }
    Ok(stubs)
}

/// Only those can be bound without root; a container with another address answers through published ports alone.
fn is_loopback(address: Ipv4Addr) -> bool {
    address.is_loopback()
}

/// Opens and closes; answers what could not be opened, with the reason.
fn reconcile(
    open: &mut BTreeMap<SocketAddrV4, Listener>,
    wanted: BTreeMap<SocketAddrV4, Stub>,
) -> Vec<(SocketAddrV4, String)> {
    open.retain(|address, listener| wanted.get(address) == Some(&listener.stub));
    let mut refused = Vec::new();
    for (address, stub) in wanted {
        if let std::collections::btree_map::Entry::Vacant(place) = open.entry(address) {
            match Listener::open(address, stub) {
                Ok(listener) => drop(place.insert(listener)),
                Err(error) => refused.push((address, error.to_string())),
            }
        }
    }
    refused
}

fn write_state(
    layout: &Layout,
    open: &BTreeMap<SocketAddrV4, Listener>,
    refused: &[(SocketAddrV4, String)],
) -> io::Result<()> {
    let state = json!({
        "pid": std::process::id(),
        "open": open.iter().map(|(address, listener)| json!({"address": address.to_string(), "vmid": listener.stub.vmid,
            "port": listener.stub.port})).collect::<Vec<_>>(),
        "refused": refused.iter().map(|(address, reason)| json!({"address": address.to_string(), "reason": reason})).collect::<Vec<_>>(),
    });
    write_atomically(&file(layout, "state.json"), format!("{state:#}\n").as_bytes())
}
