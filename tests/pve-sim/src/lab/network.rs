//! Making the networks of a lab's nodes.

use std::fs;
use std::path::Path;

use super::note::{self, NodeNote, Note};
use super::{LabError, io_at, tool};

/// Remembers what `ip_forward` was before the first lab; the last one puts it back.
pub(super) const FORWARD_WAS: &str = "/run/proximity-lab/ip_forward.was";
pub(super) const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

pub(super) fn make(note: &Note) -> Result<(), LabError> {
    forward()?;
    masquerade(note)?;
    let files = note::files(&note.name);
    for node in &note.nodes {
        wire(note, node)?;
        settle(note, node)?;
        serve_addresses(note, node)?;
        let root = files.join(format!("node{}", node.index));
        fs::create_dir_all(&root).map_err(io_at(&root))?;
    }
    Ok(())
}

fn forward() -> Result<(), LabError> {
    let was = Path::new(FORWARD_WAS);
    let switch = Path::new(FORWARD);
    if !was.exists() {
        let value = fs::read(switch).map_err(io_at(switch))?;
        fs::write(was, value).map_err(io_at(was))?;
    }
    fs::write(switch, "1").map_err(io_at(switch))
}

/// What leaves the machine carries its address; among nodes addresses stay as they are.
fn masquerade(note: &Note) -> Result<(), LabError> {
    let sources: Vec<String> = note.nodes.iter().map(|node| format!("{}/24", node.host(0))).collect();
    if sources.is_empty() {
        return Ok(());
    }
    let text = format!(
        "table ip {} {{\n chain postrouting {{\n  type nat hook postrouting priority srcnat; policy accept;\n  ip saddr {{ {} }} ip daddr != 10.198.0.0/16 masquerade\n }}\n}}\n",
        note::table(&note.name),
        sources.join(", "),
    );
    tool::run_with_input("nft", &["-f", "-"], &text).map(drop)
}

/// The namespace, and a wire from the machine into it.
fn wire(note: &Note, node: &NodeNote) -> Result<(), LabError> {
    let (netns, wire) = (node.netns(&note.name), node.wire());
    tool::run("ip", ["netns", "add", &netns])?;
    tool::run(
        "ip",
        [
            "link", "add", &wire, "type", "veth", "peer", "name", "up0", "netns", &netns,
        ],
    )?;
    tool::run("ip", ["address", "add", &format!("{}/24", node.host(1)), "dev", &wire])?;
    tool::run("ip", ["link", "set", &wire, "up"])?;
    let address = format!("{}/24", node.host(2));
    let gateway = node.host(1).to_string();
    for words in [
        &["ip", "link", "set", "lo", "up"][..],
        &["ip", "link", "add", "vmbr0", "type", "bridge"],
        &["ip", "link", "set", "up0", "master", "vmbr0"],
        &["ip", "address", "add", &address, "dev", "vmbr0"],
        &["ip", "link", "set", "up0", "up"],
        &["ip", "link", "set", "vmbr0", "up"],
        &["ip", "route", "add", "default", "via", &gateway],
    ] {
        tool::run_in(&netns, words)?;
    }
    Ok(())
}

/// sysfs of the namespace, and bridged frames that pass by the IP hooks, as on a Proxmox node whose firewall is off. With
/// them a container could not reach its own published port: a frame is not sent back to the port of a bridge that it came from.
fn settle(note: &Note, node: &NodeNote) -> Result<(), LabError> {
    let netns = node.netns(&note.name);
    let script = "for f in /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables; do [ ! -e $f ] || echo 0 > $f; done";
    tool::run_in(&netns, &["sh", "-c", script])?;
    let sysfs = node.sysfs(&note.name);
    fs::create_dir_all(&sysfs).map_err(io_at(&sysfs))?;
    tool::run_in(
        &netns,
        &["mount", "-t", "sysfs", "-o", "ro", "sysfs", &sysfs.to_string_lossy()],
    )
    .map(drop)
}

/// DHCP and DNS at the gateway's address. It asks the name servers of the machine, so it works where those listen on loopback.
fn serve_addresses(note: &Note, node: &NodeNote) -> Result<(), LabError> {
    let folder = note::folder(&note.name);
    let in_folder = |name: &str| {
        folder
            .join(format!("{name}{}", node.index))
            .to_string_lossy()
            .into_owned()
    };
    tool::run(
        "dnsmasq",
        [
            "--conf-file=/dev/null".to_owned(),
            "--user=root".to_owned(),
            "--bind-interfaces".to_owned(),
            "--except-interface=lo".to_owned(),
            format!("--interface={}", node.wire()),
            format!("--dhcp-range={},{},1h", node.host(100), node.host(250)),
            format!("--dhcp-option=option:router,{}", node.host(1)),
            format!("--dhcp-leasefile={}", in_folder("leases")),
            "--dhcp-authoritative".to_owned(),
            "--no-hosts".to_owned(),
            format!("--pid-file={}", node.dnsmasq_pid(&note.name).to_string_lossy()),
        ],
    )
    .map(drop)
}
