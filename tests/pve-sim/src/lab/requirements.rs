//! What a machine needs for a lab.

use std::path::Path;

use super::tool;

/// What is missing, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Not root.
    #[error("real containers need root: run this as root (sudo)")]
    Root,
    /// Packages.
    #[error("real containers need programs that are not installed: apt-get install -y --no-install-recommends {0}")]
    Packages(String),
    /// The kernel.
    #[error("real containers do not work on this kernel: {0}")]
    Kernel(&'static str),
}

/// Programs and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 15] = [
    ("lxc-start", "lxc"),
    ("lxc-attach", "lxc"),
    ("lxc-stop", "lxc"),
    ("lxc-info", "lxc"),
    ("lxc-freeze", "lxc"),
    ("lxc-usernsexec", "lxc"),
    ("nft", "nftables"),
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    ("dnsmasq", "dnsmasq-base"),
    ("zstd", "zstd"),
    ("tar", "tar"),
    ("mkfs.ext4", "e2fsprogs"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
];

pub(super) fn check() -> Result<(), Missing> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Missing::Root);
    }
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !tool::is_there(program))
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    if !packages.is_empty() {
        return Err(Missing::Packages(packages.join(" ")));
    }
    let hierarchies = super::cgroups::hierarchies().unwrap_or_default();
    if hierarchies.is_empty() {
        return Err(Missing::Kernel(
            "no cgroup file system is mounted below /sys/fs/cgroup; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        ));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err(Missing::Kernel(
            "there is no /dev/loop-control; load the module: modprobe loop",
        ));
    }
    let namespaces = std::fs::read_to_string("/proc/sys/user/max_user_namespaces")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    if namespaces.unwrap_or(0) < 16 {
        return Err(Missing::Kernel(
            "user namespaces are switched off; set sysctl user.max_user_namespaces to 10000",
        ));
    }
    if tool::run("unshare", ["--net", "--mount", "/bin/true"]).is_err() {
        return Err(Missing::Kernel(
            "this process may not make network and mount namespaces; in a container, give it CAP_SYS_ADMIN and CAP_NET_ADMIN",
        ));
    }
    Ok(())
}
