//! `/etc/pve`: configuration files of containers, `.vmlist`, `.version`, `.members`.
//!
//! Every write of a configuration raises the counters in `.vmlist` and `.version`, under one lock of the node, or of the cluster. Without quorum
//! nothing is written (see [`crate::cluster`]), and a number belongs to one guest of the cluster (`vmlist_different_vm_exists` of memdb.c).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::call::{Call, Stop};
use crate::cluster::Cluster;
use crate::conf::CtConfig;
use crate::layout::{Layout, write_atomically};
use crate::locks::try_lock;

/// Files that have a counter in `.version`, besides the guests' and those that only an operator edits.
const WATCHED: [&str; 4] = ["user.cfg", "ha/crm_commands", "ha/manager_status", "ha/resources.cfg"];

/// Reads a container's configuration, or says what the tools say when there is none.
pub(crate) fn load(layout: &Layout, vmid: u32) -> Result<CtConfig, Stop> {
    match fs::read_to_string(layout.conf_path(vmid)) {
        Ok(text) => Ok(CtConfig::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(layout, vmid)),
        Err(error) => Err(Stop::die(format!("unable to read {vmid}.conf: {error}"))),
    }
}

fn missing(layout: &Layout, vmid: u32) -> Stop {
    Stop::die(format!(
        "Configuration file 'nodes/{}/lxc/{vmid}.conf' does not exist",
        layout.info().name
    ))
}

/// SHA-1 of the raw file, as `--digest` wants it.
pub(crate) fn digest(layout: &Layout, vmid: u32) -> String {
    use sha1::{Digest, Sha1};
    let raw = fs::read(layout.conf_path(vmid)).unwrap_or_default();
    data_encoding::HEXLOWER.encode(&Sha1::digest(&raw))
}

/// `PVE::Cluster::check_cfs_quorum`.
pub(crate) fn check_quorum(layout: &Layout) -> Result<(), Stop> {
    match is_quorate(layout) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Stop::die("cluster not ready - no quorum?")),
        Err(error) => Err(Stop::die(format!("ipcc_send_rec failed: {error}"))),
    }
}

/// Whether the node may change `/etc/pve`; a standalone one always may.
pub(crate) fn is_quorate(layout: &Layout) -> io::Result<bool> {
    match Cluster::of(layout) {
        None => Ok(true),
        Some(cluster) => cluster.is_quorate(&layout.info().name),
    }
}

/// Held while something of `/etc/pve` is written; fails without quorum as pmxcfs does.
struct Writing {
    _lock: fs::File,
}

impl Writing {
    fn begin(layout: &Layout) -> io::Result<Self> {
        let lock = match Cluster::of(layout) {
            Some(cluster) => {
                let lock = cluster.lock()?;
                if !cluster.is_quorate(&layout.info().name)? {
                    return Err(io::Error::from_raw_os_error(nix::libc::EACCES));
                }
                lock
            }
            None => local_lock(layout)?,
        };
        Ok(Self { _lock: lock })
    }
}

fn local_lock(layout: &Layout) -> io::Result<fs::File> {
    let lock = layout.root().join("run/pmxcfs.lock");
    // Held only for the moment of a rewrite.
    loop {
        if let Some(file) = try_lock(&lock)? {
            return Ok(file);
        }
        std::thread::yield_now();
    }
}

/// What `PVE::Tools::file_set_contents` says when a file of `/etc/pve` cannot be written.
fn unwritable(layout: &Layout, path: &Path, error: &io::Error) -> Stop {
    let shown = layout.node_path(path);
    let why = |error: &io::Error| match error.raw_os_error() {
        Some(nix::libc::EACCES) => "Permission denied".to_owned(),
        Some(nix::libc::EEXIST) => "File exists".to_owned(),
        _ => error.to_string(),
    };
    Stop::die(match error.raw_os_error() {
        Some(nix::libc::EEXIST) => format!("close (rename) atomic file '{shown}' failed: {}", why(error)),
        _ => format!(
            "unable to open file '{shown}.tmp.{}' - {}",
            std::process::id(),
            why(error)
        ),
    })
}

/// Writes a container's configuration.
pub(crate) fn save(layout: &Layout, vmid: u32, config: &CtConfig) -> Result<(), Stop> {
    save_io(layout, vmid, config).map_err(|error| unwritable(layout, &layout.conf_path(vmid), &error))
}

fn save_io(layout: &Layout, vmid: u32, config: &CtConfig) -> io::Result<()> {
    let _writing = Writing::begin(layout)?;
    let path = layout.conf_path(vmid);
    if !path.exists() && guests(layout)?.contains_key(&vmid) {
        return Err(io::Error::from_raw_os_error(nix::libc::EEXIST));
    }
    write_atomically(&path, config.render().as_bytes())?;
    count(layout, Some(vmid))
}

/// Removes a container's configuration.
pub(crate) fn remove(layout: &Layout, vmid: u32) -> Result<(), Stop> {
    let removed = Writing::begin(layout).and_then(|_writing| {
        fs::remove_file(layout.conf_path(vmid))?;
        count(layout, None)
    });
    removed.map_err(|error| {
        let why = match error.raw_os_error() {
            Some(nix::libc::EACCES) => "Permission denied".to_owned(),
            _ => error.to_string(),
        };
        Stop::die(format!("failed to remove config file: {why}"))
    })
}

/// Moves a guest's configuration to another node of the cluster: `pct migrate`, and HA after it has fenced a node.
pub(crate) fn give_to(layout: &Layout, vmid: u32, from: &str, to: &str) -> io::Result<()> {
    let _writing = Writing::begin(layout)?;
    let place = |node: &str| layout.pve_files().join(format!("nodes/{node}/lxc/{vmid}.conf"));
    fs::rename(place(from), place(to))?;
    count(layout, Some(vmid))
}

/// Changes a file of `/etc/pve` that is no guest's; a missing one is empty.
pub(crate) fn edit(layout: &Layout, name: &str, change: impl FnOnce(&str) -> Result<String, Stop>) -> Result<(), Stop> {
    let path = layout.pve().join(name);
    let failed = |error: io::Error| unwritable(layout, &path, &error);
    let _writing = Writing::begin(layout).map_err(failed)?;
    let real = layout.pve_files().join(name);
    let old = match fs::read_to_string(&real) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let new = change(&old)?;
    if new == old && real.exists() {
        return Ok(());
    }
    let counted = |counters: &mut Map<String, Value>| {
        let next = counters.get(name).and_then(Value::as_u64).unwrap_or(0) + 1;
        counters.insert(name.to_owned(), json!(next));
    };
    write_atomically(&real, new.as_bytes())
        .and_then(|()| {
            if WATCHED.contains(&name) {
                counters(layout, counted)
            } else {
                Ok(())
            }
        })
        .map_err(failed)
}

/// Refuses a container whose configuration holds a lock.
pub(crate) fn check_lock(config: &CtConfig) -> Result<(), Stop> {
    match config.current.get("lock") {
        Some(lock) => Err(Stop::die(format!("CT is locked ({lock})"))),
        None => Ok(()),
    }
}

/// Sets `lock:` as another tool would.
pub(crate) fn set_lock(layout: &Layout, vmid: u32, lock: &str) -> io::Result<()> {
    let mut config = CtConfig::parse(&fs::read_to_string(layout.conf_path(vmid))?);
    config.current.set("lock", lock);
    save_io(layout, vmid, &config)
}

/// All guests that the host knows: number, then node and `lxc` or `qemu`.
pub(crate) fn guests(layout: &Layout) -> io::Result<BTreeMap<u32, (String, &'static str)>> {
    guests_below(&layout.pve())
}

fn guests_below(pve: &Path) -> io::Result<BTreeMap<u32, (String, &'static str)>> {
    let mut guests = BTreeMap::new();
    for node in fs::read_dir(pve.join("nodes"))? {
        let node = node?;
        let name = node.file_name().to_string_lossy().into_owned();
        for (folder, kind) in [("lxc", "lxc"), ("qemu-server", "qemu")] {
            let Ok(entries) = fs::read_dir(node.path().join(folder)) else {
                continue;
            };
            for entry in entries {
                let file = entry?.file_name().to_string_lossy().into_owned();
                if let Some(vmid) = file.strip_suffix(".conf").and_then(|stem| stem.parse().ok()) {
                    guests.insert(vmid, (name.clone(), kind));
                }
            }
        }
    }
    Ok(guests)
}

/// Containers of this node, by number.
pub(crate) fn containers(call: &Call<'_>) -> Result<Vec<u32>, Stop> {
    own_containers(&call.node.layout).map_err(|error| Stop::die(format!("/etc/pve/nodes: {error}")))
}

/// The same.
pub(crate) fn own_containers(layout: &Layout) -> io::Result<Vec<u32>> {
    let own = &layout.info().name;
    Ok(guests(layout)?
        .into_iter()
        .filter(|(_, (node, kind))| node == own && *kind == "lxc")
        .map(|(vmid, _)| vmid)
        .collect())
}

/// Refuses a number that any guest of the host has.
pub(crate) fn check_free(layout: &Layout, vmid: u32) -> Result<(), Stop> {
    let guests = guests(layout).map_err(|error| Stop::die(format!("/etc/pve/nodes: {error}")))?;
    match guests.get(&vmid) {
        Some((node, "lxc")) => Err(Stop::die(format!("CT {vmid} already exists on node '{node}'"))),
        Some((node, _)) => Err(Stop::die(format!("VM {vmid} already exists on node '{node}'"))),
        None => Ok(()),
    }
}

/// Writes `.vmlist` and `.version` anew; `changed` gets a new version of its own. For what is changed behind the tools' back.
pub(crate) fn refresh(layout: &Layout, changed: Option<u32>) -> io::Result<()> {
    let _lock = match Cluster::of(layout) {
        Some(cluster) => cluster.lock()?,
        None => local_lock(layout)?,
    };
    count(layout, changed)
}

/// The same while the lock is held.
fn count(layout: &Layout, changed: Option<u32>) -> io::Result<()> {
    let files = layout.pve_files();
    let version = list_guests(&files, changed)?;
    counters(layout, |counters| {
        counters.insert("vmlist".to_owned(), json!(version));
    })
}

/// Changes `.version`, whose counters tell which file has changed (`memdb_change_array` of status.c).
fn counters(layout: &Layout, change: impl FnOnce(&mut Map<String, Value>)) -> io::Result<()> {
    let path = layout.pve_files().join(".version");
    let old: Option<Map<String, Value>> = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut counters = old.unwrap_or_else(|| {
        let fixed = ["corosync.conf", "storage.cfg", "datacenter.cfg"].map(|name| (name.to_owned(), json!(1)));
        [("clinfo".to_owned(), json!(0))].into_iter().chain(fixed).collect()
    });
    counters.insert("starttime".to_owned(), json!(layout.info().booted_s));
    change(&mut counters);
    write_atomically(&path, format!("{:#}\n", Value::Object(counters)).as_bytes())
}

/// Writes `.vmlist` of the files below `pve`; answers its version.
pub(crate) fn list_guests(pve: &Path, changed: Option<u32>) -> io::Result<u64> {
    let path = pve.join(".vmlist");
    let old: Value = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Value::Null);
    let version = old["version"].as_u64().unwrap_or(0) + 1;
    let lines: Vec<String> = guests_below(pve)?
        .into_iter()
        .map(|(vmid, (node, kind))| {
            let known = old["ids"][vmid.to_string()]["version"]
                .as_u64()
                .filter(|_| changed != Some(vmid));
            format!(
                "\"{vmid}\": {{ \"node\": \"{node}\", \"type\": \"{kind}\", \"version\": {} }}",
                known.unwrap_or(version)
            )
        })
        .collect();
    let text = format!(
        "{{\n\"version\": {version},\n\"ids\": {{\n{}}}\n\n}}\n",
        lines.join(",\n")
    );
    write_atomically(&path, text.as_bytes())?;
    Ok(version)
}
