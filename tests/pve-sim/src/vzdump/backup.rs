//! One container: lock, keep still, pack, let go.

use std::time::Duration;

use super::target::{Place, Target};
use super::{info, plain, prune};
use crate::body::Packing;
use crate::call::{Call, Stop};
use crate::clock::{human, now_s};
use crate::conf::{CtConfig, Properties, numbered};
use crate::layout::Layout;
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::pct::{power, show, snapshot};
use crate::pmxcfs;
use crate::script::At;
use crate::storage;

/// The name of the snapshot that a backup makes.
const SNAPSHOT: &str = "vzdump";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Stop,
    Suspend,
    Snapshot,
}

pub(super) fn guest(call: &mut Call<'_>, word: &str, target: &Target) -> Result<(), Stop> {
    let vmid: u32 = match word.parse() {
        Ok(vmid) if call.layout().conf_path(vmid).exists() => vmid,
        _ => return Err(Stop::die(format!("unable to find VM '{word}'"))),
    };
    let begin = second_of_its_own(call, vmid, target);
    let running = call.node.is_running(vmid);
    info(call, &format!("Starting Backup of VM {vmid} (lxc)"))?;
    info(call, &format!("Backup started at {}", human(begin)))?;
    info(
        call,
        &format!("status = {}", if running { "running" } else { "stopped" }),
    )?;
    let config = {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let mut config = pmxcfs::load(call.layout(), vmid)?;
        pmxcfs::check_lock(&config)?;
        let before = config.clone();
        config.current.set("lock", "backup");
        pmxcfs::save(call.layout(), vmid, &config)?;
        before
    };
    let result = locked(call, vmid, &config, target, running, begin);
    // After a power loss (`half_create`) it stays; of a killed one it is gone.
    if !matches!(result, Err(Stop::Half(_))) {
        unlock(call.layout(), vmid)?;
    }
    call.at_death = None;
    result
}

fn unlock(layout: &Layout, vmid: u32) -> Result<(), Stop> {
    let mut config = pmxcfs::load(layout, vmid)?;
    if config.current.get("lock") == Some("backup") {
        config.current.remove("lock");
        pmxcfs::save(layout, vmid, &config)?;
    }
    Ok(())
}

fn locked(
    call: &mut Call<'_>,
    vmid: u32,
    config: &CtConfig,
    target: &Target,
    running: bool,
    begin: u64,
) -> Result<(), Stop> {
    let mode = mode(call, vmid, config, running)?;
    let place = target.place(call, vmid, begin);
    let (layout, left) = (call.layout().clone(), place.clone());
    call.at_death = Some(Box::new(move || {
        // Nobody is left to hear of an error.
        let _ = unlock(&layout, vmid);
        if mode == Mode::Suspend {
            left.give_up();
        }
    }));
    place.begin().map_err(|error| Stop::die(error.to_string()))?;
    let packed = still(call, vmid, config, &place, mode, running).and_then(|()| pack(call, vmid, config, &place, mode));
    if mode == Mode::Snapshot && packed.as_ref().err().is_none_or(Stop::undoes) {
        info(call, &format!("cleanup temporary '{SNAPSHOT}' snapshot"))?;
        snapshot::drop_locked(call, vmid, SNAPSHOT)?;
    }
    let bytes = match packed {
        Ok(bytes) => bytes,
        Err(stop) => {
            if stop.undoes() {
                place.give_up();
                restart(call, vmid, mode, running, begin)?;
            }
            return Err(stop);
        }
    };
    info(
        call,
        &format!("Total bytes written: {bytes} ({}MiB, 100MiB/s)", bytes >> 20),
    )?;
    let size = std::fs::metadata(&place.temporary).map_or(0, |meta| meta.len());
    info(call, &format!("archive file size: {}MB", size >> 20))?;
    let notes = call.args.get("notes-template").map(|template| {
        let notes = template
            .replace("{{guestname}}", &show::name(config, vmid))
            .replace("{{node}}", &call.layout().info().name)
            .replace("{{vmid}}", &vmid.to_string());
        notes.replace("\\n", "\n")
    });
    place
        .complete(notes, &format!("Backup started at {}\n", human(begin)))
        .map_err(|error| Stop::die(error.to_string()))?;
    prune::prune(call, vmid, target.storage())?;
    restart(call, vmid, mode, running, begin)?;
    let end_s = now_s(call.node.clock.as_ref());
    let took = end_s.saturating_sub(begin);
    info(
        call,
        &format!(
            "Finished Backup of VM {vmid} ({:02}:{:02}:{:02})",
            took / 3600,
            took / 60 % 60,
            took % 60
        ),
    )?;
    info(call, &format!("Backup finished at {}", human(end_s)))
}

/// How it is done; what the storage cannot do falls back to suspend mode, with words.
fn mode(call: &mut Call<'_>, vmid: u32, config: &CtConfig, running: bool) -> Result<Mode, Stop> {
    let wanted = call.args.get("mode").unwrap_or("snapshot").to_owned();
    let mut mode = match wanted.as_str() {
        _ if !running => Mode::Stop,
        "stop" => Mode::Stop,
        "suspend" => Mode::Suspend,
        _ => Mode::Snapshot,
    };
    if mode == Mode::Snapshot {
        volumes(call, vmid, config)?;
        let mut storages = Vec::new();
        for (_, volume) in config.current.volumes() {
            storages.push(storage::find(
                call.layout(),
                volume.split(':').next().unwrap_or_default(),
            )?);
        }
        if storages.iter().all(storage::Storage::copies_through_snapshots) {
            if config.snapshots.contains_key(SNAPSHOT) {
                info(call, "found old vzdump snapshot (force removal)")?;
                snapshot::drop_locked(call, vmid, SNAPSHOT)?;
            }
            info(call, "backup mode: snapshot")?;
            info(call, "ionice priority: 7")?;
            return Ok(mode);
        }
        if storages.iter().all(|storage| storage.kind == "btrfs") {
            info(call, "backup mode: snapshot")?;
            info(call, "ionice priority: 7")?;
            info(call, &format!("create storage snapshot '{SNAPSHOT}'"))?;
            snapshot::make_locked(call, vmid, SNAPSHOT, "vzdump backup snapshot")?;
            plain(call, "umount: /mnt/vzsnap0/: not mounted.")?;
            plain(call, "command 'umount -l -d /mnt/vzsnap0/' failed: exit code 32")?;
            // The snapshot stays.
            return Err(Stop::die("cannot mount subvol snapshots for storage type 'btrfs'"));
        }
        info(call, "mode failure - some volumes do not support snapshots")?;
        info(call, "trying 'suspend' mode instead")?;
        mode = Mode::Suspend;
    }
    let word = if mode == Mode::Stop { "stop" } else { "suspend" };
    info(call, &format!("backup mode: {word}"))?;
    info(call, "ionice priority: 7")?;
    volumes(call, vmid, config)?;
    Ok(mode)
}

/// Keeps the container still, or makes a snapshot of it.
fn still(
    call: &mut Call<'_>,
    vmid: u32,
    config: &CtConfig,
    place: &Place,
    mode: Mode,
    running: bool,
) -> Result<(), Stop> {
    match mode {
        Mode::Snapshot => {
            info(call, &format!("create storage snapshot '{SNAPSHOT}'"))?;
            snapshot::make_locked(call, vmid, SNAPSHOT, "vzdump backup snapshot")?;
        }
        Mode::Suspend => {
            let pid = call
                .with_ct(vmid, &config.current, |body, ct| body.figures(ct))
                .map_or(0, |figures| figures.init_pid);
            let to = call.layout().node_path(&place.work);
            info(call, &format!("starting first sync /proc/{pid}/root/ to {to}"))?;
            info(call, "first sync finished - transferred 160.81M bytes in 0s")?;
            info(call, "suspending guest")?;
            info(call, &format!("starting final sync /proc/{pid}/root/ to {to}"))?;
            info(call, "final sync finished - transferred 0 bytes in 0s")?;
            info(call, "resuming guest")?;
            info(call, "guest is online again after <1 seconds")?;
        }
        Mode::Stop if running => {
            info(call, "stopping virtual guest")?;
            call.with_ct(vmid, &config.current, |body, ct| {
                body.shutdown(ct, Duration::from_secs(600))
            })?;
        }
        Mode::Stop => {}
    }
    info(call, &format!("creating {} archive '{}'", place.kind, place.shown))
}

fn pack(call: &mut Call<'_>, vmid: u32, config: &CtConfig, place: &Place, mode: Mode) -> Result<u64, Stop> {
    std::fs::write(&place.temporary, "").map_err(|error| Stop::die(error.to_string()))?;
    call.point(At::Middle)?;
    let text = CtConfig {
        current: config.current.clone(),
        ..CtConfig::default()
    }
    .render();
    let packing = Packing {
        config: &text,
        squeezer: place.squeezer,
        snapshot: (mode == Mode::Snapshot).then_some(SNAPSHOT),
    };
    Ok(call.with_ct(vmid, &config.current, |body, ct| {
        body.pack(ct, &place.temporary, &packing)
    })?)
}

/// A guest that was stopped for its backup runs again.
/// When it begins. The real one takes more than a second from its begin to its end, and names its archive by the second: no two of a guest have one name.
fn second_of_its_own(call: &Call<'_>, vmid: u32, target: &Target) -> u64 {
    let clock = call.node.clock.as_ref();
    loop {
        let begin = now_s(clock);
        if !target.place(call, vmid, begin).archive.exists() {
            return begin;
        }
        clock.sleep(Duration::from_millis(20));
    }
}

fn restart(call: &mut Call<'_>, vmid: u32, mode: Mode, running: bool, begin: u64) -> Result<(), Stop> {
    if mode != Mode::Stop || !running || call.node.is_running(vmid) {
        return Ok(());
    }
    info(call, "restarting vm")?;
    power::start_locked(call, vmid, true)?;
    let seconds = now_s(call.node.clock.as_ref()).saturating_sub(begin);
    info(call, &format!("guest is online again after {seconds} seconds"))
}

fn volumes(call: &mut Call<'_>, vmid: u32, config: &CtConfig) -> Result<(), Stop> {
    info(call, &format!("CT Name: {}", show::name(config, vmid)))?;
    for (key, value) in &config.current.values {
        if key == "rootfs" {
            info(call, "including mount point rootfs ('/') in backup")?;
        } else if numbered(key, "mp").is_some() {
            let mount = Properties::parse(value, "volume");
            let path = mount.get("mp").unwrap_or_default().to_owned();
            let words = if mount.get("backup") == Some("1") {
                format!("including mount point {key} ('{path}') in backup")
            } else {
                format!("excluding volume mount point {key} ('{path}') from backup (disabled)")
            };
            info(call, &words)?;
        }
    }
    Ok(())
}
