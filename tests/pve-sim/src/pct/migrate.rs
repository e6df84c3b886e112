//! `pct migrate` to another node of the cluster: stopped containers, and running ones with `--restart` (PVE::LXC::Migrate). Local volumes of `dir` storages
//! are copied, shared ones stay where they are, then the configuration moves: from that moment the container is on the other node.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::body::Shutdown;
use crate::call::{Call, Stop};
use crate::clock::{human, now_s};
use crate::cluster::{Cluster, Member};
use crate::conf::CtConfig;
use crate::ha;
use crate::layout::Layout;
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::node::Node;
use crate::options::command;
use crate::pmxcfs;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;

pub(super) fn migrate(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    let target = call.args.required("target").to_owned();
    if target == call.layout().info().name {
        let usage = command("pct", "migrate")
            .map(|spec| spec.usage("pct", "migrate"))
            .unwrap_or_default();
        return Err(Stop::parameters(
            &[("target".to_owned(), "target is local node.".to_owned())].into(),
            &usage,
        ));
    }
    pmxcfs::check_quorum(call.layout())?;
    let unknown = || Stop::die(format!("no such cluster node '{target}'"));
    let cluster = Cluster::of(call.layout()).ok_or_else(unknown)?;
    let info = cluster.info().map_err(|error| Stop::die(error.to_string()))?;
    let member = info.member(&target).cloned().ok_or_else(unknown)?;
    let reachable = info.sees(&call.layout().info().name, &target);
    if call.args.get("target-storage").is_some() {
        return Err(Stop::NotSimulated("--target-storage".to_owned()));
    }
    pmxcfs::load(call.layout(), vmid)?;
    let running = call.node.is_running(vmid);
    if running && !call.args.flag("online") && !call.args.flag("restart") {
        return Err(Stop::die(
            "can't migrate running container without --online or --restart",
        ));
    }
    if !call.node.by_ha && ha::is_managed(call.layout(), vmid)? {
        return worker(call, "hamigrate", &vmid.to_string(), |call| {
            call.say(&format!("Requesting HA migration for CT {vmid} to node {target}"))?;
            call.point(At::Middle)?;
            ha::command(call.layout(), &format!("migrate {} {target}", ha::sid(vmid)))
        })
        .map(drop);
    }
    worker(call, "vzmigrate", &vmid.to_string(), |call| {
        let begin = now_s(call.node.clock.as_ref());
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let result = moves(call, vmid, &member, reachable);
        let took = human(now_s(call.node.clock.as_ref()).saturating_sub(begin));
        let took = took.split(' ').next_back().unwrap_or_default().to_owned();
        match result {
            Ok(()) => log(call, &format!("migration finished successfully (duration {took})")),
            Err(stop @ (Stop::Killed | Stop::Half(_))) => Err(stop),
            Err(stop) => {
                log(
                    call,
                    &format!("ERROR: migration aborted (duration {took}): {}", stop.text()),
                )?;
                Err(Stop::die("migration aborted"))
            }
        }
    })
    .map(drop)
}

fn log(call: &mut Call<'_>, text: &str) -> Result<(), Stop> {
    let time = human(now_s(call.node.clock.as_ref()));
    call.say(&format!("{time} {text}"))
}

fn moves(call: &mut Call<'_>, vmid: u32, to: &Member, reachable: bool) -> Result<(), Stop> {
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    pmxcfs::check_lock(&config)?;
    let running = call.node.is_running(vmid);
    if running && call.args.flag("online") {
        return Err(Stop::die("lxc live migration is currently not implemented"));
    }
    if !reachable {
        return Err(Stop::die("Can't connect to destination address using public key"));
    }
    if running {
        log(call, &format!("shutdown CT {vmid}"))?;
        let timeout = call
            .args
            .get("timeout")
            .and_then(|text| text.parse().ok())
            .unwrap_or(180);
        let ended = call.with_ct(vmid, &config.current, |body, ct| {
            body.shutdown(ct, Duration::from_secs(timeout))
        })?;
        if ended == Shutdown::StillRunning {
            return Err(Stop::die("container did not stop"));
        }
    }
    config.current.set("lock", "migrate");
    pmxcfs::save(call.layout(), vmid, &config)?;
    let copied = match copies(call, vmid, to, &config) {
        Ok(copied) => copied,
        Err(stop) if !stop.undoes() => return Err(stop),
        Err(stop) => {
            log(call, "aborting phase 1 - cleanup resources")?;
            log(call, "start final cleanup")?;
            config.current.remove("lock");
            pmxcfs::save(call.layout(), vmid, &config)?;
            if running {
                log(call, "start container on source node")?;
                call.with_ct(vmid, &config.current, |body, ct| body.start(ct))?;
            }
            return Err(stop);
        }
    };
    // The copies here go after the configuration has gone.
    for volume in &copied {
        storage::free(call.layout(), volume)?;
    }
    log(call, "start final cleanup")?;
    there(call, to, &["unlock", &vmid.to_string()])?;
    if running {
        log(call, "start container on target node")?;
        there(call, to, &["start", &vmid.to_string()])?;
    }
    Ok(())
}

/// Copies what is local, and gives the configuration away. Answers the volumes that were copied.
fn copies(call: &mut Call<'_>, vmid: u32, to: &Member, config: &CtConfig) -> Result<Vec<String>, Stop> {
    log(
        call,
        &format!("starting migration of CT {vmid} to node '{}' ({})", to.name, to.address),
    )?;
    let there = Layout::open(&to.root).map_err(|error| Stop::die(error.to_string()))?;
    let mut local = Vec::new();
    for (_, volume) in config.current.volumes() {
        let id = volume.split(':').next().unwrap_or_default().to_owned();
        let storage = storage::find(call.layout(), &id)?;
        if storage.is_shared() {
            log(call, &format!("volume '{volume}' is on shared storage '{id}'"))?;
        } else if storage.kind == "dir" {
            log(call, &format!("found local volume '{volume}' (in current VM config)"))?;
            local.push(volume);
        } else {
            log(
                call,
                &format!(
                    "can't migrate local volume '{volume}': storage type '{}' not supported",
                    storage.kind
                ),
            )?;
            return Err(Stop::die("can't migrate CT - check log"));
        }
    }
    call.point(At::Middle)?;
    for volume in &local {
        let (from, to) = (
            storage::path_of(call.layout(), volume)?,
            storage::path_of(&there, volume)?,
        );
        copy(&from, &to).map_err(|error| Stop::die(format!("storage migration for '{volume}' failed - {error}")))?;
    }
    let own = call.layout().info().name.clone();
    pmxcfs::give_to(call.layout(), vmid, &own, &to.name).map_err(|error| {
        Stop::die(format!(
            "Failed to move config to node '{}' - rename failed: {error}",
            to.name
        ))
    })?;
    Ok(local)
}

/// An image is all hole: its size is what counts.
fn copy(from: &PathBuf, to: &PathBuf) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create(to)?.set_len(fs::metadata(from)?.len())
}

/// Runs `pct` on the other node, as the real tool does by ssh.
fn there(call: &mut Call<'_>, to: &Member, words: &[&str]) -> Result<(), Stop> {
    let node = Node::open(&to.root).map_err(|error| Stop::die(error.to_string()))?;
    let mut node = node.with_clock(call.node.clock.clone());
    node.by_ha = call.node.by_ha;
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = node.run("pct", &words, &mut out, &mut err);
    let said = format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err));
    for line in said.lines() {
        call.say(line)?;
    }
    if code == 0 {
        return Ok(());
    }
    Err(Stop::die(format!(
        "command '/usr/bin/ssh -e none -o 'HostKeyAlias={}' root@{} pct {}' failed: exit code {code}",
        to.name,
        to.address,
        words.join(" ")
    )))
}
