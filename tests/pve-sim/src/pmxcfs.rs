//! `/etc/pve`: configuration files of containers, `.vmlist`, `.version`, `.members`.
//!
//! Every write of a configuration raises the counters in `.vmlist` and `.version`, under one lock of the node.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use crate::call::{Call, Stop};
use crate::conf::CtConfig;
use crate::layout::{Layout, write_atomically};
use crate::locks::try_lock;

/// Reads a container's configuration, or says what the tools say when there is none.
pub(crate) fn load(layout: &Layout, vmid: u32) -> Result<CtConfig, Stop> {
    match std::fs::read_to_string(layout.conf_path(vmid)) {
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
    let raw = std::fs::read(layout.conf_path(vmid)).unwrap_or_default();
    data_encoding::HEXLOWER.encode(&Sha1::digest(&raw))
}

/// Writes a container's configuration.
pub(crate) fn save(layout: &Layout, vmid: u32, config: &CtConfig) -> Result<(), Stop> {
    save_io(layout, vmid, config).map_err(|error| Stop::die(format!("unable to write {vmid}.conf: {error}")))
}

fn save_io(layout: &Layout, vmid: u32, config: &CtConfig) -> io::Result<()> {
    write_atomically(&layout.conf_path(vmid), config.render().as_bytes())?;
    refresh(layout, Some(vmid))
}

/// Removes a container's configuration.
pub(crate) fn remove(layout: &Layout, vmid: u32) -> Result<(), Stop> {
    std::fs::remove_file(layout.conf_path(vmid))
        .and_then(|()| refresh(layout, None))
        .map_err(|error| Stop::die(format!("unable to remove {vmid}.conf: {error}")))
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
    let mut config = CtConfig::parse(&std::fs::read_to_string(layout.conf_path(vmid))?);
    config.current.set("lock", lock);
    save_io(layout, vmid, &config)
}

/// All guests that the host knows: number, then node and `lxc` or `qemu`.
pub(crate) fn guests(layout: &Layout) -> io::Result<BTreeMap<u32, (String, &'static str)>> {
    let mut guests = BTreeMap::new();
    for node in std::fs::read_dir(layout.pve().join("nodes"))? {
        let node = node?;
        let name = node.file_name().to_string_lossy().into_owned();
        for (folder, kind) in [("lxc", "lxc"), ("qemu-server", "qemu")] {
            let Ok(entries) = std::fs::read_dir(node.path().join(folder)) else {
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
    let guests = guests(&call.node.layout).map_err(|error| Stop::die(format!("/etc/pve/nodes: {error}")))?;
    let own = &call.node.layout.info().name;
    Ok(guests
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

/// Writes `.vmlist` and `.version` anew; `changed` gets a new version of its own.
pub(crate) fn refresh(layout: &Layout, changed: Option<u32>) -> io::Result<()> {
    let lock = layout.root().join("run/pmxcfs.lock");
    // Held only for the moment of a rewrite.
    let _held = loop {
        if let Some(file) = try_lock(&lock)? {
            break file;
        }
        std::thread::yield_now();
    };
    let path = layout.pve().join(".vmlist");
    let old: Value = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Value::Null);
    let version = old["version"].as_u64().unwrap_or(0) + 1;
    let lines: Vec<String> = guests(layout)?
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
    let counters = json!({"starttime": layout.info().booted_s, "clinfo": 0, "vmlist": version, "corosync.conf": 1,
        "storage.cfg": 1, "datacenter.cfg": 1});
    write_atomically(&layout.pve().join(".version"), format!("{counters:#}\n").as_bytes())
}
