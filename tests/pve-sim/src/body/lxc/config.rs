//! LXC's own configuration of a container, written before each start: `<lxc_dir>/config` and a script per interface.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::guest_files;
use super::limits;
use super::settings::{ID_COUNT, ID_FIRST, Settings};
use super::volumes;
use crate::body::{BodyError, Ct, io_at};
use crate::layout::write_atomically;

/// Writes the configuration of `ct`.
pub(super) fn write(ct: &Ct<'_>, settings: &Settings) -> Result<(), BodyError> {
    let folder = ct.layout.lxc_dir(ct.vmid);
    let mut text = String::from("# Written by pve-sim at each start.\n");
    for file in ["common.conf", "userns.conf"] {
        let _ = writeln!(text, "lxc.include = /usr/share/lxc/config/{file}");
    }
    let features = ct.conf.get("features").unwrap_or_default();
    if features.split(',').any(|feature| feature == "nesting=1") {
        text.push_str("lxc.include = /usr/share/lxc/config/nesting.conf\n");
    }
    for kind in ["u", "g"] {
        let _ = writeln!(text, "lxc.idmap = {kind} 0 {ID_FIRST} {ID_COUNT}");
    }
    let _ = writeln!(text, "lxc.rootfs.path = dir:{}", volumes::tree(ct).display());
    let _ = writeln!(text, "lxc.uts.name = {}", guest_files::hostname(ct));
    text.push_str("lxc.apparmor.profile = unconfined\n");
    let _ = writeln!(text, "lxc.cgroup.dir.container = {}", settings.cgroup(ct.vmid));
    text.push_str("lxc.cgroup.dir.container.inner = ns\n");
    let _ = writeln!(text, "lxc.cgroup.dir.monitor = {}", settings.monitor_cgroup(ct.vmid));
    text.push_str(&limits::lines(ct));
    for (index, (number, net)) in ct.conf.networks().into_iter().enumerate() {
        if net.get("tag").is_some() {
            return Err(BodyError::Failed(format!(
                "pve-sim: not simulated: VLAN tag of net{number}"
            )));
        }
        let script = folder.join(format!("net{number}-up"));
        let bridge = net.get("bridge").unwrap_or("vmbr0");
        if !bridge
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            return Err(BodyError::Failed(format!(
                "net{number}: '{bridge}' is no name of a bridge"
            )));
        }
        write_script(&script, bridge)?;
        let _ = write!(
            text,
            "lxc.net.{index}.type = veth\nlxc.net.{index}.veth.pair = veth{}i{number}\nlxc.net.{index}.name = {}\nlxc.net.{index}.flags = up\nlxc.net.{index}.script.up = {}\n",
            ct.vmid,
            net.get("name").unwrap_or("eth0"),
            script.display(),
        );
        if let Some(mac) = net.get("hwaddr") {
            let _ = writeln!(text, "lxc.net.{index}.hwaddr = {mac}");
        }
    }
    let path = folder.join("config");
    write_atomically(&path, text.as_bytes()).map_err(io_at(&path))
}

/// Puts the container's wire onto the bridge. LXC itself looks for the bridge in `/sys`, which shows another namespace's.
/// Arguments: name, section, "up", type, interface (lxc.container.conf(5)).
fn write_script(path: &Path, bridge: &str) -> Result<(), BodyError> {
    let text = format!("#!/bin/sh\nexec /usr/sbin/ip link set dev \"$5\" master {bridge} up\n");
    write_atomically(path, text.as_bytes()).map_err(io_at(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(io_at(path))
}
