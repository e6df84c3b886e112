//! `pct set`, `config`, `pending`, `unlock`.

use crate::call::{Call, Stop};
use crate::check::is_config_key;
use crate::conf::{CtConfig, Properties, Section, numbered, percent_encode};
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::options::command;
use crate::pmxcfs;
use crate::script::At;
use crate::storage::{self, GIB, format_size};

/// What a running container takes over at its next start only.
const AT_NEXT_START: [&str; 10] = [
    "arch",
    "cmode",
    "console",
    "debug",
    "features",
    "ostype",
    "rootfs",
    "timezone",
    "tty",
    "unprivileged",
];

/// A value as the tool stores it: addresses generated, tags sorted, keys in the tool's order.
pub(super) fn stored(key: &str, value: &str) -> String {
    if numbered(key, "net").is_some() {
        let mut net = Properties::parse(value, "name");
        if net.get("hwaddr").is_none() {
            net.set("hwaddr", storage::random_mac());
        }
        net.set("type", "veth");
        return net.render(None, &["name", "bridge"]);
    }
    match key {
        "tags" => {
            let mut tags: Vec<String> = value
                .split([',', ';', ' '])
                .filter(|tag| !tag.is_empty())
                .map(str::to_ascii_lowercase)
                .collect();
            tags.sort();
            tags.dedup();
            tags.join(";")
        }
        "rootfs" => Properties::parse(value, "volume").render(Some("volume"), &[]),
        _ if numbered(key, "mp").is_some() => Properties::parse(value, "volume").render(Some("volume"), &[]),
        _ => value.to_owned(),
    }
}

pub(super) fn set(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let mut changes: Vec<(String, String)> = call
        .args
        .values
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "vmid" | "delete" | "digest" | "revert"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let deletions: Vec<String> = list(call.args.get("delete"));
    let reverts: Vec<String> = list(call.args.get("revert"));
    if changes.is_empty() && deletions.is_empty() && reverts.is_empty() {
        return Err(Stop::die("no options specified"));
    }
    if let Some(unknown) = deletions.iter().find(|key| !is_config_key(key)) {
        let usage = command("pct", "set")
            .map(|spec| spec.usage("pct", "set"))
            .unwrap_or_default();
        let problems = [("delete".to_owned(), format!("unknown option '{unknown}'"))].into();
        return Err(Stop::parameters(&problems, &usage));
    }
    if changes
        .iter()
        .any(|(key, _)| matches!(key.as_str(), "hookscript") || numbered(key, "dev").is_some())
    {
        return Err(Stop::NotSimulated("--hookscript and --dev of pct set".to_owned()));
    }
    pmxcfs::load(call.layout(), vmid)?;
    let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    pmxcfs::check_lock(&config)?;
    if let Some(digest) = call.args.get("digest")
        && digest != pmxcfs::digest(call.layout(), vmid)
    {
        return Err(Stop::die(
            "detected modified configuration - file changed by other user? Try again.",
        ));
    }
    if changes.iter().any(|(key, _)| key == "unprivileged") || deletions.iter().any(|key| key == "unprivileged") {
        return Err(Stop::die("unable to modify read-only option: 'unprivileged'"));
    }
    call.point(At::Middle)?;
    let running = call.node.is_running(vmid);
    for key in &reverts {
        config.pending.values.remove(key);
        config.pending.delete.retain(|deleted| deleted != key);
    }
    for key in deletions {
        if running && AT_NEXT_START.contains(&key.as_str()) {
            config.pending.values.remove(&key);
            config.pending.delete.push(key);
        } else {
            delete(call, &mut config.current, &key)?;
        }
    }
    for (_, value) in changes.iter_mut().filter(|(key, _)| numbered(key, "mp").is_some()) {
        *value = new_mount_point(call, vmid, value)?;
    }
    for (key, value) in changes {
        if key == "description" {
            config.current.set_description(&value);
        } else if running && AT_NEXT_START.contains(&key.as_str()) {
            config.pending.delete.retain(|deleted| *deleted != key);
            config.pending.values.insert(key.clone(), stored(&key, &value));
        } else {
            config.current.set(&key, stored(&key, &value));
        }
    }
    pmxcfs::save(call.layout(), vmid, &config)?;
    if running {
        call.with_ct(vmid, &config.current, |body, ct| body.apply(ct))?;
    }
    Ok(())
}

fn list(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default()
        .split([',', ';', ' ', '\0'])
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

fn delete(call: &Call<'_>, section: &mut Section, key: &str) -> Result<(), Stop> {
    if key == "description" {
        section.description.clear();
        return Ok(());
    }
    let Some(old) = section.get(key).map(str::to_owned) else {
        return Ok(());
    };
    section.remove(key);
    let volume = Properties::parse(&old, "volume")
        .get("volume")
        .unwrap_or_default()
        .to_owned();
    if numbered(key, "unused").is_some() {
        storage::free(call.layout(), &volume)?;
    } else if numbered(key, "mp").is_some() && volume.contains(':') {
        // A removed mount point keeps its volume, as the first free unusedN.
        if let Some(free) = (0..256).find(|n| section.get(&format!("unused{n}")).is_none()) {
            section.set(&format!("unused{free}"), volume);
        }
    }
    Ok(())
}

/// `mp0=local:8,mp=/data` makes a disk; a volume that is there stays as it is.
fn new_mount_point(call: &mut Call<'_>, vmid: u32, value: &str) -> Result<String, Stop> {
    let mut properties = Properties::parse(value, "volume");
    let volume = properties.get("volume").unwrap_or_default().to_owned();
    if volume.starts_with('/') {
        return Err(Stop::NotSimulated("bind mounts".to_owned()));
    }
    let Some((storage_id, name)) = volume.split_once(':') else {
        return Err(Stop::die(format!("unable to parse volume ID '{volume}'")));
    };
    if name.parse::<f64>().is_ok() {
        let size = storage::parse_size(name, GIB).unwrap_or(0);
        let made = storage::allocate(call, storage_id, vmid, size)?;
        properties.set("volume", made);
        properties.set("size", format_size(size));
    }
    Ok(properties.render(Some("volume"), &[]))
}

/// Puts pending values into force; tells whether there were any.
pub(super) fn apply_pending(config: &mut CtConfig) -> bool {
    let any = !config.pending.values.is_empty() || !config.pending.delete.is_empty();
    for key in std::mem::take(&mut config.pending.delete) {
        config.current.remove(&key);
    }
    config.current.values.extend(std::mem::take(&mut config.pending.values));
    any
}

pub(super) fn config(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    let section = if let Some(name) = call.args.get("snapshot") {
        config
            .snapshots
            .get(name)
            .cloned()
            .ok_or_else(|| Stop::die(format!("snapshot '{name}' does not exist")))?
    } else {
        if !call.args.flag("current") {
            apply_pending(&mut config);
        }
        config.current
    };
    let mut lines: Vec<(String, String)> = section.values.clone().into_iter().collect();
    if !section.description.is_empty() {
        lines.push(("description".to_owned(), encoded_description(&section)));
    }
    lines.sort();
    lines.extend(section.raw_lxc);
    for (key, value) in lines {
        call.say(&format!("{key}: {value}"))?;
    }
    Ok(())
}

/// The description in one line, with newlines as `%0A`.
fn encoded_description(section: &Section) -> String {
    percent_encode(&section.description)
}

pub(super) fn pending(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    let mut keys: Vec<String> = config
        .current
        .values
        .keys()
        .chain(config.pending.values.keys())
        .cloned()
        .collect();
    if !config.current.description.is_empty() {
        keys.push("description".to_owned());
    }
    keys.sort();
    keys.dedup();
    for key in keys {
        if key == "description" {
            call.say(&format!("cur description: {}", encoded_description(&config.current)))?;
        } else if let Some(value) = config.current.get(&key) {
            call.say(&format!("cur {key}: {value}"))?;
        }
        if let Some(value) = config.pending.values.get(&key) {
            call.say(&format!("new {key}: {value}"))?;
        } else if config.pending.delete.contains(&key) {
            call.say(&format!("del {key}: {}", config.current.get(&key).unwrap_or_default()))?;
        }
    }
    Ok(())
}

pub(super) fn unlock(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    config.current.remove("lock");
    pmxcfs::save(call.layout(), vmid, &config)
}
