//! `vzdump`: backups of containers to a directory storage, in the modes stop, suspend, snapshot.
//!
//! The configuration that the real archive holds inside lies beside the simulated one, as `.<name>.conf`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::call::{Call, Stop};
use crate::clock::{human, in_file_name, now_s};
use crate::conf::{CtConfig, Properties, numbered};
use crate::layout::Layout;
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock, try_lock};
use crate::options::command;
use crate::pct::{power, show};
use crate::pmxcfs;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;

const LOCK: &str = "/var/run/vzdump.lock";

fn sidecar(archive: &Path) -> PathBuf {
    let name = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    archive.with_file_name(format!(".{name}.conf"))
}

/// The files that belong to an archive: configuration, log, notes.
pub(crate) fn companions(archive: &Path) -> Vec<PathBuf> {
    let name = archive
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let stem = name.split(".tar").next().unwrap_or(&name).to_owned();
    vec![
        sidecar(archive),
        archive.with_file_name(format!("{stem}.log")),
        archive.with_file_name(format!("{name}.notes")),
    ]
}

/// The container's configuration as the backup holds it.
pub(crate) fn saved_config(archive: &Path) -> Result<CtConfig, Stop> {
    fs::read_to_string(sidecar(archive))
        .map(|text| CtConfig::parse(&text))
        .map_err(|_| Stop::die("unable to extract configuration: the archive is none of pve-sim's"))
}

/// A logged line: `INFO: …` on stdout and in the archive's log.
fn log(call: &mut Call<'_>, quiet: bool, level: &str, text: &str) -> Result<(), Stop> {
    if quiet {
        Ok(())
    } else {
        call.say(&format!("{level}: {text}"))
    }
}

fn log_plain(call: &mut Call<'_>, quiet: bool, text: &str) -> Result<(), Stop> {
    if quiet { Ok(()) } else { call.say(text) }
}

pub(crate) fn run(call: &mut Call<'_>, argv: &[String]) -> Result<(), Stop> {
    let Some(spec) = command("vzdump", "") else {
        return Err(Stop::NotSimulated("vzdump".to_owned()));
    };
    call.args = spec.parse("vzdump", "", argv)?;
    if call.args.rest.is_empty() {
        if call.args.flag("all") || call.args.get("pool").is_some() {
            return Err(Stop::NotSimulated("vzdump --all and --pool".to_owned()));
        }
        let problems = [("vmid".to_owned(), "property is missing".to_owned())].into();
        return Err(Stop::parameters(&problems, "vzdump {<vmid>} [OPTIONS]"));
    }
    for option in ["script", "stdout", "job-id", "fleecing", "stop", "exclude-path"] {
        if call.args.get(option).is_some() {
            return Err(Stop::NotSimulated(format!("vzdump --{option}")));
        }
    }
    call.vmid = call.args.rest.first().and_then(|word| word.parse().ok());
    call.point(At::Before)?;
    let folder = target_folder(call)?;
    let id = if call.args.rest.len() == 1 {
        call.args.rest[0].clone()
    } else {
        String::new()
    };
    let quiet = call.args.flag("quiet");
    let vmids = call.args.rest.clone();
    let shown: Vec<String> = argv.to_vec();
    let result = worker(call, "vzdump", &id, |call| {
        let _lock = global_lock(call)?;
        log(
            call,
            quiet,
            "INFO",
            &format!("starting new backup job: vzdump {}", shown.join(" ")),
        )?;
        let mut failed = false;
        for word in &vmids {
            match backup(call, word, &folder, quiet) {
                Ok(()) => {}
                Err(stop) if !stop.undoes() => return Err(stop),
                Err(stop) => {
                    failed = true;
                    let end = human(now_s(call.node.clock.as_ref()));
                    log(
                        call,
                        quiet,
                        "ERROR",
                        &format!("Backup of VM {word} failed - {}", stop.text()),
                    )?;
                    log(call, quiet, "INFO", &format!("Failed at {end}"))?;
                }
            }
        }
        if failed {
            log(call, quiet, "INFO", "Backup job finished with errors")?;
            return Err(Stop::die("job errors"));
        }
        log(call, quiet, "INFO", "Backup job finished successfully")
    });
    result?;
    call.point(At::After)
}

fn target_folder(call: &Call<'_>) -> Result<(Option<String>, PathBuf), Stop> {
    if let Some(folder) = call.args.get("dumpdir") {
        let path = PathBuf::from(folder);
        return if path.is_dir() {
            Ok((None, path))
        } else {
            Err(Stop::die(format!("dumpdir '{folder}' does not exist")))
        };
    }
    let id = call.args.get("storage").unwrap_or("local").to_owned();
    let storage = storage::find(call.layout(), &id)?;
    if !storage.content.iter().any(|content| content == "backup") {
        return Err(Stop::die(format!(
            "could not get storage information for '{id}': storage '{id}' does not support backups"
        )));
    }
    let folder = call.layout().host_path(&storage.path).join("dump");
    fs::create_dir_all(&folder).map_err(|error| Stop::die(error.to_string()))?;
    Ok((Some(id), folder))
}

/// One vzdump per node; a second waits `--lockwait` minutes.
fn global_lock(call: &mut Call<'_>) -> Result<fs::File, Stop> {
    let path = call.layout().host_path(LOCK);
    let wait_min: u64 = call
        .args
        .get("lockwait")
        .and_then(|text| text.parse().ok())
        .unwrap_or(180);
    let failed = |error: io::Error| Stop::die(format!("can't open lock '{LOCK}': {error}"));
    if let Some(file) = try_lock(&path).map_err(failed)? {
        return Ok(file);
    }
    if wait_min == 0 {
        call.say(&format!("ERROR: can't acquire lock '{LOCK}' (wait = 0)"))?;
        return Err(Stop::die("got unexpected control message:  "));
    }
    call.say("INFO: trying to get global lock - waiting...")?;
    let until = call.node.clock.now_ms() + wait_min * 60_000;
    while call.node.clock.now_ms() < until {
        call.check_signals()?;
        call.node.clock.sleep(Duration::from_millis(200));
        if let Some(file) = try_lock(&path).map_err(failed)? {
            call.say("INFO: got global lock")?;
            return Ok(file);
        }
    }
    call.say(&format!("ERROR: can't acquire lock '{LOCK}' - got timeout"))?;
    Err(Stop::die("got unexpected control message:  "))
}

/// Releases `lock: backup` unless the tool was killed.
fn unlock(call: &Call<'_>, vmid: u32) -> Result<(), Stop> {
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    if config.current.get("lock") == Some("backup") {
        config.current.remove("lock");
        pmxcfs::save(call.layout(), vmid, &config)?;
    }
    Ok(())
}

fn backup(call: &mut Call<'_>, word: &str, folder: &(Option<String>, PathBuf), quiet: bool) -> Result<(), Stop> {
    let vmid: u32 = match word.parse() {
        Ok(vmid) if call.layout().conf_path(vmid).exists() => vmid,
        _ => return Err(Stop::die(format!("unable to find VM '{word}'"))),
    };
    let begin = now_s(call.node.clock.as_ref());
    let running = call.node.is_running(vmid);
    log(call, quiet, "INFO", &format!("Starting Backup of VM {vmid} (lxc)"))?;
    log(call, quiet, "INFO", &format!("Backup started at {}", human(begin)))?;
    log(
        call,
        quiet,
        "INFO",
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
    let result = locked_backup(call, vmid, &config, folder, running, begin, quiet);
    if result.as_ref().err().is_none_or(Stop::undoes) {
        unlock(call, vmid)?;
    }
    result
}

fn locked_backup(
    call: &mut Call<'_>,
    vmid: u32,
    config: &CtConfig,
    (storage_id, folder): &(Option<String>, PathBuf),
    running: bool,
    begin: u64,
    quiet: bool,
) -> Result<(), Stop> {
    let wanted = call.args.get("mode").unwrap_or("snapshot").to_owned();
    let mut mode = if running { wanted.as_str() } else { "stop" };
    if mode == "snapshot" {
        volumes(call, vmid, config, quiet)?;
        let mut kinds = Vec::new();
        for (_, volume) in config.current.volumes() {
            kinds.push(storage::find(call.layout(), volume.split(':').next().unwrap_or_default())?.kind);
        }
        if kinds.iter().all(|kind| kind == "btrfs") {
            log(call, quiet, "INFO", "backup mode: snapshot")?;
            log(call, quiet, "INFO", "ionice priority: 7")?;
            log(call, quiet, "INFO", "create storage snapshot 'vzdump'")?;
            log_plain(call, quiet, "umount: /mnt/vzsnap0/: not mounted.")?;
            log_plain(call, quiet, "command 'umount -l -d /mnt/vzsnap0/' failed: exit code 32")?;
            return Err(Stop::die("cannot mount subvol snapshots for storage type 'btrfs'"));
        }
        log(
            call,
            quiet,
            "INFO",
            "mode failure - some volumes do not support snapshots",
        )?;
        log(call, quiet, "INFO", "trying 'suspend' mode instead")?;
        mode = "suspend";
    }
    log(call, quiet, "INFO", &format!("backup mode: {mode}"))?;
    log(call, quiet, "INFO", "ionice priority: 7")?;
    volumes(call, vmid, config, quiet)?;
    let end = match call.args.get("compress").unwrap_or("0") {
        "zstd" => "tar.zst",
        "gzip" | "1" => "tar.gz",
        "lzo" => "tar.lzo",
        _ => "tar",
    };
    let stem = format!("vzdump-lxc-{vmid}-{}", in_file_name(begin));
    let archive = folder.join(format!("{stem}.{end}"));
    let temporary = folder.join(format!("{stem}.tar.dat"));
    let work = folder.join(format!("{stem}.tmp"));
    fs::create_dir_all(&work).map_err(|error| Stop::die(error.to_string()))?;
    let shown = call.layout().node_path(&archive);
    if mode == "suspend" {
        let pid = call
            .with_ct(vmid, &config.current, |body, ct| body.figures(ct))
            .map_or(0, |figures| figures.init_pid);
        let to = call.layout().node_path(&work);
        log(
            call,
            quiet,
            "INFO",
            &format!("starting first sync /proc/{pid}/root/ to {to}"),
        )?;
        log(
            call,
            quiet,
            "INFO",
            "first sync finished - transferred 160.81M bytes in 0s",
        )?;
        log(call, quiet, "INFO", "suspending guest")?;
        log(
            call,
            quiet,
            "INFO",
            &format!("starting final sync /proc/{pid}/root/ to {to}"),
        )?;
        log(call, quiet, "INFO", "final sync finished - transferred 0 bytes in 0s")?;
        log(call, quiet, "INFO", "resuming guest")?;
        log(call, quiet, "INFO", "guest is online again after <1 seconds")?;
    } else if running {
        log(call, quiet, "INFO", "stopping virtual guest")?;
        call.with_ct(vmid, &config.current, |body, ct| {
            body.shutdown(ct, Duration::from_secs(600))
        })?;
    }
    log(call, quiet, "INFO", &format!("creating vzdump archive '{shown}'"))?;
    let written: Result<u64, Stop> = (|| {
        fs::write(&temporary, "").map_err(|error| Stop::die(error.to_string()))?;
        call.point(At::Middle)?;
        Ok(call.with_ct(vmid, &config.current, |body, ct| body.pack(ct, &temporary))?)
    })();
    let restart = |call: &mut Call<'_>| -> Result<(), Stop> {
        if mode == "stop" && running && !call.node.is_running(vmid) {
            log(call, quiet, "INFO", "restarting vm")?;
            power::start_locked(call, vmid, true)?;
            let seconds = now_s(call.node.clock.as_ref()).saturating_sub(begin);
            log(
                call,
                quiet,
                "INFO",
                &format!("guest is online again after {seconds} seconds"),
            )?;
        }
        Ok(())
    };
    let bytes: u64 = match written {
        Ok(bytes) => bytes,
        Err(stop) => {
            if stop.undoes() {
                // What is left of the attempt may already be gone.
                let _ = fs::remove_file(&temporary);
                let _ = fs::remove_dir_all(&work);
                restart(call)?;
            }
            return Err(stop);
        }
    };
    log(
        call,
        quiet,
        "INFO",
        &format!("Total bytes written: {bytes} ({}MiB, 100MiB/s)", bytes >> 20),
    )?;
    let size = fs::metadata(&temporary).map_or(0, |meta| meta.len());
    log(call, quiet, "INFO", &format!("archive file size: {}MB", size >> 20))?;
    let text = CtConfig {
        current: config.current.clone(),
        ..CtConfig::default()
    }
    .render();
    fs::write(sidecar(&archive), text)
        .and_then(|()| fs::rename(&temporary, &archive))
        .and_then(|()| fs::remove_dir_all(&work))
        .map_err(|error| Stop::die(error.to_string()))?;
    if let Some(notes) = call.args.get("notes-template") {
        let notes = notes
            .replace("{{guestname}}", &show::name(config, vmid))
            .replace("{{vmid}}", &vmid.to_string());
        fs::write(folder.join(format!("{stem}.{end}.notes")), format!("{notes}\n"))
            .map_err(|error| Stop::die(error.to_string()))?;
    }
    prune(call, vmid, storage_id.as_deref(), quiet)?;
    restart(call)?;
    let end_s = now_s(call.node.clock.as_ref());
    let took = end_s.saturating_sub(begin);
    log(
        call,
        quiet,
        "INFO",
        &format!(
            "Finished Backup of VM {vmid} ({:02}:{:02}:{:02})",
            took / 3600,
            took / 60 % 60,
            took % 60
        ),
    )?;
    log(call, quiet, "INFO", &format!("Backup finished at {}", human(end_s)))?;
    fs::write(
        folder.join(format!("{stem}.log")),
        format!("Backup finished at {}\n", human(end_s)),
    )
    .map_err(|error| Stop::die(error.to_string()))
}

fn volumes(call: &mut Call<'_>, vmid: u32, config: &CtConfig, quiet: bool) -> Result<(), Stop> {
    log(call, quiet, "INFO", &format!("CT Name: {}", show::name(config, vmid)))?;
    for (key, value) in &config.current.values {
        if key == "rootfs" {
            log(call, quiet, "INFO", "including mount point rootfs ('/') in backup")?;
        } else if numbered(key, "mp").is_some() {
            let mount = Properties::parse(value, "volume");
            let path = mount.get("mp").unwrap_or_default().to_owned();
            if mount.get("backup") == Some("1") {
                log(
                    call,
                    quiet,
                    "INFO",
                    &format!("including mount point {key} ('{path}') in backup"),
                )?;
            } else {
                log(
                    call,
                    quiet,
                    "INFO",
                    &format!("excluding volume mount point {key} ('{path}') from backup (disabled)"),
                )?;
            }
        }
    }
    Ok(())
}

/// `--prune-backups keep-last=N`, unless `--remove 0`.
fn prune(call: &mut Call<'_>, vmid: u32, storage_id: Option<&str>, quiet: bool) -> Result<(), Stop> {
    let (Some(id), Some(rule)) = (storage_id, call.args.get("prune-backups").map(str::to_owned)) else {
        return Ok(());
    };
    if call.args.get("remove") == Some("0") || rule == "keep-all=1" {
        return Ok(());
    }
    let Some(keep) = rule
        .strip_prefix("keep-last=")
        .and_then(|number| number.parse::<usize>().ok())
    else {
        return Err(Stop::NotSimulated(format!("--prune-backups {rule}")));
    };
    log(
        call,
        quiet,
        "INFO",
        &format!("prune older backups with retention: {rule}"),
    )?;
    let layout: Layout = call.layout().clone();
    let held = storage::find(&layout, id)?
        .volumes(&layout)
        .map_err(|error| Stop::die(error.to_string()))?;
    let backups: Vec<_> = held
        .into_iter()
        .filter(|volume| volume.content == "backup" && volume.vmid == Some(vmid))
        .collect();
    let surplus = backups.len().saturating_sub(keep);
    for volume in &backups[..surplus] {
        log(call, quiet, "INFO", &format!("removing backup '{}'", volume.volid))?;
        storage::free(&layout, &volume.volid)?;
        for companion in companions(&volume.path) {
            // Companions may be missing.
            let _ = fs::remove_file(companion);
        }
    }
    log(
        call,
        quiet,
        "INFO",
        &format!("pruned {surplus} backup(s) not covered by keep-retention policy"),
    )
}
