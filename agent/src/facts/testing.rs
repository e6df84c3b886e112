//! A node of plain files for this crate's own tests.

use crate::{config::Config, host::NodeContext};
use std::{fs, path::Path};

/// The configuration of a machine below `root`.
pub(crate) fn config(root: &Path) -> Config {
    let mut config = Config::default();
    config.paths.state = root.join("var/lib/proximity-agent");
    config.paths.policy = root.join("etc/proximity/policy.toml");
    config.host.pve_tools = root.join("usr/bin");
    config.host.nft = root.join("usr/bin/nft");
    config.host.etc_pve = root.join("etc/pve");
    config.host.proc = root.join("proc");
    config.host.cgroup = root.join("sys/fs/cgroup");
    config.host.task_log = root.join("var/log/pve");
    config.host.run = root.join("run");
    config.host.sys_class_net = root.join("sys/class/net");
    config.host.runner = crate::config::Runner::Fork;
    config.node.address = Some([127, 0, 0, 1].into());
    config
}

/// Writes a file below `root`, with its folders.
pub(crate) fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a relative path with a folder")).expect("a writable folder");
    fs::write(path, text).expect("a writable file");
}

/// A standalone node `pve1` without guests.
pub(crate) fn node(root: &Path) -> NodeContext {
    put(
        root,
        "etc/pve/.members",
        "{\n\"nodename\": \"pve1\",\n\"version\": 0\n}\n",
    );
    put(root, "etc/pve/.vmlist", "{\n\"version\": 1,\n\"ids\": {\n}\n\n}\n");
    put(
        root,
        "etc/pve/storage.cfg",
        "dir: local\n\tpath /var/lib/vz\n\tcontent rootdir,vztmpl\n",
    );
    fs::create_dir_all(root.join("etc/pve/nodes/pve1/lxc")).expect("a writable folder");
    fs::create_dir_all(root.join("etc/pve/priv")).expect("a writable folder");
    fs::create_dir_all(root.join("sys/class/net/vmbr0/bridge")).expect("a writable folder");
    node_as_it_is(root)
}

/// The node whose files are below `root` already.
pub(crate) fn node_as_it_is(root: &Path) -> NodeContext {
    NodeContext::open(&config(root), None).expect("a node of files")
}
