//! Simulated Proxmox VE nodes, alone or in clusters: `pct`, `vzdump`, `pvesh`, `pvesm`, `pveam`, `pveversion`, `ha-manager`, and `nft` for the hollow
//! body. The words, exits and files are those that were recorded from the real tools of the PVE 8.4 line; `tests/replay` replays
//! the recordings. What a cluster adds was not recorded but read from Proxmox's source; [`cluster`] and [`ha`] name the places.
//!
//! # Two doors
//!
//! *Executable.* [`Node::create`] lays a node out under a root directory, with links `<root>/usr/bin/<tool>` and
//! `<root>/usr/sbin/<tool>` to the executable `pve-sim`. A tool finds its node by walking up from the path by which it was
//! called to a `node.json`, so it needs no environment. `pve-sim serve --root <root>` is one long-lived process per hollow
//! node that answers on the ports (see below); `<root>/serve/state.json` appears when it is ready and lists what is open.
//! Also: `pve-sim create --root <root> --name <name> --address <loopback ip>`, `pve-sim run --root <root> <tool> …`.
//!
//! *In-process.* `Node::open(root)?.run("pct", &argv, &mut out, &mut err)` answers the exit code; [`Node::with_clock`] takes
//! a [`Clock`], so that waiting for a lock takes no time, [`Node::with_faults`] somebody who is asked at every point what goes wrong there, and [`answers`]
//! tells what `serve` would answer. A fault that kills the executable answers [`EXIT_KILLED`] here.
//!
//! [`Node::reboot`] is a reboot: new boot id, nothing runs, `/run` and the nftables ruleset are gone, `onboot: 1` containers
//! start. [`Node::add_stranger`] lets a guest of somebody else appear, on this node or another one of the cluster.
//!
//! # Clusters
//!
//! [`Cluster::create`] makes an empty one, [`NodeSpec::cluster`] lets a node join it (hollow nodes only; the lxc body knows standalone machines). [`Cluster`]
//! breaks the network, takes power away and gives it back; quorum follows. `pct migrate` and `ha-manager` are tools like the others; HA's daemons run in
//! `pve-sim serve` of each node, or are called with [`ha::round`].
//!
//! # Bodies
//!
//! [`body::Body`] is what containers are made of. *lxc* ([`body::lxc`]): real containers. *hollow* ([`body::hollow`]): files.
//! A hollow container whose recipe was installed is answered for by `serve`: HTTP requests by a page, everything else by a
//! line, both saying `simulated by pve-sim (hollow body): container <id> <hostname>, port <p>`.
//!
//! - Published: `<address of node.json>:<public port>` for every DNAT rule of any table (`nft -j -f -`, `nft -f -`) whose
//!   target is the address of a running, installed container. The tool returns when the port is open.
//! - Direct: the container's own address, if it is a loopback address, at the recipe's port
//!   (`/var/lib/proximity/recipe/port` inside), the node's `default_ports`, and the targets of published ports.
//!
//! # Files under the root
//!
//! | path | what |
//! |---|---|
//! | `node.json` | [`NodeInfo`]; may be edited while nothing runs |
//! | `script.json` | the fault script, see [`Script`]; absent: no faults |
//! | `etc/pve/…` | `nodes/<node>/lxc/<id>.conf`, links `lxc` and `local`, `.vmlist`, `.version`, `.members`, `storage.cfg`, `datacenter.cfg`, `user.cfg`, `priv/` (0700), `pve-root-ca.pem` (another key in every host); in a cluster links, see [`cluster`] |
//! | `var/lib/vz/{template/cache,template/iso,images,dump}` | storage `local` (dir); `mnt/btr` is storage `btr` (btrfs) |
//! | `var/log/pve/tasks/<x>/<UPID>`, `…/active`, `…/index` | worker tasks |
//! | `run/lock/lxc/pve-config-<id>.lock`, `var/run/vzdump.lock` | real `flock`s (`var/run` is a link to `run`) |
//! | `run/nft/ruleset.json` | the ruleset, as `nft -j list ruleset` prints it |
//! | `var/lib/pve-manager/apl-info/download.proxmox.com` | index of `pveam`; `pveam update` writes it from the pool |
//! | `template-pool/` (or `template_pool` of `node.json`) | what `pveam download` copies from; with a file `offline` in it, or without the template, the download fails |
//! | `proc/{meminfo,stat,uptime,loadavg,cpuinfo,version,net/unix,net/dev,sys/kernel/random/boot_id,sys/net/ipv4/ip_forward}` | the node (hollow) |
//! | `proc/<init pid>/…`, `sys/fs/cgroup/lxc/<id>/…`, `sys/class/net/…` | containers (hollow), see [`body::hollow`] |
//! | `var/lib/lxc/<id>/{init.pid,address,installed,listens,exec.log,files/,deaf}` | containers (hollow), see [`body::hollow`] |
//! | `serve/{lock,wanted,done,state.json}` | between the tools and `serve` |
//!
//! # Faults
//!
//! [`Script`] says what goes wrong. Points: *before* (arguments read, nothing done), *middle* (locks held; `create`: the
//! configuration has only `lock: create`, the disks are there, nothing is unpacked; `start`, `stop`, `set`, `destroy`, `push`,
//! `exec`: just before the act; `vzdump`: the `.tar.dat` is there), *after* (done, not yet ended).
//! `create` in its middle: `kill_self` and `half_create` leave that state, `fail`, `disk_full` and TERM roll it back.
//!
//! # Not simulated: `pve-sim: not simulated: …`, exit 99
//!
//! - `pct`: `df, fsck, fstrim, mount, unmount, move-volume, remote-migrate, resume, console, enter, help`; `migrate` beyond its
//!   refusals on standalone nodes, `--target-storage`, local volumes of `btrfs`; linked clones, clones to another node; bind mounts, existing volumes for a new container, `--dev`,
//!   `--hookscript`, `--pool`
//! - `vzdump`: `--all`, `--pool`, `--script`, `--stdout`, `--job-id`, `--fleecing`, `--stop`, `--exclude-path`, prune rules
//!   other than `keep-last`; the two copies of `suspend` are one
//! - `pvesm`: everything but `status, list, path, alloc, free, extractconfig`; storages other than `dir`, `btrfs`, `nfs`, `lvmthin`, `pbs` (which a node has only if
//!   its `storage.cfg` says so)
//! - `pveam help`; `pvesh`: paths that its module does not list, `set`, `delete`, `ls`, `usage`, tables as text
//! - `nft`: `reset`, `replace`, `rename`, `monitor`; sets and maps other than by name; text beyond its module's list
//! - hollow containers: commands beyond a few of the shell's (`exec.log` has all of them)
//! - real containers in clusters, HA groups and rules, replication, ZFS, RBD, users and permissions, OCI templates
//!
//! What differs though it looks the same: no disk fills up; `digest` and counters are right but not equal to the recordings';
//! a hollow backup's archive is a real tar of its files, but nothing in it is really compressed.

pub mod archive;
pub mod body;
mod call;
mod check;
pub mod clock;
pub mod cluster;
pub mod conf;
pub mod ha;
pub mod lab;
pub mod layout;
mod locks;
mod nft;
mod node;
mod options;
mod pct;
mod pmxcfs;
mod pveam;
mod pvesh;
mod pvesm;
mod pveversion;
mod script;
mod serve;
mod spec;
mod storage;
mod tasks;
mod tools;
mod users;
mod vzdump;

pub use call::{EXIT_KILLED, EXIT_NOT_SIMULATED, Signals};
pub use clock::{Clock, SystemClock};
pub use cluster::{Cluster, ClusterInfo, Member};
pub use layout::{BodyKind, Layout, NodeInfo};
pub use node::Node;
pub use script::{At, Fault, Faults, Hits, Point, Rule, Script};
pub use serve::{answers, serve};
pub use spec::{NodeSpec, TEMPLATES};
pub use tools::{DECOMPRESSORS, TOOLS};
