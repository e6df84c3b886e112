//! `pct start`, `stop`, `shutdown`, `reboot`, `suspend`. Each is a worker task; the functions answer its UPID.
//!
//! Of a container that HA manages the first three only queue a request (PVE::API2::LXC::Status): the tool ends at once, and HA acts later. `reboot` does
//! not ask HA.

use std::time::Duration;

use crate::body::Shutdown;
use crate::call::{Call, Stop};
use crate::conf::{CtConfig, numbered};
use crate::ha;
use crate::locks::{CONFIG_LOCK_TIMEOUT, config_lock};
use crate::pct::settings;
use crate::pmxcfs;
use crate::script::At;
use crate::storage;
use crate::tasks::worker;

pub(crate) fn start(call: &mut Call<'_>, vmid: u32) -> Result<String, Stop> {
    if call.node.is_running(vmid) {
        return Err(Stop::die(format!("CT {vmid} already running")));
    }
    pmxcfs::check_quorum(call.layout())?;
    if asks_ha(call, vmid)? {
        return worker(call, "hastart", &vmid.to_string(), |call| {
            call.say(&format!("Requesting HA start for CT {vmid}"))?;
            call.point(At::Middle)?;
            ha::request_state(call.layout(), &ha::sid(vmid), "started")
        })
        .map(|(upid, ())| upid);
    }
    let skip_lock = call.args.flag("skiplock");
    worker(call, "vzstart", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        start_locked(call, vmid, skip_lock)
    })
    .map(|(upid, ())| upid)
}

/// Under the configuration lock: checks, pending values, then the body.
pub(crate) fn start_locked(call: &mut Call<'_>, vmid: u32, skip_lock: bool) -> Result<(), Stop> {
    let mut config = pmxcfs::load(call.layout(), vmid)?;
    if config.current.flag("template") {
        return Err(Stop::die("you can't start a CT if it's a template"));
    }
    if !skip_lock {
        pmxcfs::check_lock(&config)?;
    }
    if call.node.is_running(vmid) {
        return Err(Stop::die(format!("CT {vmid} already running")));
    }
    for (_, net) in config.current.networks() {
        if let Some(bridge) = net.get("bridge")
            && !call.layout().info().bridges.iter().any(|known| known == bridge)
        {
            return Err(Stop::die(format!("bridge '{bridge}' does not exist")));
        }
    }
    check_volumes(call, vmid, &config)?;
    if settings::apply_pending(&mut config) {
        pmxcfs::save(call.layout(), vmid, &config)?;
    }
    call.point(At::Middle)?;
    call.with_ct(vmid, &config.current, |body, ct| body.start(ct))?;
    Ok(())
}

/// Whether HA has to be asked; what HA itself calls does it.
fn asks_ha(call: &Call<'_>, vmid: u32) -> Result<bool, Stop> {
    Ok(!call.node.by_ha && ha::is_managed(call.layout(), vmid)?)
}

fn ha_stop(call: &mut Call<'_>, vmid: u32, timeout_s: u64) -> Result<String, Stop> {
    worker(call, "hastop", &vmid.to_string(), |call| {
        call.say(&format!("Requesting HA stop for CT {vmid}"))?;
        call.point(At::Middle)?;
        ha::command(call.layout(), &format!("stop {} {timeout_s}", ha::sid(vmid)))
    })
    .map(|(upid, ())| upid)
}

pub(crate) fn stop(call: &mut Call<'_>, vmid: u32) -> Result<String, Stop> {
    if !call.node.is_running(vmid) {
        return Err(Stop::die(format!("CT {vmid} not running")));
    }
    if asks_ha(call, vmid)? {
        return ha_stop(call, vmid, 0);
    }
    let skip_lock = call.args.flag("skiplock");
    worker(call, "vzstop", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        let config = pmxcfs::load(call.layout(), vmid)?;
        if !skip_lock {
            pmxcfs::check_lock(&config)?;
        }
        call.point(At::Middle)?;
        call.with_ct(vmid, &config.current, |body, ct| body.stop(ct))?;
        Ok(())
    })
    .map(|(upid, ())| upid)
}

/// A container that came from another node finds its volumes there only on shared storages.
fn check_volumes(call: &Call<'_>, vmid: u32, config: &CtConfig) -> Result<(), Stop> {
    if call.layout().info().cluster.is_none() {
        return Ok(());
    }
    for (key, volume) in config.current.volumes() {
        if numbered(&key, "unused").is_none() && !storage::path_of(call.layout(), &volume)?.exists() {
            return Err(Stop::die(format!(
                "startup for container '{vmid}' failed: volume '{volume}' does not exist"
            )));
        }
    }
    Ok(())
}

pub(crate) fn shutdown(call: &mut Call<'_>, vmid: u32) -> Result<String, Stop> {
    if !call.node.is_running(vmid) {
        return Err(Stop::die(format!("CT {vmid} not running")));
    }
    let timeout_s: u64 = call
        .args
        .get("timeout")
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    if asks_ha(call, vmid)? {
        return ha_stop(call, vmid, timeout_s);
    }
    let force = call.args.flag("forceStop");
    worker(call, "vzshutdown", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        shutdown_locked(call, vmid, timeout_s, force)
    })
    .map(|(upid, ())| upid)
}

fn shutdown_locked(call: &mut Call<'_>, vmid: u32, timeout_s: u64, force: bool) -> Result<(), Stop> {
    let config = pmxcfs::load(call.layout(), vmid)?;
    pmxcfs::check_lock(&config)?;
    call.point(At::Middle)?;
    let timeout = Duration::from_secs(timeout_s);
    match call.with_ct(vmid, &config.current, |body, ct| body.shutdown(ct, timeout))? {
        Shutdown::Stopped => Ok(()),
        Shutdown::StillRunning if force => Ok(call.with_ct(vmid, &config.current, |body, ct| body.stop(ct))?),
        Shutdown::StillRunning => {
            call.complain(&format!(
                "command 'lxc-stop -n {vmid} --nokill --timeout {timeout_s}' failed: exit code 1"
            ));
            Err(Stop::die("container did not stop"))
        }
    }
}

pub(crate) fn reboot(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    if !call.node.is_running(vmid) {
        return Err(Stop::die(format!("CT {vmid} not running")));
    }
    let timeout_s: u64 = call
        .args
        .get("timeout")
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    worker(call, "vzreboot", &vmid.to_string(), |call| {
        let _lock = config_lock(call, vmid, CONFIG_LOCK_TIMEOUT)?;
        shutdown_locked(call, vmid, timeout_s, true)?;
        start_locked(call, vmid, false)
    })
    .map(drop)
}

/// Needs criu, which no Proxmox has: it always fails.
pub(crate) fn suspend(call: &mut Call<'_>, vmid: u32) -> Result<(), Stop> {
    if !call.node.is_running(vmid) {
        return Err(Stop::die(format!("CT {vmid} not running")));
    }
    worker(call, "vzsuspend", &vmid.to_string(), |call| {
        call.say(&format!(
            "lxc-checkpoint: {vmid}: ../src/lxc/criu.c: criu_version_ok: 767 No such file or directory - execing criu failed, is it installed?"
        ))?;
        call.say(&format!("lxc-checkpoint: {vmid}: ../src/lxc/tools/lxc_checkpoint.c: checkpoint: 182 Checkpointing {vmid} failed"))?;
        Err::<(), Stop>(Stop::die(format!("command 'lxc-checkpoint -n {vmid} -s -D /var/lib/vz/dump' failed: exit code 1")))
    })
    .map(drop)
}
