//! `pct snapshot`, `delsnapshot`, `rollback`, `listsnapshot`. What the volumes held is kept by the body.

use std::collections::BTreeMap;

use crate::call::{Call, Stop};
use crate::clock::{human, now_s};
use crate::conf::{CtConfig, Section};
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::pct::power;
use crate::pmxcfs;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;

/// Keys of the current configuration that a snapshot does not hold, and that a rollback keeps.
const NOT_IN_SNAPSHOT: [&str; 3] = ["lock", "parent", "template"];

fn missing(name: &str) -> Stop {
    Stop::die(format!("snapshot '{name}' does not exist"))
}

/// Only btrfs and LVM-thin volumes can.
fn check_feature(call: &Call<'_>, section: &Section) -> Result<(), Stop> {
    for (_, volume) in section.volumes() {
        let id = volume.split(':').next().unwrap_or_default();
        if !matches!(storage::find(call.layout(), id)?.kind.as_str(), "btrfs" | "lvmthin") {
            return Err(Stop::die("snapshot feature is not available"));
        }
    }
    Ok(())
}

pub(super) fn snapshot(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let name = call.args.required("snapname").to_owned();
    if name == "current" {
        return Err(Stop::die("unable to use snapshot name 'current' (reserved name)"));
    }
    let description = call.args.get("description").unwrap_or_default().to_owned();
    pmxcfs::load(call.layout(), vmid)?;
    worker(call, "vzsnapshot", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let config = pmxcfs::load(call.layout(), vmid)?;
        pmxcfs::check_lock(&config)?;
        if config.snapshots.contains_key(&name) {
            return Err(Stop::die(format!("snapshot name '{name}' already used")));
        }
        check_feature(call, &config.current)?;
        call.point(At::Middle)?;
        make_locked(call, vmid, &name, &description)
    })
    .map(drop)
}

/// Keeps configuration and volumes under a name. Whoever calls it holds the container.
pub(crate) fn make_locked(call: &mut Call<'_>, vmid: u32, name: &str, description: &str) -> Result<(), Stop> {
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    let mut section = config.current.clone();
    for key in ["lock", "template"] {
        section.remove(key);
    }
    section.set_description(description);
    section.set("snaptime", now_s(call.node.clock.as_ref()).to_string());
    call.with_ct(vmid, &config.current, |body, ct| body.snapshot(ct, name))?;
    config.snapshots.insert(name.to_owned(), section);
    config.current.set("parent", name);
    pmxcfs::save(call.layout(), vmid, &config)
}

/// Forgets what is kept under a name.
pub(crate) fn drop_locked(call: &mut Call<'_>, vmid: u32, name: &str) -> Result<(), Stop> {
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    call.with_ct(vmid, &config.current, |body, ct| body.drop_snapshot(ct, name))?;
    let parent = config
        .snapshots
        .remove(name)
        .and_then(|section| section.get("parent").map(str::to_owned));
    let CtConfig { current, snapshots, .. } = &mut config;
    for section in std::iter::once(current).chain(snapshots.values_mut()) {
        if section.get("parent") == Some(name) {
            match &parent {
                Some(parent) => section.set("parent", parent.clone()),
                None => drop(section.remove("parent")),
            }
        }
    }
    pmxcfs::save(call.layout(), vmid, &config)
}

pub(super) fn delsnapshot(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let name = call.args.required("snapname").to_owned();
    pmxcfs::load(call.layout(), vmid)?;
    worker(call, "vzdelsnapshot", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let config = pmxcfs::load(call.layout(), vmid)?;
        pmxcfs::check_lock(&config)?;
        if !config.snapshots.contains_key(&name) {
            return Err(missing(&name));
        }
        call.point(At::Middle)?;
        drop_locked(call, vmid, &name)
    })
    .map(drop)
}

/// A running container is stopped, and stays so unless `--start`.
pub(super) fn rollback(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let name = call.args.required("snapname").to_owned();
    let start = call.args.flag("start");
    pmxcfs::load(call.layout(), vmid)?;
    worker(call, "vzrollback", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let mut config = pmxcfs::load(call.layout(), vmid)?;
        let mut section = config.snapshots.get(&name).cloned().ok_or_else(|| missing(&name))?;
        pmxcfs::check_lock(&config)?;
        call.point(At::Middle)?;
        if call.node.is_running(vmid) {
            call.with_ct(vmid, &config.current, |body, ct| body.stop(ct))?;
        }
        call.with_ct(vmid, &config.current, |body, ct| body.roll_back(ct, &name))?;
        for key in NOT_IN_SNAPSHOT {
            section.remove(key);
        }
        section.remove("snaptime");
        section.description.clone_from(&config.current.description);
        section.set("parent", name.clone());
        config.current = section;
        config.pending = crate::conf::Pending::default();
        pmxcfs::save(call.layout(), vmid, &config)?;
        if start {
            power::start_locked(call, vmid, false)
        } else {
            Ok(())
        }
    })
    .map(drop)
}

pub(super) fn listsnapshot(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    let mut children: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for (name, section) in &config.snapshots {
        let time = section.get("snaptime").and_then(|text| text.parse().ok()).unwrap_or(0);
        children
            .entry(section.get("parent").unwrap_or_default().to_owned())
            .or_default()
            .push((time, name.clone()));
    }
    children
        .entry(config.current.get("parent").unwrap_or_default().to_owned())
        .or_default()
        .push((u64::MAX, "current".to_owned()));
    for list in children.values_mut() {
        list.sort();
    }
    print_children(call, &config, &children, "", 0)
}

fn print_children(
    call: &mut Call<'_>,
    config: &CtConfig,
    children: &BTreeMap<String, Vec<(u64, String)>>,
    parent: &str,
    depth: usize,
) -> Result<(), Stop> {
    for (_, name) in children.get(parent).into_iter().flatten() {
        let prefix = format!("{}`-> ", " ".repeat(depth));
        let (time, description) = match config.snapshots.get(name) {
            Some(section) => (
                section
                    .get("snaptime")
                    .and_then(|text| text.parse().ok())
                    .map(human)
                    .unwrap_or_default(),
                if section.description.is_empty() {
                    "no-description".to_owned()
                } else {
                    section.description.trim_end().to_owned()
                },
            ),
            None => (String::new(), "You are here!".to_owned()),
        };
        let width = 31usize.saturating_sub(prefix.len());
        call.say(&format!("{prefix}{name:<width$} {time:<23} {description}"))?;
        print_children(call, config, children, name, depth + 1)?;
    }
    Ok(())
}
