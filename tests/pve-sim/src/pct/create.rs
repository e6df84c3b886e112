//! `pct create` and `pct restore`: reserve the number with `lock: create`, make the disks, unpack, write the configuration.
//!
//! TERM, a lost reader and any error undo all of it. SIGKILL leaves a configuration with only `lock: create`, and the disk.

use std::path::Path;

use crate::body::Unpacked;
use crate::call::{Call, Stop};
use crate::conf::{CtConfig, Properties, Section, numbered};
use crate::locks::{CREATE_LOCK_TIMEOUT, config_lock};
use crate::options::Arguments;
use crate::pct::{power, settings};
use crate::pmxcfs;
use crate::script::At;
use crate::storage::{self, GIB, format_size};
use crate::tasks::worker;

/// What the real tool runs to unpack; part of its error text.
const TAR: &str = "tar xpf - --zstd --totals --one-file-system -p --sparse --numeric-owner --acls --xattrs '--xattrs-include=user.*' '--xattrs-include=security.capability' '--warning=no-file-ignored' '--warning=no-xattr-write'";

/// Options that steer the command and are no configuration.
const COMMAND_ONLY: [&str; 14] = [
    "vmid",
    "ostemplate",
    "bwlimit",
    "force",
    "ignore-unpack-errors",
    "password",
    "pool",
    "restore",
    "ssh-public-keys",
    "start",
    "storage",
    "unique",
    "description",
    "digest",
];

pub(crate) fn create(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    if call.args.flag("restore") {
        return restore(call, vmid);
    }
    refuse_unsimulated(&call.args)?;
    pmxcfs::check_quorum(call.layout())?;
    pmxcfs::check_free(call.layout(), vmid)?;
    let mut section = section_from(&call.args)?;
    let plan = DiskPlan::of(call, &section)?;
    reserve(call, vmid)?;
    let template = call.args.required("ostemplate").to_owned();
    let start = call.args.flag("start");
    worker(call, "vzcreate", &vmid.to_string(), |call| {
        let built = build(call, vmid, &plan, &mut section, &template, None);
        let written = built.and_then(|()| write(call, vmid, section));
        finish(call, vmid, written, "create")
    })?;
    if start {
        power::start(call, vmid).map(drop)
    } else {
        Ok(())
    }
}

pub(crate) fn restore(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    refuse_unsimulated(&call.args)?;
    pmxcfs::check_quorum(call.layout())?;
    let force = call.args.flag("force");
    let old = pmxcfs::load(call.layout(), vmid).ok();
    match &old {
        Some(config) if force => {
            pmxcfs::check_lock(config)?;
            if config.current.flag("protection") {
                return Err(Stop::die(format!(
                    "unable to restore CT {vmid} - protection mode enabled"
                )));
            }
            if call.node.is_running(vmid) {
                return Err(Stop::die(format!(
                    "unable to restore CT {vmid} - unable to restore to running container"
                )));
            }
        }
        _ => pmxcfs::check_free(call.layout(), vmid)?,
    }
    let archive = call.args.required("ostemplate").to_owned();
    let overrides = section_from(&call.args)?;
    if old.is_none() {
        reserve(call, vmid)?;
    }
    let start = call.args.flag("start");
    worker(call, "vzrestore", &vmid.to_string(), |call| {
        call.say(&format!("recovering backed-up configuration from '{archive}'"))?;
        let restored = restore_from(call, vmid, &archive, &overrides, old.as_ref());
        finish(call, vmid, restored, "restore")
    })?;
    if start {
        power::start(call, vmid).map(drop)
    } else {
        Ok(())
    }
}

fn restore_from(
    call: &mut Call<'_>,
    vmid: u32,
    archive: &str,
    overrides: &Section,
    old: Option<&CtConfig>,
) -> Result<(), (Stop, Vec<String>)> {
    let nothing_made = |stop: Stop| (stop, Vec::new());
    let path = storage::active_path_of(call.layout(), archive).map_err(nothing_made)?;
    if !path.exists() {
        return Err(nothing_made(Stop::die(format!("volume '{archive}' does not exist"))));
    }
    let saved = call
        .node
        .body
        .saved_config(&storage::archive_file(&path))
        .map(|text| CtConfig::parse(&text))
        .map_err(|error| nothing_made(error.into()))?;
    let mut section = saved.current;
    for key in ["lock", "template", "parent"] {
        section.remove(key);
    }
    section.values.retain(|key, _| numbered(key, "unused").is_none());
    // Disks are made anew: at the given storage, else where the backup says.
    for (key, _) in section.volumes() {
        let mut disk = Properties::parse(section.get(&key).unwrap_or_default(), "volume");
        let from = disk
            .get("volume")
            .and_then(|volume| volume.split(':').next())
            .unwrap_or("local")
            .to_owned();
        let size = disk
            .get("size")
            .and_then(|size| storage::parse_size(size, 1))
            .unwrap_or(4 * GIB);
        let target = call.args.get("storage").map_or(from, str::to_owned);
        disk.set("volume", format!("{target}:{}", gigabytes(size)));
        section.set(&key, disk.render(Some("volume"), &[]));
    }
    section.values.extend(overrides.values.clone());
    if call.args.flag("unique") {
        for (number, mut net) in section.networks() {
            net.set("hwaddr", storage::random_mac());
            section.set(&format!("net{number}"), net.render(None, &["name", "bridge"]));
        }
    }
    let plan = DiskPlan::of(call, &section).map_err(nothing_made)?;
    let replaced: Vec<String> = old
        .map(|old| old.current.volumes().into_iter().map(|(_, volume)| volume).collect())
        .unwrap_or_default();
    build(call, vmid, &plan, &mut section, archive, Some(&replaced))?;
    call.say("merging backed-up and given configuration..")
        .map_err(nothing_made)?;
    write(call, vmid, section)
}

/// Writes the finished configuration; the error holds the disks, which go with it.
fn write(call: &Call<'_>, vmid: u32, mut section: Section) -> Result<(), (Stop, Vec<String>)> {
    defaults(&mut section, vmid);
    let made = section.volumes().into_iter().map(|(_, volume)| volume).collect();
    let config = CtConfig {
        current: section,
        ..CtConfig::default()
    };
    pmxcfs::save(call.layout(), vmid, &config).map_err(|stop| (stop, made))
}

#[expect(clippy::cast_precision_loss)]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / GIB as f64
}

fn refuse_unsimulated(args: &Arguments) -> Result<(), Stop> {
    match args
        .values
        .keys()
        .find(|key| matches!(key.as_str(), "hookscript" | "pool") || numbered(key, "dev").is_some())
    {
        Some(key) => Err(Stop::NotSimulated(format!("--{key}"))),
        None => Ok(()),
    }
}

/// The number is taken from here on: a configuration with only `lock: create`.
pub(super) fn reserve(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let _lock = config_lock(call, vmid, CREATE_LOCK_TIMEOUT)?;
    pmxcfs::check_free(call.layout(), vmid)?;
    let mut reserved = CtConfig::default();
    reserved.current.set("lock", "create");
    pmxcfs::save(call.layout(), vmid, &reserved)
}

/// The configuration that the arguments ask for, values as the tool stores them.
fn section_from(args: &Arguments) -> Result<Section, Stop> {
    let mut section = Section::default();
    for (key, value) in &args.values {
        if !COMMAND_ONLY.contains(&key.as_str()) {
            section.set(key, settings::stored(key, value));
        }
    }
    section.set_description(args.get("description").unwrap_or_default());
    if section.get("unprivileged") == Some("0") {
        section.remove("unprivileged");
    }
    Ok(section)
}

fn defaults(section: &mut Section, vmid: u32) {
    for (key, value) in [("memory", "512"), ("swap", "512"), ("arch", "amd64")] {
        if section.get(key).is_none() {
            section.set(key, value);
        }
    }
    if section.get("hostname").is_none() {
        section.set("hostname", format!("CT{vmid}"));
    }
}

/// Which disks are to be made: key, its properties, storage, bytes.
struct DiskPlan(Vec<(String, Properties, String, u64)>);

impl DiskPlan {
    fn of(call: &Call<'_>, section: &Section) -> Result<Self, Stop> {
        let default_storage = call.args.get("storage").unwrap_or("local");
        let mut keys = section.volumes();
        if section.get("rootfs").is_none() {
            keys.insert(0, ("rootfs".to_owned(), format!("{default_storage}:4")));
        }
        let mut disks = Vec::new();
        for (key, volume) in keys {
            let properties = Properties::parse(section.get(&key).unwrap_or(&volume), "volume");
            if volume.starts_with('/') {
                return Err(Stop::NotSimulated("bind mounts".to_owned()));
            }
            let Some((id, size)) = volume.split_once(':') else {
                return Err(Stop::die(format!("unable to parse volume ID '{volume}'")));
            };
            let storage = storage::find(call.layout(), id)?;
            let Some(size) = size.parse::<f64>().ok().and_then(|_| storage::parse_size(size, GIB)) else {
                return Err(Stop::NotSimulated(format!(
                    "an existing volume '{volume}' for a new container"
                )));
            };
            disks.push((key, properties, storage.id, size));
        }
        Ok(Self(disks))
    }
}

/// Makes the disks and unpacks. The error holds what has been made, for the undo.
fn build(
    call: &mut Call<'_>,
    vmid: u32,
    plan: &DiskPlan,
    section: &mut Section,
    archive: &str,
    restoring: Option<&[String]>,
) -> Result<(), (Stop, Vec<String>)> {
    let mut made: Vec<String> = Vec::new();
    let result = (|| {
        for (key, properties, storage, size) in &plan.0 {
            let before = list_of(call, storage, vmid);
            let allocated = storage::allocate(call, storage, vmid, *size);
            if allocated.is_err() {
                // Half made: the image is there, the reader of the words was not.
                made.extend(
                    list_of(call, storage, vmid)
                        .into_iter()
                        .filter(|volid| !before.contains(volid)),
                );
            }
            let volid = allocated?;
            made.push(volid.clone());
            let mut properties = properties.clone();
            properties.set("volume", volid);
            properties.set("size", format_size(*size));
            section.set(key, properties.render(Some("volume"), &[]));
        }
        let path = storage::path_of(call.layout(), archive)?;
        if !path.exists() {
            return Err(Stop::die(format!("volume '{archive}' does not exist")));
        }
        if let Some(old) = restoring {
            // `--force`: what the container had is gone before anything is unpacked.
            for volume in old {
                storage::free(call.layout(), volume)?;
            }
            call.say(&format!("restoring '{archive}' now.."))?;
        }
        // A backup server's client unpacks without a word.
        if path.is_file() {
            let shown = call.layout().node_path(&path);
            call.say(&format!("extracting archive '{shown}'"))?;
        }
        call.point(At::Middle)?;
        let unpacked = unpack(call, vmid, section, &storage::archive_file(&path))?;
        call.say(&format!(
            "Total bytes read: {} ({}MiB, {}MiB/s)",
            unpacked.bytes,
            unpacked.bytes.div_ceil(1_048_576),
            100
        ))?;
        if restoring.is_none() {
            call.say(&format!("Detected container architecture: {}", unpacked.arch))?;
        }
        call.check_signals()?;
        if section.get("arch").is_none() {
            section.set("arch", unpacked.arch);
        }
        if section.get("ostype").is_none() {
            section.set("ostype", unpacked.ostype.unwrap_or_else(|| "unmanaged".to_owned()));
        }
        Ok(())
    })();
    result.map_err(|stop| (stop, made))
}

fn list_of(call: &Call<'_>, storage: &str, vmid: u32) -> Vec<String> {
    storage::find(call.layout(), storage)
        .ok()
        .and_then(|storage| storage.volumes(call.layout()).ok())
        .map(|volumes| {
            volumes
                .into_iter()
                .filter(|volume| volume.vmid == Some(vmid) && volume.content == "rootdir")
                .map(|volume| volume.volid)
                .collect()
        })
        .unwrap_or_default()
}

fn unpack(call: &mut Call<'_>, vmid: u32, section: &Section, archive: &Path) -> Result<Unpacked, Stop> {
    // The body writes into a buffer: output goes through `say`, which knows the task's log.
    let mut words = Vec::new();
    let unpacked = call.with_ct(vmid, section, |body, ct| body.unpack(ct, archive, &mut words));
    let text = String::from_utf8_lossy(&words).into_owned();
    if !text.is_empty() {
        call.print(&text)?;
    }
    Ok(unpacked?)
}

/// Undoes a failed create or restore and words the error.
fn finish(call: &mut Call<'_>, vmid: u32, built: Result<(), (Stop, Vec<String>)>, verb: &str) -> Result<(), Stop> {
    let Err((stop, made)) = built else { return Ok(()) };
    if !stop.undoes() {
        return Err(stop);
    }
    undo(call, vmid, &made);
    Err(match stop {
        stop @ (Stop::BrokenPipe | Stop::Exit(_)) => stop,
        Stop::Interrupted => Stop::die(format!(
            "unable to {verb} CT {vmid} - command '{TAR} -C /var/lib/lxc/{vmid}/rootfs --skip-old-files --anchored --exclude './dev/*'' failed: received interrupt"
        )),
        Stop::Fail { exit, text } => Stop::Fail {
            exit,
            text: format!("unable to {verb} CT {vmid} - {text}"),
        },
        other => Stop::die(format!("unable to {verb} CT {vmid} - {}", other.text())),
    })
}

/// Removes what has been made. An undo that fails is said and does not hide the first error.
pub(super) fn undo(call: &mut Call<'_>, vmid: u32, made: &[String]) {
    let mut section = Section::default();
    if let Some(first) = made.first() {
        section.set("rootfs", first.clone());
    }
    if let Err(error) = call.with_ct(vmid, &section, |body, ct| body.destroy(ct)) {
        call.complain(&error.to_string());
    }
    for volume in made {
        if let Err(error) = storage::free(call.layout(), volume) {
            call.complain(&error.text());
        }
    }
    let reserved = pmxcfs::load(call.layout(), vmid).is_ok_and(|config| config.current.get("lock") == Some("create"));
    if reserved && let Err(error) = pmxcfs::remove(call.layout(), vmid) {
        call.complain(&error.text());
    }
}
